"""Whose turn it is: the share that each proposer has of the experiments, spread evenly. Pure.

A schedule maps the name of a proposer to its share, in order: a share is of the experiments that the names before it
left, and what all of them leave is the optimiser's. A turn that nobody took, because the LLM was away or slow, is owed
once, not many times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from researcher.journal.records import Experiment
from researcher.source.proposal import ProposerName

Schedule = Mapping[str, float]  # from 0 to 1

USUAL_SHARES: Schedule = {ProposerName.LLM: 0.25, ProposerName.ADVISER: 0.3}
FARTHEST = 40  # experiments that are looked ahead: a share below one in so many is not drafted ahead
_ROUNDING = 1e-9


class Mix(StrEnum):
    """Who proposes: `hybrid` shares the turns out, the others are for ablation."""

    HYBRID = "hybrid"
    LLM = "llm"
    OPTIMIZER = "optimizer"
    RANDOM = "random"

    @property
    def asks_llm(self) -> bool:
        """False where knobs are all that is moved."""
        return self in (Mix.HYBRID, Mix.LLM)


@dataclass(frozen=True)
class Count:
    """How many experiments were left to a proposer, and the number of the last of these that it took; 0 for none."""

    left: int = 0
    last: int = 0


Progress = Mapping[str, Count]  # by the names of a schedule, in its order


def progress(schedule: Schedule, experiments: Iterable[Experiment]) -> Progress:
    """From the journal; the baseline was nobody's."""
    so_far: Progress = {name: Count() for name in schedule}
    for item in experiments:
        if not item.is_baseline:
            so_far = and_then(so_far, item.proposer)
    return so_far


def and_then(so_far: Progress, taken_by: str | None) -> Progress:
    """One experiment later."""
    counts = dict(so_far)
    for name, count in so_far.items():
        number = count.left + 1
        if name == taken_by:
            counts[name] = Count(number, number)
            break
        counts[name] = Count(number, count.last)
    return counts


def upcoming(so_far: Progress, schedule: Schedule, count: int = FARTHEST) -> list[str]:
    """Whose the next experiments are, if everybody takes their turns."""
    found: list[str] = []
    for _ in range(count):
        found.append(_next(so_far, schedule))
        so_far = and_then(so_far, found[-1])
    return found


def _next(so_far: Progress, schedule: Schedule) -> str:
    due = (name for name, share in schedule.items() if _is_due(so_far[name].left + 1, so_far[name].last, share))
    return next(due, ProposerName.OPTIMIZER)


def _is_due(number: int, last: int, share: float) -> bool:
    """Whether the share has more turns up to this one than up to the last one taken."""
    return _count(number, share) > _count(last, share)


def _count(number: int, share: float) -> int:
    """How many of the first `number` are the share's."""
    return math.ceil(share * number - _ROUNDING)
