"""Whose turn it is: a share of the experiments for an LLM's edits, one of the knob moves for its advice. Pure.

Turns of a kind are spread evenly. One that nobody took, because the LLM was away or slow, is owed once, not many times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from researcher.journal.records import Experiment
from researcher.source.proposal import Proposer

FARTHEST = 40  # experiments that are looked ahead: a share below one in so many is not drafted ahead
_ROUNDING = 1e-9


class Turn(StrEnum):
    """What the next proposal is to be."""

    EDIT = "edit"  # an LLM changes whatever it likes
    ADVICE = "advice"  # an LLM moves knobs, having seen what the optimiser would do
    KNOBS = "knobs"  # the optimiser alone


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


TURNS: Mapping[Proposer | None, Turn] = {Proposer.LLM: Turn.EDIT, Proposer.ADVISER: Turn.ADVICE}


@dataclass(frozen=True)
class Shares:
    """`edits` is of all experiments, `advice` of the others; each from 0 to 1."""

    edits: float
    advice: float


USUAL_SHARES = Shares(edits=0.25, advice=0.3)


@dataclass(frozen=True)
class Taken:
    """Whose the experiments so far were: how many there are, and the last that was an edit; how many others, and the
    last of those that was advised. 0 for none."""

    experiments: int = 0
    edit: int = 0
    others: int = 0
    advised: int = 0

    def and_then(self, turn: Turn) -> Taken:
        """One experiment later."""
        number, others = self.experiments + 1, self.others + 1
        if turn is Turn.EDIT:
            return replace(self, experiments=number, edit=number)
        return Taken(number, self.edit, others, others if turn is Turn.ADVICE else self.advised)


def taken(experiments: Iterable[Experiment]) -> Taken:
    """From the journal; the baseline was nobody's."""
    so_far = Taken()
    for item in experiments:
        if not item.is_baseline:
            so_far = so_far.and_then(TURNS.get(item.proposer, Turn.KNOBS))
    return so_far


def turn_of(so_far: Taken, shares: Shares) -> Turn:
    """Of the next experiment."""
    if _is_due(so_far.experiments + 1, so_far.edit, shares.edits):
        return Turn.EDIT
    return Turn.ADVICE if _is_due(so_far.others + 1, so_far.advised, shares.advice) else Turn.KNOBS


def coming(so_far: Taken, shares: Shares, count: int) -> list[Turn]:
    """The LLM's next turns, `count` of them or fewer."""
    found: list[Turn] = []
    for _ in range(FARTHEST):
        turn = turn_of(so_far, shares)
        so_far = so_far.and_then(turn)
        if turn is not Turn.KNOBS:
            found.append(turn)
        if len(found) == count:
            break
    return found


def _is_due(number: int, last: int, share: float) -> bool:
    """Whether the share has more turns up to this one than up to the last one taken."""
    return _count(number, share) > _count(last, share)


def _count(number: int, share: float) -> int:
    """How many of the first `number` are the share's."""
    return math.ceil(share * number - _ROUNDING)
