"""Writes files that are whole or absent, also after a power cut: into a temporary file, synced, then renamed.

A leftover `.tmp` is not removed; the next try overwrites it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BLOCK_BYTES = 1 << 20


def beside(path: Path) -> Path:
    """Return the temporary path of a file that is not whole yet."""
    return path.with_name(path.name + ".tmp")


def commit_file(path: Path) -> None:
    """Sync the finished `beside(path)` and rename it to `path`."""
    with beside(path).open("rb") as written:
        os.fsync(written.fileno())
    beside(path).rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Replace the file `path` by `content` in one step."""
    beside(path).write_bytes(content)
    commit_file(path)


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file of any size, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
