"""Finds what an earlier run left where a run is about to begin: the marks of a lost journal, a copy, a kept version.

A journal never holds two runs, and two states never push one run.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from researcher.errors import JournalError, SubjectError
from researcher.files import write_whole
from researcher.journal.database import JOURNAL_FILE, holds_run
from researcher.journal.reader import JournalReader
from researcher.journal.records import Run
from researcher.repository.git_command import GitFailed, git_output, git_succeeds, refs_of, run_git
from researcher.repository.publishing import HEADS

logger = logging.getLogger(__name__)

COPY = "subject.git"
RUNS = "overnight/"
RESULTS = "results.tsv"
_PLACE = "place"  # holds the path at which a journal's folder was used last
_KEPT = "refs/overnight-kept/"
_BEGINNING = "refs/overnight-beginning"


def require_no_lost_journal(folder: Path, subject: Path | None = None) -> None:
    """Raise JournalError if the journal in `folder` holds no run, although a run left marks there or in `subject`."""
    if holds_run(folder):
        return
    marks = [path for path in (folder / COPY, folder / "experiments") if path.exists()]
    if subject is not None:
        marks += _marks_in(subject)
    if marks:
        raise JournalError(
            f"{folder / JOURNAL_FILE} is missing or holds no run, but a run left {', '.join(map(str, marks))}. "
            f"Next: put {JOURNAL_FILE} back, with its {JOURNAL_FILE}-wal if there is one, from where the folder was "
            "copied or from a backup; or begin another run with another --state"
        )


def _marks_in(subject: Path) -> list[Path]:
    """Return what a run left in its own repository. A results.tsv that the last commit holds is the user's."""
    if not (subject / ".git").exists():
        return []
    try:
        refs = refs_of(subject, f"refs/{RUNS}")
    except GitFailed:
        refs = {}
    has_results = (subject / RESULTS).exists() and not git_succeeds(subject, "cat-file", "-e", f"HEAD:{RESULTS}")
    marks = [subject / RESULTS] if has_results else []
    return [*marks, *(subject / ".git" / name for name in list(refs)[:1])]


def require_only_state(folder: Path, run: Run, user: Path | None) -> None:
    """Record where the journal's folder is.

    Raises JournalError if the folder is a copy, its original exists, and both would push to the repository `user`.
    """
    here, record = folder.resolve(), folder / _PLACE
    before = Path(record.read_text(encoding="utf-8")) if record.exists() else here
    if user is not None and _is_copy(before, here, run):
        raise JournalError(
            f"{here} is a copy of {before}, and both would push run {run.tag} to {user}. Next: continue the run in "
            f"{before}; or delete or rename that folder, and the run continues here"
        )
    if before != here or not record.exists():
        record_place(folder)


def record_place(folder: Path) -> None:
    """Record where the journal's folder is, so that a later copy of it is known for one."""
    write_whole(folder / _PLACE, str(folder.resolve()).encode())


def _is_copy(before: Path, here: Path, run: Run) -> bool:
    """Return True if another folder at `before` holds the same run."""
    try:
        if before.samefile(here):
            return False
        with JournalReader(before) as other:
            theirs = other.run()
    except (OSError, JournalError, sqlite3.DatabaseError):
        return False
    return theirs is not None and (theirs.tag, theirs.created_at) == (run.tag, run.created_at)


def record_kept(path: Path, run: Run, commit: str) -> None:
    """Record the incumbent of a run in its repository, for a new run that begins there without this journal."""
    run_git(path, "update-ref", _KEPT + run.tag, commit)


def record_beginning(path: Path, commit: str) -> None:
    """Record that a new run begins with this commit, which an earlier run kept, and not with that of the user."""
    run_git(path, "update-ref", _BEGINNING, commit)


def begins_with_kept(path: Path) -> bool:
    """Return True if `record_beginning` was called for the repository of a new run."""
    return (path / ".git").exists() and _BEGINNING in refs_of(path, _BEGINNING)


def checked_out(path: Path) -> str:
    """Return the sha of the checked-out commit. Raises SubjectError if there is none or the repository is bare."""
    if git_output(path, "rev-parse", "--is-bare-repository") == "true":
        raise SubjectError(f"{path} is a bare repository, without files; name a clone of it that has a work tree")
    try:
        return run_git(path, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").decode().strip()
    except GitFailed as error:
        if error.status == 1:
            raise SubjectError(f"{path} has no commit yet; commit your subject first") from error
        raise SubjectError(f"{path} cannot be read ({error.message}); fix it, then start again") from error


def first_commit(path: Path) -> str:
    """Return the commit with which a new run begins: the checked-out one, or the newest kept version of a stopped run.

    The branch of a stopped run may show a candidate that nothing has measured. Raises SubjectError as `checked_out`
    does.
    """
    head = checked_out(path)
    branch = (git_output(path, "symbolic-ref", "--quiet", "HEAD") or "").removeprefix(HEADS)
    kept = _KEPT + branch.removeprefix(RUNS)
    found = refs_of(path, kept).get(kept, head)
    if found == head or head not in refs_of(path, f"refs/{branch}/").values():
        return head
    logger.warning(
        "%s shows %s, a candidate of the stopped run %s; the new run begins with %s, the newest version that it kept",
        path, head[:7], branch, found[:7],
    )  # fmt: skip
    return found


def free_tag(wanted: str | None, branches: set[str], day: str) -> str:
    """Return the wanted tag, or the day with a number.

    Git can hold no branch beside one whose name is its folder. Raises SubjectError if a branch is in the way.
    """
    names = [day, *(f"{day}-{number}" for number in range(2, 1000))] if wanted is None else [wanted]
    free = next((name for name in names if _in_the_way(f"overnight/{name}", branches) is None), None)
    if free is not None:
        return free
    found = _in_the_way(f"overnight/{names[0]}", branches)
    raise SubjectError(
        f"the branch {found} is in the way of overnight/{names[0]}; choose another tag, "
        f"or rename the branch with `git branch -m {found} mine`"
    )


def _in_the_way(branch: str, branches: set[str]) -> str | None:
    return next(
        (each for each in sorted(branches) if f"{branch}/".startswith(f"{each}/") or each.startswith(f"{branch}/")),
        None,
    )
