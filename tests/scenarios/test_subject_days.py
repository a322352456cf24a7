"""The repository of a run, lost or corrupted: made again with the same commits. Real repositories throughout."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from researcher.errors import SubjectDamaged, SubjectError
from researcher.journal.reader import JournalReader
from researcher.journal.records import State
from researcher.journal.writer import Journal
from researcher.loop.context import RunContext
from researcher.repository.commits import Planned
from researcher.repository.creation import create_repository
from researcher.repository.earlier_runs import COPY
from researcher.repository.git_command import damage
from researcher.repository.recovery import keep_copy, open_subject
from researcher.repository.repository import GitState, Workspace
from tests.fixtures.loop_in_process import level, opened, run_listed
from tests.fixtures.scripted_run import ScriptedRun

BRANCH = "overnight/night"
FILES = {"train.py": "A = 1\n", "prepare.py": "B = 1\n", "program.md": "Better.\n", "why.txt": "because\n"}


def git(path: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, text=True, check=True)
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


def lose(path: Path) -> None:
    shutil.rmtree(path / ".git")


def newest_object(path: Path) -> Path:
    files = [item for item in (path / ".git" / "objects").glob("??/*") if item.is_file()]
    found = max(files, key=lambda item: item.stat().st_mtime_ns)
    found.chmod(0o644)
    return found


def empty_object(path: Path) -> None:
    newest_object(path).write_bytes(b"")


def empty_base_object(path: Path) -> None:
    """Of a file that no candidate changes."""
    name = git(path, "rev-parse", "HEAD:prepare.py")
    file = path / ".git" / "objects" / name[:2] / name[2:]
    file.chmod(0o644)
    file.write_bytes(b"")


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
            empty_object, empty_base_object, spoil_object, cut_branch, empty_branch, cut_packed_refs, empty_head,
            spoil_config, spoil_index, empty_index, lose_index, lose_all,
        )
    ),
)  # fmt: skip


def assert_whole(scripted_run: ScriptedRun, count: int) -> None:
    """Every experiment has its commit under its ref, and git finds nothing wrong."""
    with closing(Journal(scripted_run.journal)) as journal:
        measured = [item for item in journal.experiments() if not item.is_baseline]
        run = journal.run()
    assert [item.state for item in measured] == [State.APPLIED] * count
    assert run is not None
    for item in measured:
        assert git(scripted_run.subject, "rev-parse", f"refs/{BRANCH}/{item.number}") == item.commit_sha
    assert damage(scripted_run.subject) is None
    assert git(scripted_run.subject, "status", "--porcelain") == ""
    assert git(scripted_run.subject, "branch", "--show-current") == BRANCH


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_repository_lost_during_a_run_is_made_again_with_the_same_commits(
    loss: Callable[[Path], None], scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()

    run_listed(
        scripted_run, [level(1.75), lambda run_context: loss(run_context.workspace.path), level(1.9), level(1.7)]
    )

    assert_whole(scripted_run, 3)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_repository_lost_between_two_starts_is_made_again_with_the_same_commits(
    loss: Callable[[Path], None], scripted_run: ScriptedRun
) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75), level(1.9)])
    loss(scripted_run.subject)

    run_listed(scripted_run, [level(1.7)])

    assert_whole(scripted_run, 3)


def test_what_was_broken_is_kept_aside_and_named_to_whoever_watches(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.75), lambda run_context: spoil_object(run_context.workspace.path), level(1.7)])

    assert_whole(scripted_run, 2)
    aside = scripted_run.subject / ".git.broken-1"
    assert aside.is_dir()
    with closing(Workspace(scripted_run.subject)) as workspace:
        assert str(aside) in workspace.inspect()


def held(reasons: list[str], mended: Callable[[], object]) -> Callable[[RunContext, object, str], None]:
    """What a hold is given as its reason, and a person who reads it and does something."""

    def hold(_: RunContext, __: object, reason: str) -> None:
        reasons.append(reason)
        mended()

    return hold


def test_a_lost_repository_without_a_copy_holds_the_run_until_a_backup_is_back(
    scripted_run: ScriptedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons: list[str] = []

    def break_both(run_context: RunContext) -> None:
        shutil.copytree(scripted_run.subject / ".git", tmp_path / "backup")
        shutil.rmtree(scripted_run.journal / COPY)
        lose(run_context.workspace.path)

    def bring_back() -> None:
        shutil.rmtree(scripted_run.subject / ".git", ignore_errors=True)
        shutil.copytree(tmp_path / "backup", scripted_run.subject / ".git")

    scripted_run.start_trainer()
    monkeypatch.setattr(RunContext, "hold", held(reasons, bring_back))

    run_listed(scripted_run, [level(1.75), break_both, level(1.7)])

    assert_whole(scripted_run, 2)
    assert (scripted_run.journal / COPY).exists()
    (reason,) = reasons
    assert f"cannot be made again from {scripted_run.journal / COPY}: there is none" in reason
    assert f"Next: put a backup of {scripted_run.subject / '.git'} back" in reason


def test_a_start_without_repository_and_copy_says_what_to_do(scripted_run: ScriptedRun) -> None:
    with opened(scripted_run, []):
        pass
    lose(scripted_run.subject)

    with closing(Journal(scripted_run.journal)) as journal, pytest.raises(SubjectError, match="Next: put a backup"):
        open_subject(scripted_run.subject, journal)


@pytest.mark.parametrize("blocker", ["refs/tags/confirmed", "refs/overnight/night", "results.tsv"])
def test_a_ref_or_a_folder_in_the_way_refuses_the_run_before_it_is_written_down(
    scripted_run: ScriptedRun, blocker: str
) -> None:
    if blocker.startswith("refs/"):
        git(scripted_run.subject, "update-ref", blocker, "HEAD")
    else:
        (scripted_run.subject / blocker).mkdir()
        (scripted_run.subject / blocker / "old").write_text("x")
        git(scripted_run.subject, "add", "--force", ".")
        git(scripted_run.subject, "-c", "user.name=T", "-c", "user.email=t@e", "commit", "--quiet", "-m", "folder")

    assert scripted_run.start_researcher(EXPERIMENTS=1).wait(30) == 2

    assert blocker in scripted_run.output()
    with JournalReader(scripted_run.journal) as history:
        assert history.run() is None


def test_a_commit_made_again_that_is_not_the_journals_is_refused_and_no_ref_names_it(workspace: Workspace) -> None:
    plan = Planned(f"refs/{BRANCH}/1", workspace.head(), "A = 2\n", "try", at=1.0)

    with pytest.raises(SubjectDamaged, match=rf"refs/{BRANCH}/1 is lost, and what the journal makes of it is"):
        workspace.commit_again(plan, "1" * 40)

    assert workspace.candidates(BRANCH) == {}


def test_a_copy_that_is_broken_is_made_anew(scripted_run: ScriptedRun) -> None:
    with opened(scripted_run, []) as run_context:
        keep_copy(scripted_run.subject, run_context.journal)
        (scripted_run.journal / COPY / "HEAD").write_text("")

        keep_copy(scripted_run.subject, run_context.journal)

    assert damage(scripted_run.journal / COPY) is None


def test_a_copy_that_cannot_be_written_is_said_and_stops_nothing(
    scripted_run: ScriptedRun, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(scripted_run, []) as run_context:
        (scripted_run.journal / f"{COPY}.partial").write_text("in the way")

        keep_copy(scripted_run.subject, run_context.journal)

    assert f"no copy of {scripted_run.subject}" in caplog.text
    assert not (scripted_run.journal / COPY).exists()
