"""Runs git without hooks, signatures, templates, filters and the user's settings.

The repository's own settings apply, except those that would run a program.
"""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import git
from git.exc import GitCommandError

logger = logging.getLogger(__name__)

IDENTITY = git.Actor("Overnight", "overnight@localhost")
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


def git_environment(path: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a git command in the folder `path`, for any owner of the folder.

    `more` are settings by name.
    """
    settings = {"safe.directory": str(path.resolve()), **_SETTINGS, **(more or {})}
    named = {f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(settings)}
    valued = {f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(settings.values())}
    return {
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


def run_git(path: Path, *arguments: str, stdin: bytes = b"", settings: Mapping[str, str] | None = None) -> bytes:
    """Return the output of a git command in the folder `path`. Raises GitFailed if it fails, GitKilled on a signal."""
    command = ["git", "-C", str(path), *arguments]
    shell = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = shell | git_environment(path, settings)
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, check=False)
    if done.returncode < 0:
        raise GitKilled(command, done.returncode, done.stderr, done.stdout)
    if done.returncode:
        raise GitFailed(command, done.returncode, done.stderr, done.stdout)
    return done.stdout


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
    lines = run_git(path, "for-each-ref", "--format=%(refname) %(objectname)", *patterns).decode().splitlines()
    return dict(line.split() for line in lines)


def uncommitted(path: Path) -> list[str]:
    """Return tracked files that differ from the last commit. A file with a git filter counts as committed."""
    keys = _names(path, "config", "-z", "--name-only", "--get-regexp", r"^filter\.", code=1)
    off = {key: "false" if key.endswith(".required") else "" for key in keys}
    status = ["-c", "status.showStash=false", "status", "--porcelain", "-z", "--no-renames", "--untracked-files=no"]
    status.append("--ignore-submodules=dirty")
    changed = [line[3:] for line in run_git(path, *status, settings=off).decode().split("\0") if line]
    if not off or not changed:
        return changed
    attributes = _names(path, "check-attr", "-z", "filter", "--", *changed)
    is_filtered = dict(zip(attributes[::3], attributes[2::3], strict=True))
    return [name for name in changed if is_filtered[name] in ("unspecified", "unset")]


def _names(path: Path, *arguments: str, code: int = 0) -> list[str]:
    """Return the names that a command prints, separated by zero bytes; an empty list if it exits with `code`."""
    try:
        return run_git(path, *arguments).decode().split("\0")[:-1]
    except GitFailed as error:
        if code and error.status == code:
            return []
        raise


def damage(path: Path) -> str | None:
    """Return git's message about damage to the repository in `path`, or None if it is sound."""
    if not (path / ".git").exists() and not (path / "objects").exists():
        return f"{path / '.git'} is gone"
    try:
        run_git(path, "fsck", "--no-dangling", "--no-progress")
    except GitFailed as error:
        return error.message
    return None
