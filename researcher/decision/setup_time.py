"""Derives how long the set-up of a trial may take from those of the unmodified baseline. Pure functions of values.

A user's script may load data, compile or fetch kernels before its first batch, so no share of the budget fits all. The
baseline's set-up is free, because it is the user's own code. Later trials have twice its median; more counts as
training. Journals of earlier versions hold no such times, and their trials keep the share of the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from trainer.jobs import Budget, Clock

BASELINE_SETUP_S = 600.0
SETUP_FACTOR = 2.0
_WALL_PER_PROCESSOR_S = 10.0  # on a busy machine, as for the budget


def with_setup(budget: Budget, measured: Sequence[float] | None) -> Budget:
    """Return the budget with the free set-up and the limit of a set-up that hangs.

    `measured` are the baseline's set-ups in the clock of the set-up, or None while the baseline is measured.
    """
    if measured is None:
        return replace(budget, free_setup=BASELINE_SETUP_S, setup_s=max(budget.setup_s, BASELINE_SETUP_S))
    if not measured:
        return budget
    free = SETUP_FACTOR * median(measured)
    wall_s = free if budget.clock_of_setup is Clock.WALL else _WALL_PER_PROCESSOR_S * free
    return replace(budget, free_setup=free, setup_s=max(budget.setup_s, wall_s))
