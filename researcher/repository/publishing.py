"""The user's repository: a run begins with its checked-out commit, and pushes the results to it.

A push copies objects and moves the run's own refs: `overnight/<tag>`, `refs/overnight/<tag>/...` and `confirmed/...`.
It uses plumbing commands, which run no receive hook and change neither work tree, index nor configuration. A failed
push does not stop the run: it is logged once and retried later. A process killed during a push leaves objects without a
ref, and the next push sends them again. The repository may lie on a network mount that hangs, so other processes touch
it, each with a time limit, and after a time-out it is left alone for a while.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from researcher.backoff import Backoff
from researcher.errors import SubjectError
from researcher.files import text_of
from researcher.repository.git_command import (
    REFS,
    GitFailed,
    GitTimedOut,
    is_partial,
    parse_refs,
    refs_of,
    run_bounded,
    run_git,
)
from trainer.jobs.environment import Program, environment

logger = logging.getLogger(__name__)

BASE = "refs/heads/main"
HEADS = "refs/heads/"
CONFIRMED_TAGS = "refs/tags/confirmed"
LIMIT_S = 120.0  # for one command in the user's repository
_LEFT_ALONE = Backoff(120, 3600)
_NOTHING = "0" * 40
REFETCH = "Next: `git -C {} fetch --refetch --no-filter` (git 2.36 or later), then start again"
# The process that reads the user's repository gets these settings only.
_UPLOAD_PACK = "git -c 'safe.directory=*' -c uploadpack.allowAnySHA1InWant=true upload-pack"


def aside_names(branch: str) -> tuple[str, str]:
    """Return the folders of a run's refs and tags that its restored journal does not know."""
    tag = branch.rpartition("/")[2]
    return f"refs/overnight-aside/{tag}", f"refs/tags/aside/{tag}"


@dataclass(frozen=True)
class Pushed:
    """The content of a push from the repository `own`: the run's branch at `commit`, and the run's refs."""

    own: Path
    branch: str
    base: str
    commit: str

    def refs(self) -> dict[str, str]:
        """Return the refs of the candidates, and the tags of candidates."""
        candidates = refs_of(self.own, f"refs/{self.branch}/")
        ours = set(candidates.values())
        return candidates | {name: sha for name, sha in refs_of(self.own, CONFIRMED_TAGS).items() if sha in ours}


