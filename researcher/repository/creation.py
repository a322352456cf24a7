"""The creation of the run's own git repository, in a folder that may hold an unfinished one."""

from __future__ import annotations

import shutil
from pathlib import Path

from researcher.journal.database import SUBJECT_LOCK
from researcher.repository.git_command import create_empty, run_git

_PARTIAL = ".overnight-partial"


def needs_repository(path: Path) -> bool:
    """Return True for a folder that is missing, empty, or holds an unfinished repository."""
    if not path.exists() or (path / _PARTIAL).exists():
        return True
    return all(entry.name == SUBJECT_LOCK for entry in path.iterdir())


def create_repository(path: Path, files: dict[str, str], message: str) -> None:
    """Create a subject repository with `files` in its first commit. After an interruption, the next call starts over.

    The repository is built inside `path`, because a volume's root cannot be the target of a rename.
    """
    partial = path / _PARTIAL
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    create_empty(partial)
    for name, text in files.items():
        (partial / name).write_text(text, encoding="utf-8")
    run_git(partial, "add", "--force", "--", *files)
    run_git(partial, "commit", "--quiet", f"--message={message}")
    for entry in partial.iterdir():
        target = path / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.rename(target)
    partial.rmdir()
