"""Detects a stalled run. Pure functions of the journal, the live status and a time; the result is an alarm or None.

A run stalls if no trial has ended for three times the usual time between two ends: the budget and everything around it,
computed from the journal's own times. The alarm does not judge results.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import quantiles

from researcher.journal.records import Run, Trial
from researcher.report.view import LiveStatus
from trainer.jobs import Budget, Clock, StatusKind

STALLED_AFTER = 3.0
TRAINER_MISSED_AFTER_S = 60.0
_TIMES = 20
_TIMES_NEEDED = 10  # fewer may all be trials of the baseline, which need no proposals


def alarm(run: Run, trials: Sequence[Trial], budget: Budget, seen: LiveStatus | None, at: float) -> str | None:
    """Return the reason for missing progress at the time `at` and the next step, or None.

    `seen` is None if the live status is unknown.
    """
    if (held := _held(seen)) is None and (run.ended is not None or run.paused_by_user):
        return None
    if held is None and run.pause is not None:
        held = run.pause.message
    if held is not None:
        return f"no progress: {held}"
    quiet_s = at - max(run.going_since or run.created_at, *(trial.finished_at or 0.0 for trial in trials), 0.0)
    status = None if seen is None else seen.status
    if seen is not None and status is not None and _misses_trainer(seen) and quiet_s > TRAINER_MISSED_AFTER_S:
        return f"{seen.trial} is queued and no trainer is running. Next: check the trainer's log and start the trainer"
    usual_s = expected_s(trials, budget)
    if quiet_s <= STALLED_AFTER * usual_s:
        return None
    stalled = f"no trial has ended for {_span(quiet_s)}, one takes about {_span(usual_s)}"
    if status is None:
        return f"{stalled}, and the researcher is silent; start it again: `overnight run`, in containers `scripts/up`"
    return f"{stalled}; the researcher says: {status}. Look at its log and the trainer's"


def expected_s(trials: Sequence[Trial], budget: Budget) -> float:
    """Return the usual seconds from the end of one trial to the end of the next.

    It is the upper quartile of the latest times, at least a budget in seconds. Before enough trials have ended, it is
    the wall limit of one trial.
    """
    ends = sorted(trial.finished_at for trial in trials if trial.finished_at is not None)[-_TIMES - 1 :]
    if len(ends) <= _TIMES_NEEDED:
        return budget.wall_limit_s
    *_, upper = quantiles((later - earlier for earlier, later in pairwise(ends)), n=4)
    return max(upper, 0.0 if budget.clock is Clock.STEPS else budget.amount)


def _held(seen: LiveStatus | None) -> str | None:
    """Return the fault that researcher or trainer report while they are paused, or None."""
    if seen is None:
        return None
    if seen.status is not None and seen.status.kind is StatusKind.HELD:
        return f"the researcher is {seen.status}"
    holders = [each for each in seen.trainers if each.trial is not None and each.trial == seen.trial]
    needed = holders or seen.trainers  # any of them may take a trial that nobody holds
    if all(each.status.kind is StatusKind.HELD for each in needed):
        return "; ".join(f"the trainer {each.worker} is {each.status}" for each in needed) or None
    return None


def _misses_trainer(seen: LiveStatus) -> bool:
    return seen.trial is not None and seen.progress is None and not seen.trainers


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
