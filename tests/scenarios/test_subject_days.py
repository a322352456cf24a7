"""Bad days of the subject: people who work in it while a night does, and a repository that is lost or corrupted.

Real repositories throughout; each day ends with what was said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from researcher.errors import SubjectDamaged, SubjectError
from researcher.journal.records import State
from researcher.journal.writer import Journal
from researcher.loop.context import Lab
from researcher.loop.status import SUBJECT as SAYS_SUBJECT
from researcher.loop.status import Voice
from researcher.repository.commits import Planned
from researcher.repository.recovery import COPY, keep_copy, open_subject
from researcher.repository.repository import GitState, Workspace, create_repository, damage
from tests.fixtures.loop_in_process import level, opened, tell
from tests.fixtures.scripted_run import ScriptedNight

BRANCH = "overnight/night"
FILES = {"train.py": "A = 1\n", "prepare.py": "B = 1\n", "program.md": "Better.\n", "why.txt": "because\n"}
MINE = "A = 'my own idea'\n"


def git(path: Path, *arguments: str, code: int = 0) -> str:
    """What a person types; with somebody's name, and no editor."""
    person = {
        "GIT_AUTHOR_NAME": "P",
        "GIT_AUTHOR_EMAIL": "p@p",
        "GIT_COMMITTER_NAME": "P",
        "GIT_COMMITTER_EMAIL": "p@p",
    }
    done = subprocess.run(
        ["git", "-C", str(path), *arguments],
        env=os.environ | person | {"GIT_EDITOR": "true"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout.strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_repository(tmp_path / "subject", FILES, "The subject")
    return tmp_path / "subject"


@pytest.fixture
def workspace(path: Path) -> Iterator[Workspace]:
    with closing(Workspace(path)) as made:
        made.restore(GitState(BRANCH, made.head()))
        yield made


def candidate(workspace: Workspace, number: int, parent: str) -> str:
    plan = Planned(f"refs/{BRANCH}/{number}", parent, f"A = {number + 1}\n", f"try {number}", at=number)
    return workspace.commit_candidate(BRANCH, plan)


def seen(path: Path) -> dict[str, bytes]:
    """Every file that a person sees."""
    files = (item for item in path.rglob("*") if item.is_file() and ".git" not in item.relative_to(path).parts)
    return {str(item.relative_to(path)): item.read_bytes() for item in files}


def edit(name: str) -> Callable[[Path], None]:
    def day(path: Path) -> None:
        (path / name).write_text(MINE)

    return day


def stage(path: Path) -> None:
    edit("train.py")(path)
    git(path, "add", "train.py")
    edit("prepare.py")(path)


def commit(path: Path) -> None:
    edit("train.py")(path)
    git(path, "commit", "--quiet", "-a", "-m", "mine")


def amend(path: Path) -> None:
    edit("train.py")(path)
    git(path, "commit", "--quiet", "-a", "--amend", "-m", "mine")


def remove(path: Path) -> None:
    git(path, "rm", "--quiet", "why.txt")


def check_out_main(path: Path) -> None:
    git(path, "checkout", "--quiet", "main")
    edit("train.py")(path)


def detach(path: Path) -> None:
    git(path, "checkout", "--quiet", "--detach", "HEAD")


def merge(path: Path) -> None:
    git(path, "checkout", "--quiet", "-b", "side", "main")
    commit(path)
    git(path, "checkout", "--quiet", BRANCH)
    git(path, "merge", "--quiet", "side", code=1)


def rebase(path: Path) -> None:
    merge(path)
    git(path, "merge", "--abort")
    git(path, "rebase", "--quiet", "side", code=1)


DAYS = {
    "edit": (edit("train.py"), "train.py in {path} was edited by hand; the night goes on beside it"),
    "fixed": (edit("prepare.py"), "prepare.py in {path} was edited by hand"),
    "stage": (stage, "prepare.py train.py in {path} was edited by hand"),
    "remove": (remove, "why.txt in {path} was edited by hand"),
    "commit": (commit, "branch by-hand/night-1, with what was committed by hand, is checked out in {path}"),
    "amend": (amend, "branch by-hand/night-1, with what was committed by hand, is checked out in {path}"),
    "branch": (check_out_main, "branch main is checked out in {path}; the night goes on beside it, on overnight/night"),
    "detach": (detach, "is checked out in {path}; the night goes on beside it"),
    "merge": (merge, "train.py in {path} was edited by hand"),
    "rebase": (rebase, "a rebase is under way in {path}; the night goes on beside it"),
}


@pytest.mark.parametrize("day", DAYS)
def test_what_people_do_in_the_subject_stays_as_it_is_and_is_said(day: str, workspace: Workspace, path: Path) -> None:
    begin, words = DAYS[day]
    base = workspace.head()
    first = candidate(workspace, 1, base)
    begin(path)
    theirs, head = seen(path), git(path, "rev-parse", "HEAD")

    second = candidate(workspace, 2, first)
    workspace.settle(first)
    said = workspace.look()
    workspace.restore(GitState(BRANCH, second))

    assert seen(path) == theirs
    assert git(path, "rev-parse", "HEAD") == head
    assert workspace.files(second)["train.py"] == "A = 3\n"
    assert git(path, "rev-parse", f"refs/{BRANCH}/2") == second
    if day != "rebase":  # its branch must not move under it
        assert git(path, "rev-parse", BRANCH) == second
    assert words.format(path=path) in said
    assert workspace.look() == said


@pytest.mark.parametrize("name", ["train.py", "prepare.py"])
def test_an_edit_that_is_taken_back_as_it_was_said_gives_the_files_to_the_night_again(
    name: str, workspace: Workspace, path: Path
) -> None:
    first = candidate(workspace, 1, workspace.head())
    edit(name)(path)
    second = candidate(workspace, 2, first)

    said = workspace.look()
    git(path, *said.rpartition(f"git -C {path} ")[2].rstrip("`").split())

    assert workspace.look() == ""
    assert (path / "train.py").read_text() == "A = 3\n"
    assert git(path, "rev-parse", "HEAD") == second
    assert git(path, "branch", "--show-current") == BRANCH
    assert git(path, "status", "--porcelain") == ""
    assert git(path, "branch", "--list", "by-hand/*") == ""


def test_an_edited_train_py_is_told_how_to_be_measured(workspace: Workspace, path: Path) -> None:
    edit("train.py")(path)

    assert f"`overnight submit {path / 'train.py'}`" in workspace.look()


@pytest.mark.parametrize("made", [commit, amend])
def test_a_commit_made_by_hand_keeps_a_branch_of_its_own_and_the_nights_history_stays_true(
    made: Callable[[Path], None], workspace: Workspace, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = candidate(workspace, 1, workspace.head())
    made(path)
    theirs = git(path, "rev-parse", "HEAD")

    candidate(workspace, 2, first)
    workspace.settle(first)

    assert git(path, "rev-parse", BRANCH) == first
    assert git(path, "branch", "--contains", theirs, "--format=%(refname:short)") == "by-hand/night-1"
    git(path, "checkout", "--quiet", BRANCH)
    assert workspace.look() == ""
    assert git(path, "rev-parse", "by-hand/night-1") == theirs
    assert f"commit {theirs[:7]}, made by hand on {BRANCH} in {path}, is kept as by-hand/night-1" in caplog.text


@pytest.mark.parametrize("name", ["train.py", "prepare.py"])
def test_a_needed_file_that_was_deleted_is_brought_back(
    name: str, workspace: Workspace, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    candidate(workspace, 1, workspace.head())
    (path / name).unlink()

    assert workspace.look() == ""

    assert git(path, "status", "--porcelain") == ""
    assert f"{name} was deleted from {path} and is back" in caplog.text


def test_a_git_command_of_somebodys_is_not_disturbed_and_what_a_dead_one_left_is_removed(
    workspace: Workspace, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lock = path / ".git" / "index.lock"
    lock.touch()

    first = candidate(workspace, 1, workspace.head())
    said = workspace.look()
    os.utime(lock, (1.0, 1.0))

    assert workspace.look() == ""
    assert git(path, "rev-parse", "HEAD") == first
    assert f"a git command is under way in {path}; the night goes on beside it" in said
    assert f"removing {lock}" in caplog.text


def test_a_look_that_finds_nothing_changes_nothing(workspace: Workspace, path: Path) -> None:
    candidate(workspace, 1, workspace.head())
    before = git(path, "reflog"), (path / ".git" / "index").stat().st_ino

    assert workspace.look() == ""

    assert (git(path, "reflog"), (path / ".git" / "index").stat().st_ino) == before


def test_what_was_done_by_hand_is_repeated_to_whoever_watches(night: ScriptedNight) -> None:
    with closing(Workspace(night.subject)) as workspace:
        workspace.restore(GitState(BRANCH, workspace.head()))
        edit("train.py")(night.subject)

        Voice(night.bus, lambda: None, workspace.look).repeat()

    assert "was edited by hand" in (night.bus.doing(SAYS_SUBJECT) or "")


# A repository that is lost


def lose(path: Path) -> None:
    shutil.rmtree(path / ".git")


def newest_object(path: Path) -> Path:
    files = [item for item in (path / ".git" / "objects").glob("??/*") if item.is_file()]
    found = max(files, key=lambda item: item.stat().st_mtime_ns)
    found.chmod(0o644)
    return found


def empty_object(path: Path) -> None:
    newest_object(path).write_bytes(b"")


def spoil_object(path: Path) -> None:
    newest_object(path).write_bytes(b"garbage")


def cut_branch(path: Path) -> None:
    (path / ".git" / "refs" / "heads" / BRANCH).write_text("12ab")


def empty_branch(path: Path) -> None:
    (path / ".git" / "refs" / "heads" / BRANCH).write_text("")


def cut_packed_refs(path: Path) -> None:
    git(path, "pack-refs", "--all")
    packed = path / ".git" / "packed-refs"
    packed.write_bytes(packed.read_bytes()[:-60])


def empty_head(path: Path) -> None:
    (path / ".git" / "HEAD").write_text("")


def spoil_config(path: Path) -> None:
    (path / ".git" / "config").write_text("[core")


def spoil_index(path: Path) -> None:
    (path / ".git" / "index").write_bytes(b"garbage")


def empty_index(path: Path) -> None:
    (path / ".git" / "index").write_bytes(b"")


def lose_index(path: Path) -> None:
    (path / ".git" / "index").unlink()


def lose_all(path: Path) -> None:
    shutil.rmtree(path)


LOSSES = (
    lose,
    *(
        pytest.param(loss, marks=pytest.mark.slow)
        for loss in (
            empty_object, spoil_object, cut_branch, empty_branch, cut_packed_refs, empty_head, spoil_config,
            spoil_index, empty_index, lose_index, lose_all,
        )
    ),
)  # fmt: skip


def assert_whole(night: ScriptedNight, count: int) -> None:
    """Every experiment has its commit under its ref, and git finds nothing wrong."""
    with closing(Journal(night.journal)) as journal:
        measured = [item for item in journal.experiments() if not item.is_baseline]
        run = journal.run()
    assert [item.state for item in measured] == [State.APPLIED] * count
    assert run is not None
    for item in measured:
        assert git(night.subject, "rev-parse", f"refs/{BRANCH}/{item.number}") == item.commit_sha
    assert damage(night.subject) is None
    assert git(night.subject, "status", "--porcelain") == ""
    assert git(night.subject, "branch", "--show-current") == BRANCH


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_repository_lost_during_a_night_is_made_again_with_the_same_commits(
    loss: Callable[[Path], None], night: ScriptedNight, caplog: pytest.LogCaptureFixture
) -> None:
    night.start_trainer()

    tell(night, [level(1.75), lambda lab: loss(lab.workspace.path), level(1.9), level(1.7)])

    assert_whole(night, 3)
    assert "made again" in caplog.text


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_repository_lost_between_two_starts_is_made_again_with_the_same_commits(
    loss: Callable[[Path], None], night: ScriptedNight, caplog: pytest.LogCaptureFixture
) -> None:
    night.start_trainer()
    tell(night, [level(1.75), level(1.9)])
    loss(night.subject)

    tell(night, [level(1.7)])

    assert_whole(night, 3)
    assert "made again" in caplog.text


def test_an_edit_by_hand_outlives_the_loss_of_the_repository(
    night: ScriptedNight, caplog: pytest.LogCaptureFixture
) -> None:
    def edit_and_lose(lab: Lab) -> None:
        edit("train.py")(lab.workspace.path)
        lose(lab.workspace.path)

    night.start_trainer()

    tell(night, [level(1.75), edit_and_lose, level(1.7)])

    assert (night.subject / "train.py").read_text() == MINE
    assert damage(night.subject) is None
    assert f"train.py in {night.subject} was edited by hand" in caplog.text


def held(reasons: list[str], mended: Callable[[], object]) -> Callable[[Lab, object, str], None]:
    """What a hold is given as its reason, and a person who reads it and does something."""

    def hold(_: Lab, __: object, reason: str) -> None:
        reasons.append(reason)
        mended()

    return hold


def test_a_lost_repository_without_a_copy_holds_the_night_until_a_backup_is_back(
    night: ScriptedNight, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []

    def break_both(lab: Lab) -> None:
        shutil.copytree(night.subject / ".git", tmp_path / "backup")
        shutil.rmtree(night.journal / COPY)
        lose(lab.workspace.path)

    def bring_back() -> None:
        shutil.rmtree(night.subject / ".git", ignore_errors=True)
        shutil.copytree(tmp_path / "backup", night.subject / ".git")

    night.start_trainer()
    monkeypatch.setattr(Lab, "hold", held(reasons, bring_back))

    tell(night, [level(1.75), break_both, level(1.7)])

    assert_whole(night, 2)
    assert (night.journal / COPY).exists()
    (reason,) = reasons
    assert f"cannot be made again from {night.journal / COPY}: there is none" in reason
    assert f"Next: put a backup of {night.subject / '.git'} back" in reason


def test_a_start_without_repository_and_copy_says_what_to_do(night: ScriptedNight) -> None:
    with opened(night, []):
        pass
    lose(night.subject)

    with closing(Journal(night.journal)) as journal, pytest.raises(SubjectError, match="Next: put a backup"):
        open_subject(night.subject, journal)


def test_a_commit_made_again_that_is_not_the_journals_is_refused_and_no_ref_names_it(workspace: Workspace) -> None:
    plan = Planned(f"refs/{BRANCH}/1", workspace.head(), "A = 2\n", "try", at=1.0)

    with pytest.raises(SubjectDamaged, match=rf"refs/{BRANCH}/1 is lost, and what the journal makes of it is"):
        workspace.commit_again(plan, "1" * 40)

    assert workspace.candidates(BRANCH) == {}


def test_a_copy_that_is_broken_is_made_anew(
    workspace: Workspace, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keep_copy(path, tmp_path)
    (tmp_path / COPY / "HEAD").write_text("")
    candidate(workspace, 1, workspace.head())

    keep_copy(path, tmp_path)
    keep_copy(path, tmp_path)

    assert f"no fresh copy of {path} in {tmp_path / COPY}" in caplog.text
    assert git(tmp_path / COPY, "rev-parse", f"refs/heads/{BRANCH}") == git(path, "rev-parse", "HEAD")
