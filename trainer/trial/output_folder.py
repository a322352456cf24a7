"""Looks at what a candidate left in its work folder, after its last process is dead.

Nothing that a candidate left is followed: a link could lead to the data that score it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

_MOST_FILES = 10_000


def output_fault(folder: Path, cap_mib: int) -> str | None:
    """Return why an output folder cannot be scored, or None."""
    size, files = 0, 0
    for path, status in _entries(folder):
        if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
            return f"it left {path.name[:80]!r}, which is neither a file nor a folder"
        size, files = size + status.st_size, files + stat.S_ISREG(status.st_mode)
        if files > _MOST_FILES or size > cap_mib * 2**20:
            return f"it left more than {_MOST_FILES} files or {cap_mib} MiB to be scored"
    return None if files else "it left nothing to be scored"


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    status = folder.lstat()
    yield folder, status
    if stat.S_ISDIR(status.st_mode):
        for path in folder.iterdir():
            yield from _entries(path)


def changed_file(folder: Path, pins: Mapping[str, str]) -> str | None:
    """Return the first pinned file below `folder` that has another content now, or None."""
    return next((name for name, digest in pins.items() if _digest(folder, name) != digest), None)


def _digest(folder: Path, name: str) -> str | None:
    """Return the sha256 of a file, or None if it is gone, or no part of its path may be followed."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        *parents, last = Path(name).parts
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = inner
        with os.fdopen(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if _is_regular(file.fileno()) else None
    except OSError:
        return None
    finally:
        os.close(opened)


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
