"""Derives how long set-up and warm-up of a trial may take from those of the baseline. Pure functions of values.

A user's script may load data, compile or fetch kernels before its first batch, so no share of the budget fits all. The
baseline's set-up is free, because it is the user's own code. Later trials have twice its median; more counts as
training. Journals of earlier versions hold no such times, and their trials keep the share of the budget.

The warm-up covers compilation, which takes longer the fewer cores a machine has. The baseline's first trial compiles
everything; later trials have 1.5 times the longest warm-up of the baseline, and never less than the budget says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from trainer.jobs import Budget, Clock

BASELINE_SETUP_S = 600.0
SETUP_FACTOR = 2.0
BASELINE_WARMUP_S = 600.0
WARMUP_FACTOR = 1.5
_MOST_OF_OWN_CLOCK = 0.5
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


def with_warmup(budget: Budget, measured: Sequence[float] | None) -> Budget:
    """Return the budget with the cap of the uncounted warm-up in wall seconds, unless it counts from the first step.

    `measured` are the baseline's warm-ups in wall seconds, or None while the baseline is measured. A script that times
    itself may take steps that nobody can count, so that only the cap ends its warm-up: then half of the budget is the
    most that the cap rises to.
    """
    if not budget.warmup_steps:
        return budget
    wanted_s = BASELINE_WARMUP_S if measured is None else WARMUP_FACTOR * max(measured, default=0.0)
    most_s = math.inf if budget.setup_clock is None else _MOST_OF_OWN_CLOCK * budget.amount
    return replace(budget, warmup_cap_s=max(budget.warmup_cap_s, min(wanted_s, most_s)))
