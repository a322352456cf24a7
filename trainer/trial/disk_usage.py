"""Counts a candidate's files on disks: all files below its work folder, and open files without a name, which include
memory files.

Promises: each call takes one slice of time however many files exist, so a round over a hundred thousand files takes
about ten calls. A small file counts as a block, a hard link as its share. A process that hides its descriptors raises
Hidden. A memory file whose descriptor waits in a socket belongs to no process: while there are such descriptors, the
growth of the machine's shared memory counts, minus what the candidate's other files explain. Does not cover: data
written between two calls; a nameless file that is only mapped.
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
_ROUNDS_ON_THE_WAY = 4  # data loaders send descriptors too, but receive them soon


class Hidden(RuntimeError):
    """Raised when a part of a work folder or of a process cannot be counted. The message names it."""


@dataclass(frozen=True)
class Held:
    """The files and MiB that were counted in this round so far."""

    files: int
    mib: float


def can_be_counted(work: Path) -> bool:
    """Return whether the trainer may read the work folder.

    In a container the folder belongs to the candidates' user and has a limited size instead.
    """
    return os.access(work, os.R_OK | os.X_OK)


class Holdings:
    """The disk usage of one candidate. A round that one call does not finish continues in the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pids: Sequence[int] = ()
        self._round: Iterator[float] | None = None
        self._files, self._bytes = 0, 0.0
        self._rounds_on_the_way = 0
        self._closed: set[int] = set()
        self._shared_before_mib = _shared_memory_mib()

    def measure(self, pids: Sequence[int]) -> Held:
        """Continue the count for one slice of time, the descriptors of these processes last. Raise Hidden."""
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
        if closed & self._closed:  # twice in a row, because a process that is just ending is closed too
            raise Hidden("a process that the trainer may not inspect, so its open files cannot be counted")
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
        """Return the growth of the machine's shared memory in MiB, minus the candidate's /dev/shm and mappings."""
        explained_mib = own_shared_memory_mib(self._pids) + shared_once_mib(self._pids)
        return _shared_memory_mib() - self._shared_before_mib - explained_mib


def _below(folder: str, deepest: int) -> Iterator[float]:
    """Yield the bytes on disk of each entry below a folder. Raise Hidden for an unreadable or too deep folder."""
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
    """Yield number and status of a process's open descriptors; none if they are closed to the trainer."""
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
    """Return False for a running process with descriptors that are closed to the trainer."""
    try:
        os.close(os.open(f"{procfs.place(pid)}/fd", os.O_RDONLY | os.O_DIRECTORY))
    except PermissionError:
        process = procfs.read(pid)
        return process is None or process.state in "ZX"
    except _VANISHED:
        return True
    return True


def _has_descriptors(pid: int, socket: str) -> bool:
    """Return whether descriptors wait in a socket. Linux shows this for Unix sockets since 5.9."""
    try:
        with open(f"{procfs.place(pid)}/fdinfo/{socket}", "rb") as file:
            return any(line.startswith(b"scm_fds:") and int(line.split()[1]) > 0 for line in file)
    except (*_VANISHED, PermissionError):
        return False


def _shared_memory_mib() -> float:
    """Return the machine's shared memory in MiB: memory files and the contents of every tmpfs."""
    with open("/proc/meminfo", "rb") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(b"Shmem:"))
