"""Runs git without hooks, signatures, templates, filters and the user's settings.

The repository's own settings apply, except those that would run a program.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import git
from git.exc import GitCommandError

from trainer.jobs.environment import Program, environment

logger = logging.getLogger(__name__)

IDENTITY = git.Actor("Overnight", "overnight@localhost")
REFS = ("for-each-ref", "--format=%(refname) %(objectname)")
_DYING_S = 1.0
_SETTINGS = {
    "core.fsync": "committed,reference",  # git 2.36 and later; a power loss leaves no empty object or ref
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.attributesFile": os.devnull,
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}


class GitFailed(GitCommandError):
    """A git command failed. `message` is the first line of its output."""

    def __init__(self, command: list[str], code: int, stderr: bytes, stdout: bytes) -> None:
        super().__init__(command, code, stderr, stdout)
        lines = (stderr + stdout).decode(errors="replace").strip().splitlines()
        self.message = lines[0] if lines else f"git ends with {code}"
        self.folder = Path(command[2])


class GitKilled(GitCommandError):
    """A signal ended a git command, so nothing is known about the repository. This is no GitFailed."""


class GitTimedOut(GitFailed):
    """A git command did not end in time, for example because a network file system does not answer."""

    def __init__(self, command: list[str], limit_s: float) -> None:
        super().__init__(command, -1, f"no answer within {limit_s:.0f} s".encode(), b"")


def git_environment(path: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a git command in the folder `path`, for any owner of the folder.

    `more` are settings by name.
    """
    settings = {"safe.directory": str(path.resolve()), **_SETTINGS, **(more or {})}
    named = {f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(settings)}
    valued = {f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(settings.values())}
    return environment(Program.GIT) | {
        "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",  # a command that only reads takes no lock
        "GIT_CEILING_DIRECTORIES": str(path.resolve().parent),  # never use a parent folder's repository
        "GIT_AUTHOR_NAME": str(IDENTITY.name),
        "GIT_AUTHOR_EMAIL": str(IDENTITY.email),
        "GIT_COMMITTER_NAME": str(IDENTITY.name),
        "GIT_COMMITTER_EMAIL": str(IDENTITY.email),
        "GIT_CONFIG_COUNT": str(len(settings)),
        **named,
        **valued,
    }


def run_git(
    path: Path,
    *arguments: str,
    stdin: bytes = b"",
    settings: Mapping[str, str] | None = None,
    limit_s: float | None = None,
) -> bytes:
    """Return the output of a git command in the folder `path`.

    Raises GitFailed if it fails, GitKilled on a signal, and GitTimedOut if it runs longer than `limit_s`.
    """
    return run_bounded(["git", "-C", str(path), *arguments], git_environment(path, settings), stdin, limit_s)


def run_bounded(
    command: Sequence[str], env: Mapping[str, str], stdin: bytes = b"", limit_s: float | None = None
) -> bytes:
    """Return the output of a command. Raises GitFailed, GitKilled on a signal, or GitTimedOut after `limit_s`.

    A process that waits for a hung file system does not die, so a killed one is not waited for.
    """
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        stdout, stderr = process.communicate(stdin, timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise GitTimedOut(list(command), limit_s or 0.0) from None
    finally:
        if process.returncode is None:
            _abandon(process)
    if process.returncode < 0:
        raise GitKilled(list(command), process.returncode, stderr, stdout)
    if process.returncode:
        raise GitFailed(list(command), process.returncode, stderr, stdout)
    return stdout


def _abandon(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with suppress(BrokenPipeError):  # what was not sent yet
                stream.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_DYING_S)


def git_output(path: Path, *arguments: str) -> str | None:
    """Return the output of a git command without white space around it, or None if the command fails."""
    try:
        return run_git(path, *arguments).decode(errors="replace").strip()
    except GitFailed:
        return None


def git_succeeds(path: Path, *arguments: str) -> bool:
    """Return True if a git command succeeds."""
    return git_output(path, *arguments) is not None


def create_empty(path: Path, *options: str) -> None:
    """Create an empty repository in the folder `path`, or complete an unfinished one.

    GitPython reads only names by SHA-1 and refs in files.
    """
    kind = ("--initial-branch=main", "--object-format=sha1")
    run_git(path, "init", "--quiet", "--template=", *kind, *options, settings={"init.defaultRefFormat": "files"})


def remove_locks(folder: Path) -> None:
    """Remove the lock files of a killed git. No other git process may be running in this `.git`."""
    for lock in folder.rglob("*.lock"):
        logger.warning("removing %s, left by a killed git", lock)
        lock.unlink()


def refs_of(path: Path, *patterns: str) -> dict[str, str]:
    """Return the refs below `patterns` with their objects."""
    return parse_refs(run_git(path, *REFS, *patterns))


def parse_refs(listing: bytes) -> dict[str, str]:
    """Return the refs in the output of `git REFS`, with their objects."""
    return dict(line.split() for line in listing.decode(errors="surrogateescape").splitlines())


def filters_off(path: Path) -> dict[str, str]:
    """Return the settings that switch the filters of the repository off, such as git-lfs, which may be missing."""
    keys = _names(path, "config", "-z", "--name-only", "--get-regexp", r"^filter\.", code=1)
    return {key: "false" if key.endswith(".required") else "" for key in keys}


def uncommitted(path: Path) -> list[str]:
    """Return tracked files that differ from the last commit. A file with a git filter counts as committed."""
    off = filters_off(path)
    status = ["-c", "status.showStash=false", "status", "--porcelain", "-z", "--no-renames", "--untracked-files=no"]
    status.append("--ignore-submodules=dirty")
    changed = [line[3:] for line in os.fsdecode(run_git(path, *status, settings=off)).split("\0") if line]
    if not off or not changed:
        return changed
    attributes = _names(path, "check-attr", "-z", "filter", "--", *changed)
    is_filtered = dict(zip(attributes[::3], attributes[2::3], strict=True))
    return [name for name in changed if is_filtered[name] in ("unspecified", "unset")]


def _names(path: Path, *arguments: str, code: int = 0) -> list[str]:
    """Return the names that a command prints, separated by zero bytes; an empty list if it exits with `code`."""
    try:
        return os.fsdecode(run_git(path, *arguments)).split("\0")[:-1]
    except GitFailed as error:
        if code and error.status == code:
            return []
        raise


def is_partial(path: Path) -> bool:
    """Return True for a partial clone, which fetches objects from its remote when it needs them; Overnight does not."""
    return git_succeeds(path, "config", "--get-regexp", r"^(extensions\.partialclone|remote\..*\.promisor)$")


def lacks_objects(path: Path, commit: str) -> bool:
    """Return True if `path` is a partial clone without some files of a commit."""
    listed = ("rev-list", "--objects", "--no-walk", "--missing=print", commit)
    return is_partial(path) and any(line.startswith(b"?") for line in run_git(path, *listed).splitlines())


def damage(path: Path) -> str | None:
    """Return git's message about damage to the repository in `path`, or None if it is sound."""
    if not (path / ".git").exists() and not (path / "objects").exists():
        return f"{path / '.git'} is gone"
    try:
        run_git(path, "fsck", "--no-dangling", "--no-progress")
    except GitFailed as error:
        return error.message
    return None
