"""The researcher as a process whose optimiser reads a script: every tenth proposal is truly better, no other is.

So a thousand experiments are alike: keeps and claims come at the same pace from the first to the last. Everything else
is real: loop, journal, git, queue, projections. It takes a reading before the first of each EVERY proposals and at the
end. `python -m tests.bench.scripted_researcher READINGS DONE EVERY [--real]`: DONE proposals were made before; with
`--real` the real optimiser proposes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import researcher.__main__ as process
from researcher import wiring
from researcher.loop.context import RunContext
from researcher.loop.loop import run_until_goal
from researcher.optimizer.optimizer import Optimizer, Vetted
from researcher.source.proposal import Proposal, ProposerName, SetKnobs
from trainer.sandbox.procfs import process_table
from trainer.sandbox.usage import tree_usage
from trainer.trial import machine

BETTER_EVERY = 10
START_LEVEL = 22.0  # enough for ten thousand experiments
STEP = 0.02  # ten times the scripted trainer's noise


class Readings:
    """Lines of JSON: the resources that this process and its children used up to a number of proposals."""

    def __init__(self, path: Path, every: int) -> None:
        self._path = path
        self._every = every
        self._proposals = 0
        self._reading_s = self._reading_processor_s = 0.0

    def count(self) -> int:
        """Count one more proposal. Returns the number before it."""
        if self._proposals % self._every == 0:
            self.take()
        self._proposals += 1
        return self._proposals - 1

    def take(self) -> None:
        """Take a reading, and time a fixed piece of work; neither is counted."""
        tree, began = tree_usage(os.getpid()), time.monotonic()
        fixed_work_s = machine.processor_s()
        reading = {
            "proposals": self._proposals,
            "at": began - self._reading_s,
            "processor_s": tree.processor_s - self._reading_processor_s,
            "fixed_work_s": fixed_work_s,
            "own_mib": process_table()[os.getpid()].rss_mib,
            "git_mib": tree.rss_mib,
            "descriptors": len(os.listdir("/proc/self/fd")),
        }
        with self._path.open("a") as file:
            print(json.dumps(reading), file=file)
        self._reading_s += time.monotonic() - began
        self._reading_processor_s += tree_usage(os.getpid()).processor_s - tree.processor_s


class ScriptedOptimizer:
    """Moves LEVEL by the script, never to an earlier value."""

    name = ProposerName.OPTIMIZER

    def __init__(self, readings: Readings, done: int) -> None:
        self._readings, self._done = readings, done

    def learn(self, *_: object) -> None:
        """Learn nothing."""

    def propose(self, source: str, vet: Callable[[Proposal], Vetted]) -> Vetted:
        """Return the next line of the script."""
        number = self._done + self._readings.count() + 1
        level = START_LEVEL - STEP * (number // BETTER_EVERY)
        if number % BETTER_EVERY:
            level += STEP + 1e-6 * number
        moves = SetKnobs({"LEVEL": round(level, 6)})
        return vet(Proposal(ProposerName.OPTIMIZER, f"LEVEL -> {level:.6f}", "as the script has it", (moves,)))


class ReadOptimizer(Optimizer):
    """The real optimiser, with the same readings."""

    readings: Readings

    def propose(self, source: str, vet: Callable[[Proposal], Vetted]) -> Vetted:
        """Count the proposal, and propose as the real optimiser."""
        self.readings.count()
        return super().propose(source, vet)


def main() -> int:
    """Run the researcher's own `main` with another optimiser."""
    readings = Readings(Path(sys.argv[1]), int(sys.argv[3]))
    if "--real" in sys.argv:
        ReadOptimizer.readings = readings
        wiring.Optimizer = ReadOptimizer
    else:
        wiring.Optimizer = lambda **_: ScriptedOptimizer(readings, int(sys.argv[2]))
    process.run_until_goal = lambda run_context: _work(run_context, readings)
    return process.main()


def _work(run_context: RunContext, readings: Readings) -> str:
    reason = run_until_goal(run_context)
    readings.take()
    return reason


if __name__ == "__main__":
    raise SystemExit(main())
