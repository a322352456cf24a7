"""What a candidate holds on disks, counted a slice at a time: all below its work folder, and what it has open without
a name, memory files too.

Promises: a look takes one slice of time whatever lies there, so a round over a hundred thousand files takes some ten
looks; a small file counts as a block, a hard link as its share; who hides its descriptors is Hidden. Memory files whose
descriptors are on their way between sockets have no holder: as long as some are, the machine's shared memory counts as
far as nothing else of the candidate explains it. Does not cover what is written between two looks, and a file without a
name that is only mapped.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.sandbox import procfs
from trainer.sandbox.usage import own_shared_memory_mib, shared_once_mib

_SLICE_S = 0.02
_BLOCK_BYTES = 4096
_DEEPEST = 64
_VANISHED = (FileNotFoundError, NotADirectoryError, ProcessLookupError)
_ROUNDS_ON_THE_WAY = 4  # loaders hand descriptors over, and none of theirs is on its way for long


class Hidden(RuntimeError):
    """A part of a work folder, or of a process, that cannot be counted; the message says which."""


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
        self._rounds_on_the_way = 0
        self._closed: set[int] = set()
        self._shared_before_mib = _shared_memory_mib()

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
        nameless_bytes, on_the_way = 0, False
        closed = {pid for pid in self._pids if not _can_be_looked_into(pid)}
        if closed & self._closed:  # twice: a process that is just ending is closed too
            raise Hidden("a process that nobody may look into, so what it holds cannot be counted")
        self._closed = closed
        for pid in self._pids:
            for descriptor, file in _descriptors(pid):
                if (key := (file.st_dev, file.st_ino)) in seen:
                    continue
                seen.add(key)
                if stat.S_ISREG(file.st_mode) and file.st_nlink == 0:
                    nameless_bytes += file.st_blocks * 512
                    yield file.st_blocks * 512
                elif stat.S_ISSOCK(file.st_mode):
                    on_the_way = on_the_way or _has_descriptors(pid, descriptor)
                    yield 0
        self._rounds_on_the_way = self._rounds_on_the_way + 1 if on_the_way else 0
        if self._rounds_on_the_way >= _ROUNDS_ON_THE_WAY:
            yield max(0.0, self._unexplained_mib() * 2**20 - nameless_bytes)

    def _unexplained_mib(self) -> float:
        """By how much the machine's shared memory has grown, without the candidate's own /dev/shm and what it maps."""
        explained_mib = own_shared_memory_mib(self._pids) + shared_once_mib(self._pids)
        return _shared_memory_mib() - self._shared_before_mib - explained_mib


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


def _descriptors(pid: int) -> Iterator[tuple[str, os.stat_result]]:
    """What a process has open, by the descriptor's number; nothing where we may not look."""
    try:
        with os.scandir(f"{procfs.place(pid)}/fd") as descriptors:
            for descriptor in descriptors:
                try:
                    yield descriptor.name, os.stat(descriptor.path)
                except _VANISHED:
                    continue
    except (*_VANISHED, PermissionError):
        return


def _can_be_looked_into(pid: int) -> bool:
    """False for a process that runs and whose descriptors are closed to us."""
    try:
        os.close(os.open(f"{procfs.place(pid)}/fd", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        process = procfs.read(pid)
        return process is None or process.state in "ZX"
    except _VANISHED:
        return True
    return True


def _has_descriptors(pid: int, socket: str) -> bool:
    """Whether descriptors wait in a socket to be received; the kernel tells it of unix sockets, since 5.9."""
    try:
        with open(f"{procfs.place(pid)}/fdinfo/{socket}", "rb") as file:
            return any(line.startswith(b"scm_fds:") and int(line.split()[1]) > 0 for line in file)
    except (*_VANISHED, PermissionError):
        return False


def _shared_memory_mib() -> float:
    """Of the whole machine: memory files and what lies in every tmpfs."""
    with open("/proc/meminfo", "rb") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(b"Shmem:"))
