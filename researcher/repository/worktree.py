"""What a person sees of the subject: the branch that is checked out, and train.py as the night has it.

The night shows its state there, and needs it for nothing: trials get copies of files from commits. So what a person
edited, staged, committed or checked out stays as it is. The night goes on beside it, says so, and shows its own state
again when nothing is in the way. For edits and commits on the night's branch, `by-hand/...` is checked out instead:
their commits keep their place, and the branch tells the night alone.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import git
from git.exc import GitCommandError

from researcher.errors import SubjectDamaged
from researcher.files import write_whole
from researcher.repository.byhand import BY_HAND, MERGES, Change, about_edits, about_head, about_lock, about_rebase
from researcher.repository.commits import EDITABLE

logger = logging.getLogger(__name__)

_HEADS = "refs/heads/"
_NOTHING = "0" * 40
_REBASES = ("rebase-merge", "rebase-apply")
_STALE_LOCK_S = 600.0

Stat = tuple[int, int, int] | None


@dataclass(frozen=True)
class GitState:
    """Where the repository must stand: the branch and the commit its head and files show."""

    branch: str
    commit: str


@dataclass(frozen=True)
class Trace:
    """What a move of ours left. As long as all of it stands nobody came between."""

    head: str
    branch: str | None
    index: Stat
    train: Stat


class WorkTree:
    """The work tree of one repository. `words` says what a person did that the night goes on beside; "" for nothing."""

    def __init__(self, repository: git.Repo, path: Path) -> None:
        self.words = ""
        self._git = repository
        self._path = path
        self._folder = Path(repository.git_dir)
        self._wanted: GitState | None = None
        self._trace: Trace | None = None
        self._is_as_committed = False  # at the last look

    @property
    def branch(self) -> str:
        """The night's."""
        assert self._wanted is not None, "the night's state is shown before a candidate is"
        return self._wanted.branch

    def show(self, state: GitState) -> None:
        """Branch and files show `state`; beside what a person does, at least the branch does, or a later look."""
        seen, self._wanted = self._read_trace(state), state
        if seen != self._trace:
            self._trace = None
            if not self._is_free(state):
                return
            seen = self._read_trace(state)
        self._say("")
        self._move(state, seen.branch)

    def look_after(self, state: GitState) -> None:
        """Show `state`, trusting nothing that was seen before."""
        self._trace = None
        self.show(state)

    def look(self) -> str:
        """What a person did there, in words. When nothing is in the way any more, the night's state is shown."""
        if self._wanted is not None:
            self.look_after(self._wanted)
        return self.words

    def take_head(self, state: GitState) -> None:
        """Check the night's branch out, made here, where the commit that is checked out is its first."""
        if self._commit(state.branch) is None:
            self._git.git.update_ref(_HEADS + state.branch, state.commit)
        if self._git.head.is_valid() and self._git.head.commit.hexsha == state.commit:
            self._git.git.symbolic_ref("HEAD", _HEADS + state.branch)

    def _is_free(self, state: GitState) -> bool:
        """True where the night may move head, index and train.py; else the branch alone moves, and words say why."""
        if busy := self._busy():
            self._say(busy)
            return False
        self._keep_their_commit(state)
        on = self._checked_out()
        theirs = on != state.branch
        edited = [] if theirs and not self._is_of_hands(on) else self._edited(state)
        if not theirs and not edited:
            return True
        if not theirs:
            self._git.git.symbolic_ref("HEAD", _HEADS + self._branch_at(self._commit(state.branch), state))
        elif on is not None and self._is_of_hands(on) and not edited and self._is_known(self._commit(on), state):
            self._return_from(on, state)
            return True
        self._point_branch(state)
        self._say(about_edits(self._path, edited) if edited else self._about_head(on, state))
        return False

    def _is_of_hands(self, on: str | None) -> bool:
        return on is not None and on.startswith(f"{BY_HAND}/")

    def _busy(self) -> str | None:
        """A git command of somebody that is under way and would be disturbed by a branch that moves."""
        if any((self._folder / name).exists() for name in _REBASES):
            return about_rebase(self._path)
        lock = self._folder / "index.lock"
        try:
            age_s = time.time() - lock.stat().st_mtime
        except FileNotFoundError:
            return None
        if abs(age_s) < _STALE_LOCK_S:
            return about_lock(self._path, lock)
        logger.warning("removing %s, which has been there for %.0f minutes", lock, age_s / 60)
        lock.unlink(missing_ok=True)
        return None

    def _keep_their_commit(self, state: GitState) -> None:
        """A commit on the night's branch that is not the night's gets a branch of its own before ours goes back."""
        commit = self._commit(state.branch)
        if commit is None or self._is_known(commit, state):
            return
        name = self._keep(commit, state)
        if self._checked_out() == state.branch:
            self._git.git.symbolic_ref("HEAD", _HEADS + name)

    def _keep(self, commit: str, state: GitState) -> str:
        name = self._branch_at(commit, state)
        logger.warning("commit %s, made by hand on %s in %s, is kept as %s", commit[:7], state.branch, self._path, name)
        return name

    def _is_known(self, commit: str | None, state: GitState) -> bool:
        """True for a commit that a candidate, or the state to show, builds on: the night made it, or began with it."""
        if commit is None or commit == state.commit:
            return True
        return bool(self._git.git.for_each_ref("--count=1", "--contains", commit, f"refs/{state.branch}/"))

    def _branch_at(self, commit: str | None, state: GitState) -> str:
        """A branch by-hand/<tag>-<n> at this commit, made if there is none."""
        commit = commit or state.commit
        prefix = f"{BY_HAND}/{state.branch.rpartition('/')[2]}-"
        taken = {head.name: head.commit.hexsha for head in self._git.heads if head.name.startswith(prefix)}
        there = next((name for name, at in taken.items() if at == commit), None)
        name = there or next(name for name in (f"{prefix}{n}" for n in itertools.count(1)) if name not in taken)
        if there is None:
            self._git.git.update_ref(_HEADS + name, commit, _NOTHING)
        return name

    def _return_from(self, on: str, state: GitState) -> None:
        """From a branch that was made for edits which are gone; ours first goes to what index and files show."""
        commit = self._commit(on)
        self._git.git.update_ref(_HEADS + state.branch, commit)
        self._git.git.symbolic_ref("HEAD", _HEADS + state.branch)
        self._git.git.update_ref("-d", _HEADS + on, commit)

    def _point_branch(self, state: GitState) -> None:
        """The branch alone, which is not checked out. Git refuses where somebody moved it since it was looked at."""
        commit = self._commit(state.branch)
        if commit != state.commit:
            self._git.git.update_ref(_HEADS + state.branch, state.commit, commit or _NOTHING)

    def _edited(self, state: GitState) -> list[str]:
        """Tracked files that are not as the night or a commit has them. A needed one that was deleted comes back."""
        if not (self._folder / "index").exists():
            raise SubjectDamaged(f"{self._folder / 'index'} is gone")
        lines = self._git.git.status("--porcelain=v2", "--untracked-files=no").splitlines()
        self._is_as_committed = not lines
        changes = [Change.of(line) for line in lines]
        for change in changes:
            if change.is_gone:
                self._git.git.checkout_index("--", change.name)  # never over a file that is there
                logger.warning("%s was deleted from %s and is back; nothing runs without it", change.name, self._path)
        changes = [change for change in changes if not change.is_gone]
        known = self._known_sources(state) if changes else set()
        edited = [change.name for change in changes if not self._is_ours(change, known)]
        return edited or [name for name in MERGES if (self._folder / name).exists()]

    def _is_ours(self, change: Change, known: set[str]) -> bool:
        """What a move of ours left when it was killed: train.py as a commit of the night has it."""
        if change.name != EDITABLE or change.staged not in known:
            return False
        return self._git.git.hash_object("--", EDITABLE) in known

    def _known_sources(self, state: GitState) -> set[str]:
        """The blobs of train.py that a move of ours may have written: of this state, the branch, the newest ref."""
        refs = self._git.git.for_each_ref("--format=%(refname)", f"refs/{state.branch}/").split()
        newest = max(refs, key=lambda name: int(name.rpartition("/")[2]), default=None)
        commits = {state.commit, self._commit(state.branch)}
        if newest is not None:
            commits.add(git.Reference(self._git, newest).commit.hexsha)
        return {self._git.commit(commit).tree[EDITABLE].hexsha for commit in commits if commit}

    def _move(self, state: GitState, before: str | None) -> None:
        """Write train.py whole, then branch and index in one process: killed at any point, only known content is there.

        `git reset` leaves every file as it is; it notes the commit that the branch had in ORIG_HEAD.
        """
        blob = self._git.commit(state.commit).tree[EDITABLE]
        path, content = self._path / EDITABLE, blob.data_stream.read()
        if not path.exists() or path.read_bytes() != content:
            write_whole(path, content)
            path.chmod(0o755 if blob.mode & 0o100 else 0o644)
        if before == state.commit and (self._trace is not None or self._is_as_committed):
            self._trace = self._trace or self._read_trace(state)
            return
        self._trace = None
        try:
            self._git.git.reset("-q", state.commit)
        except GitCommandError as error:
            if "index.lock" not in str(error):
                raise
            self._say(about_lock(self._path, self._folder / "index.lock"))
            return
        found = (self._folder / "ORIG_HEAD").read_text().strip()
        if before is not None and found != before:  # somebody committed between two of our steps
            self._keep(found, state)
        self._trace = replace(self._read_files(), branch=state.commit)

    def _about_head(self, on: str | None, state: GitState) -> str:
        return about_head(
            self._path, f"branch {on}" if on else f"commit {self._git.head.commit.hexsha[:7]}", state.branch
        )

    def _say(self, words: str) -> None:
        if words != self.words:
            self.words = words
            logger.warning("%s", words or f"{self._path} shows the night again")

    def _read_trace(self, state: GitState) -> Trace:
        return replace(self._read_files(), branch=self._commit(state.branch))

    def _read_files(self) -> Trace:
        head = (self._folder / "HEAD").read_text()
        return Trace(head, None, _stat(self._folder / "index"), _stat(self._path / EDITABLE))

    def _checked_out(self) -> str | None:
        """The branch, or None for a commit by itself."""
        return None if self._git.head.is_detached else self._git.head.reference.name

    def _commit(self, branch: str) -> str | None:
        """Where a branch stands; None where there is none."""
        try:
            return git.Head(self._git, _HEADS + branch).commit.hexsha
        except ValueError:
            return None
        except AssertionError as error:  # GitPython's, of a file that is empty
            raise SubjectDamaged(f"the ref of {branch} in {self._path} is empty") from error


def _stat(path: Path) -> Stat:
    try:
        seen = os.stat(path)
    except FileNotFoundError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino
