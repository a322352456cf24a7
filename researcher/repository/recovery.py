"""Recreates the run's repository if it is missing or damaged.

Runs of older versions have no repository of their own, because those versions worked in the user's repository; for such
a run it is created. The source is the copy in the journal's folder, which holds the run's base commit, or the user's
repository. Candidates are committed again from the journal with the same shas, and branch and tags follow. The damaged
repository is kept aside.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from pathlib import Path

from researcher.errors import SubjectError
from researcher.files import sync, sync_tree
from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationVerdict, Run
from researcher.repository.commits import EDITABLE, candidate_ref, planned
from researcher.repository.earlier_runs import COPY, begins_with_kept, first_commit, record_beginning
from researcher.repository.git_command import (
    GitFailed,
    create_empty,
    damage,
    git_succeeds,
    refs_of,
    remove_locks,
    run_git,
)
from researcher.repository.publishing import BASE, CONFIRMED_TAGS, UserRepository, aside_names
from researcher.repository.repository import MENDING, Workspace

logger = logging.getLogger(__name__)


def open_subject(
    path: Path, history: JournalReader, user: UserRepository | None = None, script: str = EDITABLE
) -> Workspace:
    """Open the run's repository, and create it if it is missing. Raises SubjectError if that is impossible.

    `script` is the user's name of train.py.

    Before a run has begun, the repository shows the commit with which it begins: that of the user's repository, if
    there is one.
    """
    run = history.run()
    if run is None:
        if user is not None and not begins_with_kept(path):
            _take(path, user, first_commit(user.path))
        return Workspace(path, user=user, script=script)
    try:
        return Workspace(path, run.base_commit, user, script)
    except SubjectError as error:
        repair(path, history, str(error), user)
    return Workspace(path, run.base_commit, user, script)


def begin_with(path: Path, earlier: Path, commit: str) -> None:
    """Create the repository of a new run, which begins with a commit of an earlier run's repository."""
    _take(path, UserRepository(earlier), commit)
    record_beginning(path, commit)


def _take(path: Path, source: UserRepository, commit: str) -> None:
    """Make the repository at `path` show a commit of another one."""
    path.mkdir(parents=True, exist_ok=True)
    create_empty(path)
    source.fetch(path, commit)
    remove_locks(path / ".git")
    run_git(path, "symbolic-ref", "HEAD", BASE)
    run_git(path, "reset", "--hard", "--quiet")


def keep_copy(path: Path, history: JournalReader) -> None:
    """Keep a copy of the repository in the journal's folder that holds the run's base commit.

    If the copy cannot be written, a warning is logged, and the next start tries again.
    """
    run, copy = history.run(), history.folder / COPY
    assert run is not None
    if copy.exists() and _holds(copy, run.base_commit):
        return
    partial = copy.with_name(f"{COPY}.partial")
    try:
        for old in (copy, partial):
            if old.exists():
                shutil.rmtree(old)
        shutil.copytree(path / ".git", partial)
        sync_tree(partial)
        partial.rename(copy)
        sync(copy.parent)
    except OSError as error:
        logger.warning("no copy of %s in %s, so a lost .git could not be made again: %s", path, copy, error)


def set_lost_time_aside(workspace: Workspace, history: JournalReader) -> None:
    """Set the refs aside that a journal from a backup does not know, so that new experiments do not replace them.

    Tags of versions that no claim of this journal confirmed are set aside, too, in both repositories.
    """
    run = history.run()
    assert run is not None
    with workspace.damage_reported():
        _set_aside(workspace.path, run, history)
        left = refs_of(workspace.path, *aside_names(run.branch))
    if workspace.user is not None:
        try:
            _set_aside(workspace.user.path, run, history)
        except GitFailed as error:
            logger.warning("refs of the lost time stay in %s (%s)", workspace.user.path, error.message)
    if left:
        workspace.lost_time = (
            f"the journal is older than git, as after the restore of a backup: {len(left)} refs that it does not know "
            f"are kept as {next(iter(left)).rpartition('/')[0]}/...; delete them if nothing is missed"
        )
        logger.warning("%s", workspace.lost_time)


