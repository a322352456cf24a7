"""Measures a process tree now and over its life, and finds processes with a marker, from outside, through procfs.

A process that vanishes between two reads is skipped. Does not cover memory that no process of the tree holds, except
files in the tree's own /dev/shm.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.sandbox.cgroup import group_memory_mib
from trainer.sandbox.procfs import Process, descendants, place, process_table, read

_SHARED_MEMORY = "/dev/shm"
_HELD = "Tt"  # states in procfs: stopped by a signal, stopped by a tracer


@dataclass(frozen=True)
class Usage:
    """The present usage of a tree; `processes` include its root, `pids` and `rss_mib` do not.

    `processor_s` includes ended descendants for which a process of the tree has waited. `files_mib` is the content of
    the tree's own /dev/shm, mapped or not. `stopped` is True if a signal or a tracer has stopped one of the processes.
    """

    processor_s: float
    rss_mib: float
    files_mib: float
    pids: tuple[int, ...]
    processes: tuple[Process, ...] = ()
    stopped: bool = False


def tree_usage(root: int) -> Usage:
    """Return the present usage of `root` and all its descendants."""
    table = process_table()
    tree = descendants(root, table)
    top = [table[root]] if root in table else []
    return Usage(
        processor_s=sum(process.processor_s for process in top + tree),
        rss_mib=sum(process.rss_mib for process in tree),
        files_mib=own_shared_memory_mib(process.pid for process in tree),
        pids=tuple(process.pid for process in tree),
        processes=(*top, *tree),
        stopped=any(process.state in _HELD for process in tree),
    )


def held_once_mib(root: int, files_mib: float, group_before_mib: float | None) -> float | None:
    """Return the memory in MiB below `root`, with each shared page counted once, or None if it cannot be measured.

    `files_mib` is the content of the tree's /dev/shm. Mapped files are in both numbers, so the larger one counts. In a
    container the trainer may not read another user's processes; there the growth of the control group's memory since
    `group_before_mib` is returned. The call walks page tables, so make it only if the plain sum, which counts shared
    pages of forks several times, is too large.
    """
    kib = {b"Pss:": 0, b"Pss_Shmem:": 0}
    for process in descendants(root):
        try:
            with open(f"{place(process.pid)}/smaps_rollup", "rb") as file:
                for line in file:
                    name, _, value = line.partition(b" ")
                    if name in kib:
                        kib[name] += int(value.split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            now_mib = group_memory_mib()
            return None if now_mib is None or group_before_mib is None else now_mib - group_before_mib
    mapped_mib = kib[b"Pss_Shmem:"] / 1024
    return kib[b"Pss:"] / 1024 - mapped_mib + max(mapped_mib, files_mib)


def shared_once_mib(pids: Iterable[int]) -> float:
    """Return the shared memory in MiB that processes map, each page counted once. Processes closed to the trainer count
    as 0.
    """
    kib = 0
    for pid in pids:
        try:
            with open(f"{place(pid)}/smaps_rollup", "rb") as file:
                kib += sum(int(line.split()[1]) for line in file if line.startswith(b"Pss_Shmem:"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return kib / 1024


def own_shared_memory_mib(pids: Iterable[int]) -> float:
    """Return the MiB in the tree's own /dev/shm, or 0 if it has none or is closed to the trainer."""
    ours = os.stat(_SHARED_MEMORY).st_dev
    for pid in pids:
        memory = f"{place(pid)}/root{_SHARED_MEMORY}"
        try:
            if os.stat(memory).st_dev != ours:
                seen = os.statvfs(memory)
                return (seen.f_blocks - seen.f_bfree) * seen.f_frsize / 2**20
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return 0.0


def carriers(markers: Sequence[bytes]) -> list[int]:
    """Return the pids of other running processes that had one of the markers in their environment at their start."""
    found = []
    for pid in process_table():
        environment = _environment(f"/proc/{pid}") or _environment(place(pid))
        if pid != os.getpid() and any(marker in environment for marker in markers):
            found.append(pid)
    return found


def _environment(folder: str) -> bytes:
    try:
        with open(f"{folder}/environ", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


class Ledger:
    """The processor seconds of the tree below `root`, including `root`, over its whole life. The count never falls.

    Seconds of an ended process stay in the count, whether or not its parent waited for it. The system call filter keeps
    the kernel from reaping children by itself, so some process waits for each of them, at the latest the guardian, and
    its time of children includes them. In addition the seconds of every process ever seen are remembered. The count is
    the larger of both sums, and neither counts a second twice. Does not cover work of other processes for a candidate.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._own_s: dict[tuple[int, int], float] = {}
        self._living: list[Process] = []
        self.processor_s = 0.0

    def measure(self) -> Usage:
        """Update the count and return the tree's present usage. This reads the table of all processes."""
        usage = tree_usage(self._root)
        self._living = list(usage.processes)
        self.note(self._living)
        return usage

    def glance(self) -> float:
        """Update the count from the processes that the last `measure` found, and return it in seconds.

        Processes that have started since are counted by the next `measure`. This reads one file per process, so it is
        cheap enough for every answer.
        """
        again = [(known, read(known.pid)) for known in self._living]
        self.note([now for known, now in again if now is not None and now.began == known.began])
        return self.processor_s

    def note(self, processes: Iterable[Process]) -> None:
        """Update the count from processes of the tree that were all read at the same moment."""
        processes = list(processes)
        for process in processes:
            name = process.pid, process.began
            self._own_s[name] = max(self._own_s.get(name, 0.0), process.own_s)
        waited_for_s = sum(process.processor_s for process in processes)
        self.processor_s = max(self.processor_s, waited_for_s, sum(self._own_s.values()))
