"""What a candidate holds on disks, counted a slice at a time: all below its work folder, and what it has open without
a name, memory files too.

Promises: a look takes one slice of time whatever lies there, so a round over a hundred thousand files takes some ten
looks; a small file counts as a block, a hard link as its share. Does not cover what is written between two looks, and
a file without a name that is only mapped or belongs to a process whose descriptors we may not see.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_SLICE_S = 0.02
_BLOCK_BYTES = 4096
_DEEPEST = 64
_VANISHED = (FileNotFoundError, NotADirectoryError, ProcessLookupError)


class Hidden(RuntimeError):
    """A part of a work folder that cannot be counted; the message says which."""


@dataclass(frozen=True)
class Held:
    """What has been counted in this round so far."""

    files: int
    mib: float


def can_be_counted(work: Path) -> bool:
    """False where the folder is the candidates' own and we have no right to look; a container's has a size instead."""
    return os.access(work, os.R_OK | os.X_OK)


class Holdings:
    """One candidate's. A round that was not ended in one look goes on in the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pids: Sequence[int] = ()
        self._round: Iterator[float] | None = None
        self._files, self._bytes = 0, 0.0

    def look(self, pids: Sequence[int]) -> Held:
        """Count on, the descriptors of these processes last. Raises Hidden."""
        self._pids = pids
        if self._round is None:
            self._round, self._files, self._bytes = self._sizes(), 0, 0.0
        until = time.monotonic() + _SLICE_S
        for size_bytes in self._round:
            self._files += 1
            self._bytes += size_bytes
            if time.monotonic() > until:
                break
        else:
            self._round = None
        return Held(self._files, self._bytes / 2**20)

    def _sizes(self) -> Iterator[float]:
        yield from _below(str(self._folder), _DEEPEST)
        seen: set[tuple[int, int]] = set()
        for pid in self._pids:
            for file in _nameless(pid):
                if (key := (file.st_dev, file.st_ino)) not in seen:
                    seen.add(key)
                    yield file.st_blocks * 512


def _below(folder: str, deepest: int) -> Iterator[float]:
    """Bytes on the disk, entry by entry."""
    if deepest == 0:
        raise Hidden(f"folders deeper than {_DEEPEST} below its work folder")
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    file = entry.stat(follow_symlinks=False)
                except _VANISHED:
                    continue
                if stat.S_ISDIR(file.st_mode):
                    yield _BLOCK_BYTES
                    yield from _below(entry.path, deepest - 1)
                else:
                    yield max(file.st_blocks * 512, _BLOCK_BYTES) / max(file.st_nlink, 1)
    except _VANISHED:
        return
    except OSError as error:
        raise Hidden(f"a folder that cannot be looked into ({error.strerror})") from error


def _nameless(pid: int) -> Iterator[os.stat_result]:
    """Open files that were removed, or never had a name."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as descriptors:
            for descriptor in descriptors:
                try:
                    file = os.stat(descriptor.path)
                except _VANISHED:
                    continue
                if stat.S_ISREG(file.st_mode) and file.st_nlink == 0:
                    yield file
    except (*_VANISHED, PermissionError):
        return
