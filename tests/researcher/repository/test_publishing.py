"""The user's own repository: a run begins with its commit and pushes results there, and disturbs nothing.

Real repositories, made by the git command of a user who has hooks, filters, signatures and templates.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from researcher.errors import SubjectError
from researcher.journal.records import Prices, Run
from researcher.journal.writer import Journal
from researcher.loop.status import SUBJECT as SAYS_SUBJECT
from researcher.loop.status import StatusPublisher
from researcher.repository import publishing
from researcher.repository.commits import Planned
from researcher.repository.earlier_runs import COPY
from researcher.repository.publishing import Pushed, UserRepository
from researcher.repository.recovery import open_subject
from researcher.repository.repository import GitState
from tests.fixtures.disks import Disk
from tests.fixtures.loop_in_process import level, run_listed
from tests.fixtures.scripted_run import ScriptedRun

BRANCH = "overnight/night"
FILES = {"train.py": "A = 1\n", "prepare.py": "B = 1\n", "program.md": "Better.\n", "results.tsv": "mine\n"}
HOOKS = (
    "applypatch-msg", "commit-msg", "fsmonitor-watchman", "post-applypatch", "post-checkout", "post-commit",
    "post-index-change", "post-merge", "post-receive", "post-rewrite", "post-update", "pre-applypatch",
    "pre-auto-gc", "pre-commit", "pre-merge-commit", "prepare-commit-msg", "pre-push", "pre-rebase", "pre-receive",
    "proc-receive", "push-to-checkout", "reference-transaction", "sendemail-validate", "update",
)  # fmt: skip


def git(path: Path, *arguments: str, code: int = 0) -> str:
    """What a person types; with somebody's name, and no editor."""
    person = {f"GIT_{role}_{what}": "p@p" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["git", "-C", str(path), *arguments],
        env=os.environ | person | {"GIT_EDITOR": "true"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout.strip()


def made_by_a_user(path: Path, files: dict[str, str] = FILES) -> Path:
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    for name, text in files.items():
        (path / name).write_text(text)
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "mine")
    return path


def commit(path: Path, source: str = "A = 'mine'\n") -> str:
    (path / "train.py").write_text(source)
    git(path, "commit", "--quiet", "-a", "-m", "mine")
    return git(path, "rev-parse", "HEAD")


def untouched(path: Path) -> dict[str, tuple[bytes, int]]:
    """Everything of a repository that a push has no business with: files, index, HEAD, configuration, other refs."""
    ours = (".git/objects", f".git/refs/heads/{BRANCH}", f".git/logs/refs/heads/{BRANCH}", ".git/refs/overnight")
    files = {str(item.relative_to(path)): item for item in path.rglob("*") if item.is_file()}
    return {
        name: (item.read_bytes(), item.stat().st_mtime_ns)
        for name, item in files.items()
        if not name.startswith((*ours, ".git/refs/tags/confirmed", ".git/logs/refs/overnight"))
    }


class Own:
    """A run in a repository of its own, pushed to the user's."""

    def __init__(self, folder: Path, theirs: Path) -> None:
        self.journal, self.user = Journal(folder / "journal"), UserRepository(theirs)
        self.workspace = open_subject(folder / "own", self.journal, self.user)
        self.path, self.base = folder / "own", self.workspace.head()
        self.run: Run = self.journal.start_run(
            tag="night", profile="cpu", budget=15.0, branch=BRANCH, base_commit=self.base, data_sha256="d" * 64,
            seed=7, prices=Prices(), source=FILES["train.py"], fingerprint="f", at=1.0, seed_key=None,
        )  # fmt: skip
        self.workspace.restore(GitState(BRANCH, self.base))

    def close(self) -> None:
        self.workspace.close()
        self.journal.close()

    def keep(self, number: int, parent: str | None = None) -> str:
        """A candidate that is kept, confirmed and pushed."""
        plan = Planned(f"refs/{BRANCH}/{number}", parent or self.base, f"A = {number + 1}\n", "try", at=number)
        commit = self.workspace.commit_candidate(BRANCH, plan)
        self.workspace.checkout(commit)
        self.workspace.tag_confirmed("night", number, commit)
        self.workspace.publish(self.run, commit)
        return commit


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return made_by_a_user(tmp_path / "theirs")


@pytest.fixture
def own(tmp_path: Path, theirs: Path) -> Iterator[Own]:
    with closing(Own(tmp_path, theirs)) as begun:
        yield begun


def test_a_run_begins_with_the_users_commit_and_pushes_its_branch_tags_and_refs(own: Own, theirs: Path) -> None:
    before = untouched(theirs)

    first = own.keep(1)
    second = own.keep(2, first)

    assert own.base == git(theirs, "rev-parse", "main")
    assert (own.path / "train.py").read_text() == "A = 3\n"
    assert git(theirs, "rev-parse", BRANCH, f"refs/{BRANCH}/1", "confirmed/2").split() == [second, first, second]
    assert git(theirs, "log", "--format=%s", BRANCH).splitlines() == ["try", "try", "mine"]
    assert own.user.message == own.workspace.inspect() == ""
    assert untouched(theirs) == before
    assert git(theirs, "status", "--porcelain") == git(theirs, "fsck") == ""


@pytest.mark.parametrize("revision", ["{0}", "{0}^{{tree}}", "{0}:train.py", "{1}", "{1}^{{tree}}", "{1}:prepare.py"])
def test_an_empty_object_of_the_run_in_the_users_repository_is_written_again_at_the_next_start(
    own: Own, theirs: Path, revision: str
) -> None:
    first = own.keep(1)
    name = git(theirs, "rev-parse", revision.format(first, own.base))
    file = theirs / ".git" / "objects" / name[:2] / name[2:]
    file.chmod(0o644)
    file.write_bytes(b"")
    next_start = UserRepository(theirs)

    next_start.push(Pushed(own.path, BRANCH, own.base, first))

    assert next_start.message == ""
    assert git(theirs, "fsck") == ""
    assert git(theirs, "cat-file", "-p", f"{BRANCH}:train.py") == "A = 2"


def test_nothing_of_the_user_is_run(tmp_path: Path, theirs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks of the repository and of the user, templates, filters, a signing program and a monitor leave a mark."""
    mark, program = tmp_path / "ran", tmp_path / "program"
    program.write_text(f'#!/bin/sh\necho "$0 $*" >>{mark}\ncat\n')
    program.chmod(0o755)
    for hooks in (theirs / ".git" / "hooks", tmp_path / "template" / "hooks", tmp_path / "hooks"):
        hooks.mkdir(parents=True, exist_ok=True)
        for name in HOOKS:
            shutil.copy(program, hooks / name)
    settings = {
        "filter.shout.clean": program, "filter.shout.smudge": program, "filter.shout.required": "true",
        "core.fsmonitor": program, "gpg.program": program, "commit.gpgSign": "true", "tag.gpgSign": "true",
        "uploadpack.packObjectsHook": program, "core.alternateRefsCommand": program, "core.pager": program,
    }  # fmt: skip
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitattributes").write_text("* filter=shout\n")
    users = {"core.hooksPath": tmp_path / "hooks", "core.attributesFile": home / ".gitattributes",
             "init.templateDir": tmp_path / "template", "init.defaultObjectFormat": "sha256"}  # fmt: skip
    (theirs / ".gitattributes").write_text("*.py filter=shout\n")
    git(theirs, "add", ".gitattributes")
    git(theirs, "commit", "--quiet", "-m", "filters")
    for name, value in settings.items():
        git(theirs, "config", name, str(value))
    (theirs / "train.py").touch()  # git would have to read it again, through the filter
    monkeypatch.setenv("HOME", str(home))
    for name, value in (settings | users).items():
        git(theirs, "config", "--global", name, str(value))
    mark.unlink(missing_ok=True)

    with closing(Own(tmp_path, theirs)) as own:
        own.workspace.require_clean()
        commit = own.keep(1)

    assert not mark.exists(), mark.read_text()
    assert own.user.commit_of(BRANCH) == commit
    git(theirs, "status")
    assert mark.exists(), "the traps work"


def check_out(theirs: Path, _: Path) -> None:
    git(theirs, "checkout", "--quiet", BRANCH)


def add_worktree(theirs: Path, folder: Path) -> None:
    git(theirs, "worktree", "add", "--quiet", str(folder / "second"), BRANCH)


def rebase(theirs: Path, _: Path) -> None:
    commit(theirs)
    git(theirs, "checkout", "--quiet", BRANCH)
    git(theirs, "rebase", "--quiet", "main", code=1)


def leave(theirs: Path, folder: Path) -> None:
    if (folder / "second").exists():
        git(theirs, "worktree", "remove", str(folder / "second"))
    if (theirs / ".git" / "rebase-merge").exists():
        git(theirs, "rebase", "--abort")
    git(theirs, "checkout", "--quiet", "main")


@pytest.mark.parametrize("take", [check_out, add_worktree, rebase], ids=lambda take: take.__name__)
def test_a_branch_that_is_checked_out_stays_as_it_is_and_moves_once_it_is_not(
    take: Callable[[Path, Path], None], own: Own, theirs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = own.keep(1)
    take(theirs, tmp_path)
    before = untouched(theirs)

    second = own.keep(2, first)
    own.keep(2, first)

    assert git(theirs, "rev-parse", BRANCH, "confirmed/2", f"refs/{BRANCH}/2").split() == [first, second, second]
    assert untouched(theirs) == before
    assert BRANCH in own.workspace.inspect()
    assert len([each for each in caplog.records if "stays as it is" in each.message]) == 1
    leave(theirs, tmp_path)
    assert own.workspace.inspect() == ""
    assert git(theirs, "rev-parse", BRANCH) == second


def test_a_commit_of_the_user_on_the_branch_of_the_run_keeps_its_branch(own: Own, theirs: Path) -> None:
    first = own.keep(1)
    git(theirs, "checkout", "--quiet", BRANCH)
    mine = commit(theirs)
    git(theirs, "checkout", "--quiet", "main")

    second = own.keep(2, first)

    assert git(theirs, "rev-parse", BRANCH) == mine
    said = own.workspace.inspect()
    git(theirs, *said.rpartition(f"git -C {theirs} ")[2].rstrip("`").split())
    assert own.workspace.inspect() == ""
    assert git(theirs, "rev-parse", BRANCH, "mine").split() == [second, mine]


def test_what_the_user_commits_meanwhile_disturbs_nothing_and_is_not_disturbed(own: Own, theirs: Path) -> None:
    first = own.keep(1)
    mine = commit(theirs)
    (theirs / "train.py").write_text("A = 'not yet committed'\n")
    (theirs / "program.md").write_text("Mind the memory.\n")

    own.keep(2, first)

    assert own.workspace.inspect() == ""
    assert git(theirs, "rev-parse", "HEAD") == mine
    assert git(theirs, "merge-base", "main", BRANCH) == own.base
    assert (theirs / "train.py").read_text() == "A = 'not yet committed'\n"
    assert own.workspace.program() == "Mind the memory.\n"


def test_tables_and_pictures_of_the_run_are_not_the_users_files_of_that_name(own: Own, theirs: Path) -> None:
    (own.path / "results.tsv").write_text("ours\n")

    own.keep(1)

    assert (theirs / "results.tsv").read_text() == "mine\n"
    assert not (theirs / "progress.png").exists()


def test_refs_that_the_user_deletes_come_back(own: Own, theirs: Path) -> None:
    first = own.keep(1)
    git(theirs, "branch", "--quiet", "-D", BRANCH)
    git(theirs, "tag", "-d", "confirmed/1")

    own.workspace.publish(own.run, first)

    assert git(theirs, "rev-parse", BRANCH, "confirmed/1").split() == [first, first]


def test_a_push_reads_only_the_refs_that_are_new_and_now_and_then_all_of_them(
    own: Own, theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "ALL_COMPARED_EVERY", 4)
    old = own.keep(1)
    git(theirs, "update-ref", "-d", f"refs/{BRANCH}/1")

    known = [old, own.keep(2, old)]
    assert git(theirs, "for-each-ref", "--format=%(refname)", f"refs/{BRANCH}/") == f"refs/{BRANCH}/2"
    known += [own.keep(3, known[-1])]
    known += [own.keep(4, known[-1])]
    known += [own.keep(5, known[-1])]

    names = [f"refs/{BRANCH}/{number}" for number in range(1, 6)]
    assert git(theirs, "rev-parse", *names, BRANCH, "confirmed/5").split() == [*known, known[-1], known[-1]]
    assert own.user.message == ""


def test_a_branch_that_stays_checked_out_keeps_no_new_ref_from_being_pushed(own: Own, theirs: Path) -> None:
    first = own.keep(1)
    git(theirs, "checkout", "--quiet", BRANCH)

    second = own.keep(2, first)
    third = own.keep(3, second)

    assert git(theirs, "rev-parse", BRANCH, f"refs/{BRANCH}/2", f"refs/{BRANCH}/3").split() == [first, second, third]
    git(theirs, "checkout", "--quiet", "main")
    own.workspace.publish(own.run, third)
    assert git(theirs, "rev-parse", BRANCH) == third
    assert own.user.message == ""


def test_the_tag_of_another_run_stays_and_ours_gets_the_runs_name(own: Own, theirs: Path) -> None:
    git(theirs, "tag", "confirmed/1", "main")

    first = own.keep(1)

    assert git(theirs, "rev-parse", "confirmed/1", "confirmed/night-1").split() == [own.base, first]


def test_a_ref_in_the_way_keeps_nothing_else_from_being_pushed(own: Own, theirs: Path) -> None:
    git(theirs, "tag", "confirmed", "main")

    first = own.keep(1)

    assert git(theirs, "rev-parse", BRANCH, f"refs/{BRANCH}/1").split() == [first, first]
    assert own.user.message != ""
    git(theirs, "tag", "-d", "confirmed")
    assert own.workspace.inspect() == ""
    assert git(theirs, "rev-parse", "confirmed/1") == first


def move_away(theirs: Path) -> Callable[[], object]:
    away = theirs.with_name("away")
    theirs.rename(away)
    return lambda: away.rename(theirs)


def damage_head(theirs: Path) -> Callable[[], object]:
    head = theirs / ".git" / "HEAD"
    text = head.read_text()
    head.write_text("")
    return lambda: head.write_text(text)


def replace_by_a_file(theirs: Path) -> Callable[[], object]:
    moved = theirs / ".git" / "objects"
    moved.rename(theirs / ".git" / "objects.away")
    moved.write_text("")

    def bring_back() -> None:
        moved.unlink()
        (theirs / ".git" / "objects.away").rename(moved)

    return bring_back


@pytest.mark.parametrize("lose", [move_away, damage_head, replace_by_a_file], ids=lambda lose: lose.__name__)
def test_a_repository_that_is_away_or_damaged_is_said_once_and_gets_all_once_it_is_back(
    lose: Callable[[Path], Callable[[], object]], own: Own, theirs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = own.keep(1)
    bring_back = lose(theirs)

    second = own.keep(2, first)
    own.keep(2, first)

    assert str(theirs) in own.workspace.inspect()
    assert own.workspace.program() == FILES["program.md"]
    assert len([each for each in caplog.records if "pushes again later" in each.message]) == 1
    bring_back()
    assert own.workspace.inspect() == ""
    assert git(theirs, "rev-parse", BRANCH, "confirmed/2").split() == [second, second]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", "4m")
    yield made
    made.remove()


def test_a_repository_that_is_read_only_gets_all_once_it_is_not(tmp_path: Path, disk: Disk) -> None:
    theirs = made_by_a_user(disk.folder / "theirs")
    with closing(Own(tmp_path, theirs)) as own:
        disk.make_read_only()
        first = own.keep(1)

        assert "Read-only" in own.workspace.inspect()
        disk.make_writable()
        assert own.workspace.inspect() == ""

    assert git(theirs, "rev-parse", BRANCH) == first


def test_uncommitted_work_of_the_user_is_refused_by_name_and_stays(own: Own, theirs: Path) -> None:
    (theirs / "train.py").write_text("my unsaved idea")

    with pytest.raises(SubjectError, match=r"train\.py"):
        own.workspace.require_clean()

    assert (theirs / "train.py").read_text() == "my unsaved idea"


def test_a_shallow_repository_with_links_and_modes_is_taken_as_it_is(tmp_path: Path, theirs: Path) -> None:
    commit(theirs)
    (theirs / "link").symlink_to("train.py")
    (theirs / "train.py").chmod(0o755)
    git(theirs, "add", ".")
    git(theirs, "commit", "--quiet", "-m", "more")
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{theirs}", str(shallow))

    with closing(Own(tmp_path, shallow)) as own:
        first = own.keep(1)

    assert git(shallow, "rev-parse", BRANCH) == first
    assert (own.path / "link").is_symlink()
    assert (own.path / "train.py").stat().st_mode & stat.S_IXUSR
    assert git(own.path, "status", "--porcelain") == ""


def test_before_a_run_has_begun_the_newest_commit_of_the_user_is_taken(tmp_path: Path, theirs: Path) -> None:
    with closing(Journal(tmp_path / "journal")) as journal:
        open_subject(tmp_path / "own", journal, UserRepository(theirs)).close()
        (tmp_path / "own" / ".git" / "index.lock").touch()
        newest = commit(theirs)

        with closing(open_subject(tmp_path / "own", journal, UserRepository(theirs))) as workspace:
            assert workspace.head() == newest

    assert git(tmp_path / "own", "status", "--porcelain") == ""


def test_a_branch_of_the_user_is_no_free_name_for_a_run(own: Own, theirs: Path) -> None:
    git(theirs, "branch", "overnight/taken")

    assert {"main", "overnight/taken"} <= own.workspace.branches()


def test_what_could_not_be_pushed_is_repeated_to_whoever_watches(
    own: Own, theirs: Path, scripted_run: ScriptedRun
) -> None:
    own.keep(1)
    git(theirs, "checkout", "--quiet", BRANCH)
    own.workspace.publish(own.run, own.base)

    StatusPublisher(scripted_run.bus, lambda: None, own.workspace.inspect).repeat()

    assert BRANCH in str(scripted_run.bus.doing(SAYS_SUBJECT))


# A run that was begun when Overnight worked in the user's repository


def as_it_was(scripted_run: ScriptedRun, folder: Path) -> Path:
    """Make of a run that worked in its repository what such a run left: the user's repository, with the branch
    checked out and the tables in it, and a bare copy in the journal's folder. Returns the user's repository."""
    theirs = folder / "theirs"
    scripted_run.subject.rename(theirs)
    shutil.rmtree(scripted_run.journal / COPY)
    git(folder, "init", "--quiet", "--bare", str(scripted_run.journal / COPY))
    git(
        theirs,
        "push",
        "--quiet",
        str(scripted_run.journal / COPY),
        "+refs/heads/*:refs/heads/*",
        "+refs/tags/*:refs/tags/*",
    )
    git(theirs, "update-index", "--skip-worktree", "program.md")
    (theirs / "results.tsv").write_text("as it was\n")
    return theirs


@pytest.mark.parametrize("copy", [True, False])
def test_a_run_of_an_earlier_version_goes_on_in_a_repository_of_its_own(
    copy: bool, scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75), level(1.9)])
    theirs = as_it_was(scripted_run, tmp_path)
    if not copy:
        shutil.rmtree(scripted_run.journal / COPY)
    before, head = untouched(theirs), git(theirs, "rev-parse", BRANCH)

    run_listed(scripted_run, [level(1.7)], user=theirs)

    with closing(Journal(scripted_run.journal)) as journal:
        commits = {item.number: item.commit_sha for item in journal.experiments() if not item.is_baseline}
        run = journal.run()
    assert run is not None
    assert len(commits) == 3
    for number, sha in commits.items():
        for path in (scripted_run.subject, theirs):
            assert git(path, "rev-parse", f"refs/{BRANCH}/{number}") == sha
    assert untouched(theirs) == before
    assert git(theirs, "rev-parse", BRANCH) == head, "it is checked out"
    git(theirs, "checkout", "--quiet", "main")
    with closing(Journal(scripted_run.journal)) as journal:
        workspace = open_subject(scripted_run.subject, journal, UserRepository(theirs))
        workspace.publish(run, workspace.head())
        assert git(theirs, "rev-parse", BRANCH) == workspace.head() == commits[3]
        workspace.close()
    assert git(scripted_run.subject, "status", "--porcelain") == ""
