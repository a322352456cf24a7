"""What a tree of processes uses, and who carries a marker: measured from outside, through procfs.

A process may vanish between two reads; that is normal and skipped.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from trainer.procfs import descendants, process_table


@dataclass(frozen=True)
class Usage:
    """What a tree uses now. `processor_s` counts ended descendants too, as long as somebody in the tree reaped them."""

    processor_s: float
    rss_mib: float
    pids: tuple[int, ...]


def tree_usage(root: int) -> Usage:
    """What `root` and everything below it uses."""
    table = process_table()
    tree = descendants(root, table)
    top = [table[root]] if root in table else []
    return Usage(
        processor_s=sum(process.processor_s for process in top + tree),
        rss_mib=sum(process.rss_mib for process in tree),
        pids=tuple(process.pid for process in tree),
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


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