def _set_aside(path: Path, run: Run, history: JournalReader) -> None:
    measured = [item for item in history.experiments() if not item.is_baseline]
    commits = {item.commit_sha for item in measured}
    confirmed = {
        history.experiment(item.head).commit_sha
        for item in history.confirmations()
        if item.verdict is ConfirmationVerdict.CONFIRMED
    }
    known = {candidate_ref(run, item) for item in measured}
    lost = {name: sha for name, sha in refs_of(path, f"refs/{run.branch}/").items() if name not in known}
    false = (commits | set(lost.values())) - confirmed
    tags = {name: sha for name, sha in refs_of(path, CONFIRMED_TAGS).items() if sha in false}
    folders = aside_names(run.branch)
    taken = {name.rpartition("/")[0] for name in refs_of(path, *folders)}
    number = next(number for number in itertools.count(1) if not taken & {f"{folder}/{number}" for folder in folders})
    moves = [(name, sha, f"{folders[0]}/{number}/{name.rpartition('/')[2]}") for name, sha in lost.items()]
    moves += [(name, sha, f"{folders[1]}/{number}/{name.rpartition('/')[2]}") for name, sha in tags.items()]
    lines = [f"create {new} {sha}\ndelete {name} {sha}\n" for name, sha, new in moves]
    if lines:
        run_git(path, "update-ref", "--stdin", stdin="".join(lines).encode())


def ensure_commits(workspace: Workspace, history: JournalReader) -> int:
    """Commit candidates with a lost or wrong ref again, and return how many recorded commits were lost.

    Raises SubjectDamaged if a new sha differs from the recorded one. A candidate without a recorded commit is committed
    as well, because its files may already be in the work tree.
    """
    run = history.run()
    assert run is not None
    refs = workspace.candidates(run.branch)
    lost = 0
    for experiment in history.experiments():
        if experiment.is_baseline or (experiment.outcome is not None and experiment.outcome.is_without_trial):
            continue
        found = refs.get(candidate_ref(run, experiment))
        if found is None or experiment.commit_sha not in (None, found):
            workspace.commit_again(planned(history, run, experiment), experiment.commit_sha)
            lost += experiment.commit_sha is not None
    if lost:
        logger.warning("%d commits of candidates were lost from %s; made again from the journal", lost, workspace.path)
    return lost


def repair(path: Path, history: JournalReader, why: str, user: UserRepository | None) -> bool:
    """Recreate the repository, or only its index. Return False if no damage is found any more.

    Raises SubjectError if there is no source to recreate it from; then the repository is left unchanged.
    """
    run = history.run()
    assert run is not None
    why = damage(path) or why
    if _holds(path, run.base_commit):
        if not git_succeeds(path, "ls-files"):
            (path / ".git" / "index").unlink()  # the next reset rebuilds the index
            return True
        if damage(path) is None:
            return False
    copy, fresh = history.folder / COPY, path / MENDING
    path.mkdir(parents=True, exist_ok=True)
    if fresh.exists():
        shutil.rmtree(fresh)
    _make_fresh(fresh, copy, path, run, why, user)
    aside = _put_in_place(fresh, path / ".git")
    logger.warning(
        "the git repository of %s was missing or damaged (%s); it is made again from %s and the journal. Nothing that "
        "was measured is lost%s",
        path, why, copy if user is None else f"{copy} or {user.path}",
        f"; what was broken is kept as {aside}" if aside else "",
    )  # fmt: skip
    return True


def _make_fresh(fresh: Path, copy: Path, path: Path, run: Run, why: str, user: UserRepository | None) -> None:
    """Create a bare repository with the run's base commit, from the copy or from the user's repository."""
    wrong = damage(copy) if copy.exists() else "there is none"
    if wrong is None and not _holds(copy, run.base_commit):
        wrong = f"it lacks the commit {run.base_commit[:7]} that the run began with"
    if wrong is None:
        shutil.copytree(copy, fresh)
        sync_tree(fresh)
        (fresh / "index").unlink(missing_ok=True)
    elif user is not None and _holds(user.path, run.base_commit):
        fresh.mkdir()
        create_empty(fresh, "--bare")
        user.fetch(fresh, run.base_commit)
    else:
        raise SubjectError(
            f"the git repository of {path} is damaged ({why}) and cannot be made again from {copy}: {wrong}. "
            f"Next: put a backup of {path / '.git'} back; the journal keeps what was measured, and the run goes on"
        )


def _put_in_place(fresh: Path, broken: Path) -> Path | None:
    """Replace `.git` by the fresh repository, and return the path of the damaged one, or None.

    A kill before the last rename leaves no `.git` or the damaged one, and the next start repairs it again.
    """
    run_git(fresh, "config", "core.bare", "false")
    names = (broken.with_name(f"{broken.name}.broken-{number}") for number in itertools.count(1))
    aside = broken.rename(next(name for name in names if not name.exists())) if broken.exists() else None
    fresh.rename(broken)
    return aside


def _holds(path: Path, commit: str) -> bool:
    return git_succeeds(path, "cat-file", "-e", f"{commit}^{{tree}}")
