"""Processor seconds of a candidate's tree for its whole life: a count that never falls, read from procfs.

Promises: seconds of an ended process count on, whether or not its parent waited for it. The system call filter keeps
the kernel from reaping children by itself, so every one is waited for in the end, by the guardian at the latest, and
stands in somebody's time of children; beyond that, every process that was ever seen is remembered by itself. Neither
sum counts a second twice. Does not cover work that other processes of the machine do for a candidate.
"""

from __future__ import annotations

from collections.abc import Iterable

from trainer.sandbox.procfs import Process, read
from trainer.sandbox.usage import Usage, tree_usage


class Ledger:
    """The count of the tree below `root`, root included."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._own_s: dict[tuple[int, int], float] = {}
        self._living: list[Process] = []
        self.processor_s = 0.0

    def look(self) -> Usage:
        """What the tree uses now; the count is brought up to date. Reads the table of all processes."""
        usage = tree_usage(self._root)
        self._living = list(usage.processes)
        self.note(self._living)
        return usage

    def glance(self) -> float:
        """The count after a look at the processes that the last look found; those started since follow with the next.

        Costs a file a process, so it can be done at every answer.
        """
        again = [(known, read(known.pid)) for known in self._living]
        self.note([now for known, now in again if now is not None and now.began == known.began])
        return self.processor_s

    def note(self, processes: Iterable[Process]) -> None:
        """Remember these, which are of the tree, all at one moment."""
        processes = list(processes)
        for process in processes:
            name = process.pid, process.began
            self._own_s[name] = max(self._own_s.get(name, 0.0), process.own_s)
        waited_for_s = sum(process.processor_s for process in processes)
        self.processor_s = max(self.processor_s, waited_for_s, sum(self._own_s.values()))
