"""Assigns the experiments to the proposers by their shares, evenly spread. Pure functions.

A schedule maps the name of a proposer to its share, in order. Each share applies to the experiments that earlier names
left over, and the optimiser gets the rest. Turns that were not taken, because the LLM was unavailable or slow, are made
up for only once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from researcher.journal.records import Experiment
from researcher.source.proposal import ProposerName
from trainer.jobs import Outcome

Schedule = Mapping[str, float]  # name of a proposer -> share from 0 to 1

USUAL_SHARES: Schedule = {ProposerName.LLM: 0.25, ProposerName.ADVISER: 0.3}
FARTHEST = 40  # experiments to look ahead; drafts are not prepared for a share below 1/40
_ROUNDING = 1e-9


class Mix(StrEnum):
    """The proposers of a run: `hybrid` divides the turns between LLM and optimiser; the others are for comparison."""

    HYBRID = "hybrid"
    LLM = "llm"
    OPTIMIZER = "optimizer"
    RANDOM = "random"

    @property
    def asks_llm(self) -> bool:
        """False if the run only moves knobs without an LLM."""
        return self in (Mix.HYBRID, Mix.LLM)


@dataclass(frozen=True)
class Count:
    """The number of experiments left to a proposer, and the position of the last of these that it took; 0 for none."""

    left: int = 0
    last: int = 0


Progress = Mapping[str, Count]  # by the names of a schedule, in its order


def progress(schedule: Schedule, experiments: Iterable[Experiment], before: Progress | None = None) -> Progress:
    """Count the experiments of the journal for each proposer of the schedule.

    The baseline does not count, nor a question without an answer: it takes nobody's turn. `before` is the progress
    until the first of the experiments, None at the beginning of the run.
    """
    so_far: Progress = {name: Count() for name in schedule} if before is None else before
    for item in experiments:
        if not item.is_baseline and item.outcome is not Outcome.UNANSWERED:
            so_far = and_then(so_far, item.proposer)
    return so_far


def and_then(so_far: Progress, taken_by: str | None) -> Progress:
    """Return the progress after one more experiment."""
    counts = dict(so_far)
    for name, count in so_far.items():
        number = count.left + 1
        if name == taken_by:
            counts[name] = Count(number, number)
            break
        counts[name] = Count(number, count.last)
    return counts


def upcoming(so_far: Progress, schedule: Schedule, count: int = FARTHEST) -> list[str]:
    """Return the names of the proposers of the next experiments, if each proposer takes its turns."""
    found: list[str] = []
    for _ in range(count):
        found.append(_next(so_far, schedule))
        so_far = and_then(so_far, found[-1])
    return found


def _next(so_far: Progress, schedule: Schedule) -> str:
    due = (name for name, share in schedule.items() if _is_due(so_far[name].left + 1, so_far[name].last, share))
    return next(due, ProposerName.OPTIMIZER)


def _is_due(number: int, last: int, share: float) -> bool:
    """Return True if the share includes more turns up to `number` than up to the last turn taken."""
    return _count(number, share) > _count(last, share)


def _count(number: int, share: float) -> int:
    """Return how many of the first `number` turns belong to the share."""
    return math.ceil(share * number - _ROUNDING)
