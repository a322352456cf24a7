"""Whose turn it is: a share of the experiments for an LLM's edits, one of the knob moves for its advice. Pure.

Turns of a kind are spread evenly. One that nobody took, because the LLM was away or slow, is owed once, not many times.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from researcher.experiment import Experiment
from researcher.proposal import Proposer

FARTHEST = 40  # experiments that are looked ahead: a share below one in so many is not drafted ahead
_ROUNDING = 1e-9


class Turn(StrEnum):
    """What the next proposal is to be."""

    EDIT = "edit"  # an LLM changes whatever it likes
    ADVICE = "advice"  # an LLM moves knobs, having seen what the optimiser would do
    KNOBS = "knobs"  # the optimiser alone


TURNS = {Proposer.LLM: Turn.EDIT, Proposer.ADVISER: Turn.ADVICE}


@dataclass(frozen=True)
class Shares:
    """`edits` is of all experiments, `advice` of the others; each from 0 to 1."""

    edits: float
    advice: float

    def of(self, turn: Turn) -> float:
        """The share of all experiments."""
        return {
            Turn.EDIT: self.edits,
            Turn.ADVICE: self.advice * (1 - self.edits),
            Turn.KNOBS: (1 - self.advice) * (1 - self.edits),
        }[turn]


def newest(experiments: Iterable[Experiment]) -> dict[Turn, int]:
    """The number of the last experiment of each kind of turn that an LLM took, 0 for none."""
    found = dict.fromkeys(TURNS.values(), 0)
    for item in experiments:
        if item.proposer in TURNS:
            found[TURNS[item.proposer]] = max(found[TURNS[item.proposer]], item.number)
    return found


def turn_of(number: int, last: Mapping[Turn, int], shares: Shares) -> Turn:
    """Of the experiment `number`, counted from 1; `last` is as `newest` has it, of those before it."""
    due = (
        turn
        for turn in (Turn.EDIT, Turn.ADVICE)
        if _count(number, shares.of(turn)) > _count(last[turn], shares.of(turn))
    )
    return next(due, Turn.KNOBS)


def coming(number: int, last: Mapping[Turn, int], shares: Shares, count: int) -> list[Turn]:
    """The LLM's next turns from the experiment `number` on, `count` of them or fewer."""
    found: list[Turn] = []
    held = dict(last)
    for each in range(number, number + FARTHEST):
        turn = turn_of(each, held, shares)
        if turn is not Turn.KNOBS:
            found.append(turn)
            held[turn] = each
        if len(found) == count:
            break
    return found


def _count(number: int, share: float) -> int:
    """How many of the first `number` experiments are the share's."""
    return math.ceil(share * number - _ROUNDING)
