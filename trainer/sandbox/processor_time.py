"""Counts processor seconds of a candidate's process tree over its whole life, from procfs. The count never falls.

Promises: seconds of an ended process stay in the count, whether or not its parent waited for it. The system call filter
keeps the kernel from reaping children by itself, so some process waits for each of them, at the latest the guardian,
and its time of children includes them. In addition the seconds of every process ever seen are remembered. The count is
the larger of both sums, and neither counts a second twice. Does not cover work of other processes for a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainer.sandbox.procfs import Process, read
from trainer.sandbox.usage import Usage, tree_usage


class Ledger:
    """The processor seconds of the tree below `root`, including `root`."""

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
