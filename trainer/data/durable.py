"""Files that are there whole or not at all, also after a power cut: written beside, synced, renamed.

Nothing here cleans up: a leftover `.tmp` is overwritten by the next try.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BLOCK_BYTES = 1 << 20


def beside(path: Path) -> Path:
    """The name under which `path` is written until it is whole."""
    return path.with_name(path.name + ".tmp")


def settle(path: Path) -> None:
    """Give the finished `beside(path)` its name."""
    with beside(path).open("rb") as written:
        os.fsync(written.fileno())
    beside(path).rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step."""
    beside(path).write_bytes(content)
    settle(path)


def file_sha256(path: Path) -> str:
    """The sha256 of a file of any size, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
