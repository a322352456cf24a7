"""The process table, read from procfs: who descends from whom, what a tree has used, who carries a marker.

Standard library only, since the guardian uses it. A process may vanish between two reads; that is normal and skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True)
class Process:
    """One line of the table. `processor_s` includes the children it has waited for."""

    pid: int
    parent: int
    state: str
    processor_s: float
    rss_mib: float


@dataclass(frozen=True)
class Usage:
    """What a tree uses now. `processor_s` counts ended descendants too, as long as somebody in the tree reaped them."""

    processor_s: float
    rss_mib: float
    processes: int


def process_table() -> dict[int, Process]:
    """All processes that can be seen, by pid."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := _read(int(name))) is not None:
            table[process.pid] = process
    return table


def descendants(root: int, table: dict[int, Process] | None = None) -> list[Process]:
    """Everything below `root`, itself left out, parents before children; zombies included."""
    table = process_table() if table is None else table
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def usage(root: int) -> Usage:
    """What `root` and everything below it uses."""
    table = process_table()
    tree = descendants(root, table)
    top = [table[root]] if root in table else []
    return Usage(
        processor_s=sum(process.processor_s for process in top + tree),
        rss_mib=sum(process.rss_mib for process in tree),
        processes=len(tree),
    )


def proportional_mib(root: int) -> float | None:
    """Memory below `root` with every shared page counted once, None where the kernel does not tell.

    Walks page tables, so it is for the moment when the plain sum, which counts what forks share again and again,
    looks too large.
    """
    total_kib = 0
    for process in descendants(root):
        try:
            with open(f"/proc/{process.pid}/smaps_rollup", "rb") as file:
                total_kib += next((int(line.split()[1]) for line in file if line.startswith(b"Pss:")), 0)
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:
            return None
    return total_kib / 1024


def carriers(markers: Sequence[bytes]) -> list[int]:
    """Running processes whose environment at their start held one of the markers, this one left out."""
    found = []
    for pid in process_table():
        environment = _environment(pid)
        if pid != os.getpid() and any(marker in environment for marker in markers):
            found.append(pid)
    return found


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Process(
        pid=pid,
        parent=int(fields[1]),
        state=fields[0].decode(),
        processor_s=sum(map(int, fields[11:15])) / _TICKS_PER_S,
        rss_mib=int(fields[21]) * _PAGE_MIB,
    )


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
