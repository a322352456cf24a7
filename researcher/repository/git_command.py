"""The git command as Overnight runs it: without hooks, signatures, templates, filters, and settings of the user.

The settings of the repository itself hold where they run nothing.
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
_RUNS_NOTHING = {
    "core.hooksPath": os.devnull,
    "core.fsmonitor": "false",
    "core.attributesFile": os.devnull,
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "gc.auto": "0",
    "maintenance.auto": "false",
}


class GitFailed(GitCommandError):
    """A git command failed; `said` is the first line of what it said."""

    def __init__(self, command: list[str], code: int, stderr: bytes, stdout: bytes) -> None:
        super().__init__(command, code, stderr, stdout)
        lines = (stderr + stdout).decode(errors="replace").strip().splitlines()
        self.said = lines[0] if lines else f"git ends with {code}"


def git_environment(path: Path, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for a git command in the folder `path`, whoever owns it; `more` are settings by name."""
    settings = {"safe.directory": str(path.resolve()), **_RUNS_NOTHING, **(more or {})}
    named = {f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(settings)}
    valued = {f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(settings.values())}
    return {
        "LC_ALL": "C",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_OPTIONAL_LOCKS": "0",  # a command that only reads is in nobody's way
        "GIT_CEILING_DIRECTORIES": str(path.resolve().parent),  # never a repository around one that is lost
        "GIT_AUTHOR_NAME": str(IDENTITY.name),
        "GIT_AUTHOR_EMAIL": str(IDENTITY.email),
        "GIT_COMMITTER_NAME": str(IDENTITY.name),
        "GIT_COMMITTER_EMAIL": str(IDENTITY.email),
        "GIT_CONFIG_COUNT": str(len(settings)),
        **named,
        **valued,
    }


def run_git(path: Path, *arguments: str, stdin: bytes = b"", settings: Mapping[str, str] | None = None) -> bytes:
    """The output of a git command in the folder `path`. Raises GitFailed where it fails."""
    command = ["git", "-C", str(path), *arguments]
    shell = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = shell | git_environment(path, settings)
    done = subprocess.run(command, input=stdin, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise GitFailed(command, done.returncode, done.stderr, done.stdout)
    return done.stdout


def git_succeeds(path: Path, *arguments: str) -> bool:
    """Run a git command for its exit code."""
    try:
        run_git(path, *arguments)
    except GitFailed:
        return False
    return True


def create_empty(path: Path, *options: str) -> None:
    """Make a repository in the folder `path`, or complete one whose making was interrupted."""
    run_git(path, "init", "--quiet", "--template=", "--initial-branch=main", "--object-format=sha1", *options)


def remove_locks(folder: Path) -> None:
    """Remove what a killed git left locked in a `.git` in which no other is at work."""
    for lock in folder.rglob("*.lock"):
        logger.warning("removing %s, left by a killed git", lock)
        lock.unlink()


def refs_of(path: Path, *patterns: str) -> dict[str, str]:
    """The refs below `patterns`, and the objects that they name."""
    lines = run_git(path, "for-each-ref", "--format=%(refname) %(objectname)", *patterns).decode().splitlines()
    return dict(line.split() for line in lines)


def uncommitted(path: Path) -> list[str]:
    """Tracked files that differ from the last commit. A file that a filter stands before counts as committed."""
    keys = _names(path, "config", "-z", "--name-only", "--get-regexp", r"^filter\.", code=1)
    off = {key: "false" if key.endswith(".required") else "" for key in keys}
    status = ("status", "--porcelain", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=dirty")
    changed = [line[3:] for line in run_git(path, *status, settings=off).decode().split("\0") if line]
    if not off or not changed:
        return changed
    attributes = _names(path, "check-attr", "-z", "filter", "--", *changed)
    is_filtered = dict(zip(attributes[::3], attributes[2::3], strict=True))
    return [name for name in changed if is_filtered[name] in ("unspecified", "unset")]


def _names(path: Path, *arguments: str, code: int = 0) -> list[str]:
    """What a command prints, each name ended by a zero byte; nothing where it ends with `code`."""
    try:
        return run_git(path, *arguments).decode().split("\0")[:-1]
    except GitFailed as error:
        if code and error.status == code:
            return []
        raise


def damage(path: Path) -> str | None:
    """What is wrong with the repository in `path`, as git finds it; None when it is whole."""
    if not (path / ".git").exists() and not (path / "objects").exists():
        return f"{path / '.git'} is gone"
    try:
        run_git(path, "fsck", "--no-dangling", "--no-progress")
    except GitFailed as error:
        return error.said
    return None
