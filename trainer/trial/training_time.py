"""How much of a trial was training, in the budget's clock: before its first batch, between the marks, and while it is
asked for its score. Pure: marks in, seconds out.

Promises: whatever a candidate does from the first line of its script until its last answer is counted somewhere, but
for a small set-up and for answers that take as long as its others. Does not cover the warm-up on a card, which the
budget bounds by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from trainer.jobs import Budget, Clock
from trainer.trial.limits import Mark, Timeline, between

_ANSWER_FACTOR = 1.5
_READING_S = {Clock.PROCESSOR: 0.03, Clock.WALL: 1.0, Clock.STEPS: 0.0}  # ticks of the kernel; a neighbour's turn


@dataclass(frozen=True)
class Grace:
    """What a budget leaves free. `setup` may pass before the first batch and `overrun` after the budget, for a last
    step and for writing the weights down; both in the budget's clock."""

    setup: float
    overrun: float

    @classmethod
    def of(cls, budget: Budget) -> Grace:
        """Imports are done before the count begins, so a set-up is what builds the model: 0.1 s of the default subject
        on a processor. On the wall it waits for a GPU and for neighbours, and a script of the user's own that times
        itself ends with one step of up to seconds."""
        if budget.clock is Clock.WALL:
            return cls(setup=max(3.0, 0.03 * budget.amount), overrun=max(2.0, 0.05 * budget.amount))
        return cls(setup=min(1.0, max(0.25, 0.02 * budget.amount)), overrun=min(5.0, max(0.5, 0.05 * budget.amount)))


@dataclass(frozen=True)
class Trained:
    """Where a candidate's training went. What its first answer took beyond its others may be a compiler's work: as far
    as the budget has a warm-up it is not counted, since a replica bears out every score that can count."""

    before: float
    timed: float
    asked: float

    @property
    def in_all(self) -> float:
        """What is held against the budget."""
        return self.before + self.timed + self.asked

    def fault(self, budget: Budget) -> str | None:
        """Why it was too much, in a sentence; None for what the budget allows."""
        if self.in_all <= most_trained(budget):
            return None
        kind = "wall" if budget.clock is Clock.WALL else "processor"
        parts = ((self.before, "before its first batch"), (self.asked, "while it was asked"))
        elsewhere = "".join(f", {seconds:.1f} of them {where}" for seconds, where in parts if seconds)
        return f"it trained {self.in_all:.1f} {kind} seconds{elsewhere}; the budget is {budget.amount:g}"


def trained(marks: Timeline, budget: Budget, now: Mark) -> Trained | None:
    """Up to `now`; None where nothing is counted, because steps are, or because its script has not begun."""
    clock = budget.clock
    if clock is Clock.STEPS or marks.imported is None:
        return None
    setup = between(clock, marks.imported, marks.first_batch or now, 0)
    first, others = _excesses(marks, clock)
    return Trained(
        before=max(0.0, setup - Grace.of(budget).setup),
        timed=between(clock, marks.warm, marks.saved or now, 0) if marks.warm is not None else 0.0,
        asked=max(0.0, first - budget.warmup_cap_s) + others,
    )


def most_trained(budget: Budget) -> float:
    """The most that may be held against a budget."""
    return budget.amount + Grace.of(budget).overrun


def _excesses(marks: Timeline, clock: Clock) -> tuple[float, float]:
    """By how much the first answer, and all others together, took longer than 1.5 times the usual one.

    Two questions are always on their way, so an answer may be noticed together with the next: it is two neighbours
    together that are compared with two usual ones. Neighbours can be paired in two ways, and the larger sum counts.
    """
    if marks.saved is None or not marks.answers:
        return 0.0, 0.0
    took = [between(clock, *pair, 0) for pair in pairwise([marks.saved, *marks.answers])]
    first, others = took[0], took[1:]
    allowed = 2 * _ANSWER_FACTOR * _usual(others) + _READING_S[clock]

    def excess(pairs: Iterable[float]) -> float:
        return sum(max(0.0, pair - allowed) for pair in pairs)

    return excess([first]), max(excess(_in_pairs(others)), excess([*others[:1], *_in_pairs(others[1:])]))


def _in_pairs(took: Sequence[float]) -> list[float]:
    return [sum(took[at : at + 2]) for at in range(0, len(took), 2)]


def _usual(took: Sequence[float]) -> float:
    """Seconds of an answer in the middle of all; 0 where there are too few to tell."""
    return median(first + second for first, second in pairwise(took)) / 2 if len(took) > 1 else 0.0
