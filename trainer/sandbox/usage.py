"""What a tree of processes uses, and who carries a marker: measured from outside, through procfs.

A process may vanish between two reads; that is normal and skipped. Does not cover memory without an owner in the tree,
but for what lies in a /dev/shm of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.sandbox.cgroup import group_memory_mib
from trainer.sandbox.procfs import Process, descendants, place, process_table

_SHARED_MEMORY = "/dev/shm"
_HELD = "Tt"  # states in procfs: stopped by a signal, stopped by a tracer


@dataclass(frozen=True)
class Usage:
    """What a tree uses now, its root among its `processes`. `processor_s` counts ended descendants too, as long as
    somebody in the tree waited for them; `files_mib` is what its own /dev/shm holds, mapped or not; `stopped` is True
    while a signal or a tracer holds one of them."""

    processor_s: float
    rss_mib: float
    files_mib: float
    pids: tuple[int, ...]
    processes: tuple[Process, ...] = ()
    stopped: bool = False


def tree_usage(root: int) -> Usage:
    """What `root` and everything below it uses."""
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
    """Memory below `root`, and `files_mib` of its /dev/shm, with every shared page counted once; None where the kernel
    does not tell. Files that are mapped are in both, so the larger counts.

    In a container we may not look into another user's processes: there it is what the group holds more than before.
    Walks page tables, so it is for the moment when the plain sum, which counts what forks share again and again,
    looks too large.
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
    """Shared memory that processes map, every page counted once; 0 for those into which we may not look."""
    kib = 0
    for pid in pids:
        try:
            with open(f"{place(pid)}/smaps_rollup", "rb") as file:
                kib += sum(int(line.split()[1]) for line in file if line.startswith(b"Pss_Shmem:"))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return kib / 1024


def own_shared_memory_mib(pids: Iterable[int]) -> float:
    """What lies in a /dev/shm of the tree's own; 0 where it has none, or we may not look."""
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
    """Running processes whose environment at their start held one of the markers, this one left out."""
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