class UserRepository:
    """The user's repository at `path`. `message` describes a failed push and the next step; "" if all is pushed."""

    def __init__(self, path: Path, *, limit_s: float = LIMIT_S, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.message = ""
        self._limit_s = limit_s
        self._clock = clock
        self._left_alone_until = clock()
        self._left_alone_s = 0.0
        self._was_inspected = False

    def branches(self) -> set[str]:
        """Return local branch names; an empty set if the repository cannot be read."""
        try:
            return {name.removeprefix(HEADS) for name in self._refs(HEADS)}
        except GitFailed:
            return set()

    def text_of(self, name: str) -> str | None:
        """Return the text of a file in the work tree, or None if it cannot be read. Raises NotText."""
        path = str(self.path / name)
        reads = ["cat", "--", path]
        try:
            content = self._run(lambda: run_bounded(reads, environment(Program.GIT), limit_s=self._limit_s))
        except GitFailed:
            return None
        return text_of(content, path)

    def commit_of(self, branch: str) -> str | None:
        """Return the commit of a branch, or None if the branch is missing or the repository cannot be read."""
        try:
            return self._refs(HEADS + branch).get(HEADS + branch)
        except GitFailed:
            return None

    def fetch(self, own: Path, commit: str = "HEAD") -> None:
        """Fetch a commit and its history into the repository `own`, as its `main`. A partial clone has no history.

        Raises SubjectError if the user's repository cannot be read.
        """
        partial = is_partial(self.path)
        try:
            run_git(
                own, "fetch", "--quiet", "--no-tags", "--update-shallow", "--update-head-ok", "--no-write-fetch-head",
                *(["--depth=1"] if partial else []),
                f"--upload-pack={_UPLOAD_PACK}", str(self.path.resolve()), f"+{commit}:{BASE}",
            )  # fmt: skip
        except GitFailed as error:
            next_step = REFETCH.format(self.path) if partial else "Next: fix it, then start again"
            raise SubjectError(f"{self.path} cannot be read ({error.message}). {next_step}") from error

    def push(self, pushed: Pushed) -> None:
        """Push all missing objects and refs. Raises GitFailed only if the run's own repository cannot be read."""
        refs = pushed.refs()
        try:
            theirs = self._refs(HEADS + pushed.branch, f"refs/{pushed.branch}/", CONFIRMED_TAGS)
        except GitFailed as error:
            self._report(f"{self.path} cannot be read ({error.message}). Next: repair it, or move it back to this path")
            return
        if not self._was_inspected:
            self._rebuild_empty_objects(pushed.own, {*refs.values(), pushed.base, pushed.commit})
        wanted = {_free_name(name, sha, theirs, pushed.branch): sha for name, sha in refs.items()}
        missing = {name: sha for name, sha in wanted.items() if theirs.get(name) != sha}
        moves = theirs.get(HEADS + pushed.branch) != pushed.commit
        if not missing and not moves:
            self._report("")
            return
        pack = self._pack(pushed, {*missing.values(), pushed.commit}, set(theirs.values()) & {*refs.values()})
        try:
            self._git("unpack-objects", "-q", stdin=pack)
        except GitFailed as error:
            next_step = "free disk space, or allow this user to write there"
            self._report(f"{self.path} cannot be written ({error.message}). Next: {next_step}")
            return
        tags = {name: sha for name, sha in missing.items() if name.startswith(CONFIRMED_TAGS)}
        candidates = {name: sha for name, sha in missing.items() if name not in tags}
        faults = [self._update(candidates, theirs), self._update(tags, theirs)]
        known = {pushed.base, *refs.values(), *refs_of(pushed.own, *aside_names(pushed.branch)).values()}
        faults.append(self._move_branch(pushed, theirs.get(HEADS + pushed.branch), known) if moves else "")
        self._report("; ".join(filter(None, faults)))

    def _rebuild_empty_objects(self, own: Path, commits: set[str]) -> None:
        """Write the run's objects again that a power loss has left empty; git takes an empty object for a present one.

        This happens once for each start.
        """
        listed = ("rev-list", "--objects", "--no-walk=unsorted", "--stdin")
        names = [line.split()[0] for line in run_git(own, *listed, stdin="\n".join(commits).encode()).splitlines()]
        try:
            objects = self.path / run_git(self.path, "rev-parse", "--git-path", "objects").decode().strip()
            files = {name.decode(): objects / name[:2].decode() / name[2:].decode() for name in names}
            empty = {name: file for name, file in files.items() if file.exists() and not file.stat().st_size}
            for file in empty.values():
                file.unlink()
            if empty:
                pack = run_git(own, "pack-objects", "--stdout", "-q", stdin="\n".join(empty).encode())
                run_git(self.path, "unpack-objects", "-q", stdin=pack)
                logger.warning("%d objects of the run were empty in %s, and are written again", len(empty), self.path)
        except (GitFailed, OSError) as error:
            self._report(f"{self.path} has empty objects, which cannot be written again ({error}). Next: repair it")
        self._was_inspected = True

    def _pack(self, pushed: Pushed, wanted: set[str], have: set[str]) -> bytes:
        """Return a pack of the objects of `wanted` that the user's repository lacks.

        That repository has the objects `have` and usually the base of the run.
        """
        if not have and self._has(pushed.base):
            have = {pushed.base}
        revisions = [*wanted, *(f"^{sha}" for sha in have)]
        return run_git(pushed.own, "pack-objects", "--revs", "--stdout", "-q", stdin="\n".join(revisions).encode())

    def _update(self, refs: dict[str, str], theirs: dict[str, str]) -> str:
        """Update refs, all or none. Return a message if git refuses, otherwise ""."""
        if not refs:
            return ""
        lines = [f"update {name} {sha} {theirs.get(name, _NOTHING)}\n" for name, sha in refs.items()]
        try:
            self._git("update-ref", "--stdin", stdin="".join(lines).encode())
        except GitFailed as error:
            return f"{len(refs)} refs are not pushed to {self.path} ({error.message}). Next: rename what is in the way"
        return ""

    def _move_branch(self, pushed: Pushed, at: str | None, known: set[str]) -> str:
        """Move the branch. Return a message if that is impossible, otherwise "".

        A branch with a foreign commit is not moved. Git refuses to move a branch that is checked out or in a rebase.
        """
        branch, path = pushed.branch, self.path
        if at is not None and at not in known:
            return (
                f"{branch} in {path} holds the commit {at[:7]}, which is not of this run, and stays as it is. "
                f"Next: `git -C {path} branch -m {branch} mine`"
            )
        try:
            self._git("branch", "--force", "--no-track", branch, pushed.commit)
        except GitFailed as error:
            return (
                f"{branch} in {path} stays as it is ({error.message}). Next: check out another branch there, "
                f"for example with `git -C {path} checkout -b mine`, or rename what is in the way"
            )
        return ""

    def _refs(self, *patterns: str) -> dict[str, str]:
        return parse_refs(self._git(*REFS, *patterns))

    def _has(self, commit: str) -> bool:
        try:
            self._git("cat-file", "-e", f"{commit}^{{tree}}")
        except GitFailed:
            return False
        return True

    def _git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return self._run(lambda: run_git(self.path, *arguments, stdin=stdin, limit_s=self._limit_s))

    def _run(self, command: Callable[[], bytes]) -> bytes:
        """Run a command on the user's repository. Raises GitFailed, and GitTimedOut at once while it is left alone."""
        if self._clock() < self._left_alone_until:
            raise GitTimedOut(["git", "-C", str(self.path)], self._limit_s)
        try:
            found = command()
        except GitTimedOut:
            self._left_alone_s = _LEFT_ALONE.after(self._left_alone_s)
            self._left_alone_until = self._clock() + self._left_alone_s
            raise
        self._left_alone_s = 0.0
        return found

    def _report(self, message: str) -> None:
        if message != self.message:
            self.message = message
            logger.warning("%s", f"{message}; the run goes on, and pushes again later" if message else "all is pushed")


def _free_name(name: str, sha: str, theirs: dict[str, str], branch: str) -> str:
    """Return the name for a ref.

    A tag gets the run's name in front of its number if another run's tag has the plain name.
    """
    number = name.removeprefix(f"{CONFIRMED_TAGS}/")
    if number == name or theirs.get(name, sha) == sha:
        return name
    return f"{CONFIRMED_TAGS}/{branch.rpartition('/')[2]}-{number}"
