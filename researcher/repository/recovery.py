"""A repository that is lost or corrupted, made again from a bare copy in the journal's folder and from the journal.

The copy holds branches and tags, which are few; candidates are committed again from the journal, with the same shas.
What is broken is kept aside, what people have in the work tree is not touched. A commit of theirs that is younger than
the last claim, or the last start, is not in the copy.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from pathlib import Path

import git
from git.exc import GitCommandError

from researcher.errors import SubjectError
from researcher.journal.reader import History
from researcher.journal.records import Run
from researcher.repository.byhand import NEEDED
from researcher.repository.commits import candidate_ref, planned
from researcher.repository.repository import MENDING, PROGRAM, Workspace, damage, git_environment
from trainer.jobs import Outcome

logger = logging.getLogger(__name__)

COPY = "subject.git"
_PLAINLY = ("--quiet", "--no-signed", "--no-follow-tags", "--recurse-submodules=no")  # whatever the user has set
_REFS = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


def open_subject(path: Path, history: History) -> Workspace:
    """The repository of the run, made again if it is lost. Raises SubjectError where that cannot be done."""
    run = history.run()
    if run is None:
        return Workspace(path)
    try:
        return Workspace(path, run.base_commit)
    except SubjectError as error:
        mend(path, history, str(error))
    return Workspace(path, run.base_commit)


def keep_copy(path: Path, folder: Path) -> None:
    """Bring the copy in the journal's folder up to date; one that cannot be written is said, and tried again later."""
    copy = folder / COPY
    try:
        if not copy.exists():
            _make_copy(path, copy)
        for lock in copy.rglob("*.lock"):
            lock.unlink()
        _git(path).push(*_PLAINLY, str(copy), *_REFS)
    except (GitCommandError, OSError) as error:
        if damage(path) is not None:
            raise
        logger.warning("no fresh copy of %s in %s, so a lost .git could not be made again: %s", path, copy, error)
        if copy.exists() and damage(copy) is not None:
            shutil.rmtree(copy)


def _make_copy(path: Path, copy: Path) -> None:
    partial = copy.with_name(f"{COPY}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    with git.Repo.init(partial, bare=True) as made, made.config_writer() as settings:
        settings.set_value("receive", "autogc", "false")
        settings.set_value("receive", "shallowUpdate", "true")
    _git(path).push(*_PLAINLY, str(partial), *_REFS)
    partial.rename(copy)


def ensure_commits(workspace: Workspace, history: History) -> int:
    """Candidates whose ref is lost or elsewhere are committed again; how many. Raises SubjectDamaged for another sha.

    A candidate whose commit is not written down yet may be in the files already, and is known as ours by that commit.
    """
    run = history.run()
    assert run is not None
    refs = workspace.candidates(run.branch)
    lost = 0
    for experiment in history.experiments():
        if experiment.is_baseline or experiment.outcome is Outcome.REJECTED:
            continue
        found = refs.get(candidate_ref(run, experiment))
        if found is None or experiment.commit_sha not in (None, found):
            workspace.commit_again(planned(history, run, experiment), experiment.commit_sha)
            lost += experiment.commit_sha is not None
    if lost:
        logger.warning("%d commits of candidates were lost from %s; made again from the journal", lost, workspace.path)
    return lost


def mend(path: Path, history: History, why: str) -> bool:
    """Make the repository, or only its index, again. False where nothing is wrong with it any more.

    Raises SubjectError where there is nothing to make it of; then it is left as it is.
    """
    run = history.run()
    assert run is not None
    why = damage(path) or why
    if _mend_index(path):
        return True
    if damage(path) is None and _holds(path, run.base_commit):
        return False
    copy = history.folder / COPY
    _require_copy(copy, path, run, why)
    aside = _replace(path, copy, run)
    logger.warning(
        "the git repository of %s was damaged (%s); it is made again from %s and the journal. Nothing that was "
        "measured is lost%s",
        path, why, copy, f"; what was broken is kept as {aside}" if aside else "",
    )  # fmt: skip
    return True


def _mend_index(path: Path) -> bool:
    """Git's list of what is checked out can be made again from the commit that is."""
    index = path / ".git" / "index"
    gone = not index.exists()
    if not _runs(path, "cat-file", "-e", "HEAD^{tree}") or (not gone and _runs(path, "ls-files")):
        return False
    aside = None if gone else index.rename(_free(index))
    _git(path).read_tree("HEAD")
    kept = "" if aside is None else f"; what was broken is kept as {aside}"
    logger.warning("git's index in %s was damaged or lost; it is made again%s", path, kept)
    return True


def _require_copy(copy: Path, path: Path, run: Run, why: str) -> None:
    wrong = damage(copy) if copy.exists() else "there is none"
    if wrong is None and not _holds(copy, run.base_commit):
        wrong = f"it lacks the commit {run.base_commit[:7]} that the run began with"
    if wrong is not None:
        raise SubjectError(
            f"the git repository of {path} is damaged ({why}) and cannot be made again from {copy}: {wrong}. "
            f"Next: put a backup of {path / '.git'} back; the journal keeps what was measured, and the night goes on"
        )


def _replace(path: Path, copy: Path, run: Run) -> Path | None:
    """Until the last rename a kill leaves no `.git`, or the broken one: it is mended again. Returns what is kept."""
    broken, fresh = path / ".git", path / MENDING
    if fresh.exists():
        shutil.rmtree(fresh)
    shutil.copytree(copy, fresh)
    _git(path, fresh).config("core.bare", "false")
    if _runs(path, "config", "--file", str(broken / "config"), "core.repositoryformatversion"):
        shutil.copy(broken / "config", fresh / "config")  # remotes and names of the person's
    _git(path, fresh).symbolic_ref("HEAD", f"refs/heads/{run.branch}")
    if not _runs(path, "cat-file", "-e", "HEAD^{commit}", folder=fresh):
        _git(path, fresh).update_ref(f"refs/heads/{run.branch}", run.base_commit)
    _git(path, fresh).read_tree("HEAD")
    if not any((path / name).exists() for name in (*NEEDED, PROGRAM)):
        _git(path, fresh).execute(["git", f"--work-tree={path}", "checkout-index", "--all"])  # never over a file
    aside = _free(broken) if broken.exists() else None
    if aside is not None:
        broken.rename(aside)
    fresh.rename(broken)
    return aside


def _holds(path: Path, commit: str) -> bool:
    return _runs(path, "cat-file", "-e", f"{commit}^{{tree}}")


def _free(path: Path) -> Path:
    """The first of path.broken-1, path.broken-2, ... that nothing has."""
    names = (path.with_name(f"{path.name}.broken-{number}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def _runs(path: Path, *arguments: str, folder: Path | None = None) -> bool:
    code, _, _ = _git(path, folder).execute(["git", *arguments], with_extended_output=True, with_exceptions=False)
    return bool(code == 0)


def _git(path: Path, folder: Path | None = None) -> git.Git:
    """Git in a folder; `folder` is where its repository lies if not there."""
    path.mkdir(parents=True, exist_ok=True)
    runner = git.Git(path)
    runner.update_environment(**git_environment(path), **({} if folder is None else {"GIT_DIR": str(folder)}))
    return runner
