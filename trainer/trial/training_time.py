"""Computes a trial's training time in the budget's clock: before the first batch, in the timed phase, in answers.

Promises: all time from the first line of a candidate's script to its last answer is counted, except a free set-up and
answers that take as long as the others. Does not cover the warm-up on a GPU, which the budget limits separately.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from trainer.jobs import Budget, Clock
from trainer.trial.limits import Mark, Timeline, between

_ANSWER_FACTOR = 1.5
_TOLERATED_SHARE = 0.2
_SECONDS = {Clock.PROCESSOR: "processor seconds", Clock.WALL: "wall seconds", Clock.STEPS: "steps"}
_READING_S = {Clock.PROCESSOR: 0.03, Clock.WALL: 1.0, Clock.STEPS: 0.0}  # kernel ticks; turns of other processes


@dataclass(frozen=True)
class Grace:
    """The time that does not count against a budget, in the budget's clock.

    `setup` is free before the first batch. `overrun` is free after the budget, for a last step and for writing the
    weights.
    """

    setup: float
    overrun: float

    @classmethod
    def of(cls, budget: Budget) -> Grace:
        """Return the free time of a budget.

        The researcher derives the free set-up from the baseline's, and it is never less than the following. Imports end
        before the count begins, so the set-up only builds the model, which takes the default subject 0.1 s on a
        processor. On the wall clock the set-up also waits for a GPU and for other processes, and a user's script that
        times itself ends with one step of up to several seconds.
        """
        wall_s, processor_s = max(3.0, 0.03 * budget.amount), min(1.0, max(0.25, 0.02 * budget.amount))
        setup = wall_s if budget.clock_of_setup is Clock.WALL else processor_s
        if budget.free_setup is not None:
            setup = max(setup, budget.free_setup)
        if budget.clock is Clock.WALL:
            return cls(setup, overrun=max(2.0, 0.05 * budget.amount))
        return cls(setup, overrun=min(5.0, max(0.5, 0.05 * budget.amount)))


@dataclass(frozen=True)
class Trained:
    """A candidate's training time by phase, in the budget's clock: timed, in answers, and in that of its set-up: before
    the first batch.

    `cut` is True if the warm-up ended at its cap, before the uncounted steps were done.

    The first answer may take longer because of a compiler. This extra time is not counted up to the budget's warm-up
    cap: training in it gains nothing, since a replica with the earlier weights must confirm every score that counts.
    """

    before: float
    timed: float
    asked: float
    cut: bool = False

    @property
    def in_all(self) -> float:
        """The time that counts against the budget."""
        return self.before + self.timed + self.asked

    def fault(self, budget: Budget) -> str | None:
        """Return a sentence about training beyond the budget, which names the phase that ran out of time, or None."""
        if self.in_all <= most_trained(budget):
            return None
        setup = f"{self.before:.1f} {_SECONDS[budget.clock_of_setup]} before its first batch"
        parts = ((self.before, setup), (self.asked, f"{self.asked:.1f} while it was asked"))
        elsewhere = "".join(f", with {part}" for seconds, part in parts if seconds)
        trained = f"it trained {self.in_all:.1f} {_SECONDS[budget.clock]}{elsewhere}; the budget is {budget.amount:g}"
        return f"its {self._late_phase(budget)} took too long: {trained}"

    def _late_phase(self, budget: Budget) -> str:
        """Return the phase that exceeded its own limit most."""
        training = "training"
        if self.cut:
            training = f"warm-up of {budget.warmup_steps} steps, of which {budget.warmup_cap_s:g} s are free,"
        free_s = Grace.of(budget).setup
        setup = f"set-up, of which {free_s:.1f} {_SECONDS[budget.clock_of_setup]} are free,"
        late = {training: self.timed - most_trained(budget), setup: self.before, "answers": self.asked}
        return max(late, key=lambda phase: late[phase])


def trained(marks: Timeline, budget: Budget, now: Mark) -> Trained | None:
    """Return the training time up to `now`, or None if the budget counts steps or the script has not begun."""
    clock = budget.clock
    if clock is Clock.STEPS or marks.imported is None:
        return None
    setup = between(budget.clock_of_setup, marks.imported, marks.first_batch or now, 0)
    first, others = _excesses(marks, clock)
    return Trained(
        before=max(0.0, setup - Grace.of(budget).setup),
        timed=between(clock, marks.warm, marks.saved or now, 0) if marks.warm is not None else 0.0,
        asked=max(0.0, first - budget.warmup_cap_s) + others,
        cut=_cut(marks, budget),
    )


def most_trained(budget: Budget) -> float:
    """Return the longest training time that a budget allows."""
    return budget.amount + Grace.of(budget).overrun


def tolerated(budget: Budget) -> float:
    """Return how far beyond the budget a time-out may be due to a busy machine, in the budget's clock.

    It is the free set-up, at least the overrun and at most a fifth of the amount.
    """
    grace = Grace.of(budget)
    return max(grace.overrun, min(grace.setup, _TOLERATED_SHARE * budget.amount))


def _cut(marks: Timeline, budget: Budget) -> bool:
    if marks.warm is None or marks.first_batch is None or not budget.warmup_steps:
        return False
    return marks.warm.wall_s - marks.first_batch.wall_s >= budget.warmup_cap_s


def _excesses(marks: Timeline, clock: Clock) -> tuple[float, float]:
    """Return how much longer than 1.5 times the usual answer the first answer took, and the others in sum.

    Two questions are always in flight, so an answer may be noticed together with the next. Therefore two neighbouring
    answers are compared with two usual ones. Neighbours can be paired in two ways, and the larger sum counts.
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
    """Return half the median of two neighbouring answers, or 0 for fewer than two answers."""
    return median(first + second for first, second in pairwise(took)) / 2 if len(took) > 1 else 0.0
