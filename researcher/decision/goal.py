"""The limits of a run: whether one is reached, and when the run will end. Pure functions.

A limit includes the last experiment and the final confirmation: an experiment begins only if both still fit. Limits
count over the whole run. Time is wall time since the first start, and the machine costs money for all of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, quantiles

from researcher.decision.cost import Cost
from researcher.decision.rules import CLAIM_PAIRS_LIMIT
from researcher.journal.records import Experiment, Goal, Trial
from trainer.jobs import Budget, Outcome

LONGEST_CLAIM = 2 * CLAIM_PAIRS_LIMIT  # trials
_LOOKED_AT = 10  # the number of latest trials and experiments from which times are estimated
_TIMES_NEEDED = 2


@dataclass(frozen=True)
class Standing:
    """How far a run has come at the time `at`: the measured experiments, the cost, and the usual wall seconds of an
    experiment and of a claim. These are upper bounds until trials have ended; then `is_measured` is True."""

    measured: int
    cost: Cost
    at: float
    experiment_s: float
    claim_s: float
    price_per_hour: float | None = None
    is_measured: bool = True

    @property
    def reserve_s(self) -> float:
        """The seconds of one more experiment and of the claim that it may need."""
        return self.experiment_s + self.claim_s

    @property
    def reserve_money(self) -> float:
        """The money for one more experiment and for the claim that it may need."""
        return (self.price_per_hour or 0.0) * self.reserve_s / 3600


def standing_of(
    experiments: Sequence[Experiment],
    trials: Sequence[Trial],
    cost: Cost,
    budget: Budget,
    at: float,
    price_per_hour: float | None,
) -> Standing:
    """Return how far a run has come. Before trials have ended, a trial counts with its wall limit."""
    usual = [trial for trial in trials if trial.outcome is Outcome.OK and trial.attempt == 0][-_LOOKED_AT:]
    took_s = [trial.finished_at - trial.queued_at for trial in usual if trial.finished_at is not None]
    trial_s = _upper_quartile(took_s, budget.wall_limit_s)
    measured = [item for item in experiments if item.was_measured]
    decided_s = [item.decided_at - item.proposed_at for item in measured if item.decided_at is not None][-_LOOKED_AT:]
    experiment_s = max(trial_s, fmean(decided_s)) if decided_s else trial_s
    claim_s, is_measured = LONGEST_CLAIM * trial_s, len(took_s) >= _TIMES_NEEDED
    return Standing(len(measured), cost, at, experiment_s, claim_s, price_per_hour, is_measured=is_measured)


def _upper_quartile(seconds: Sequence[float], otherwise: float) -> float:
    return otherwise if len(seconds) < _TIMES_NEEDED else quantiles(seconds, n=4, method="inclusive")[-1]


def reached(goal: Goal, standing: Standing) -> str | None:
    """Return the reason why no further experiment may begin, as text, or None while one may."""
    if goal.experiments is not None and standing.measured >= goal.experiments:
        return f"{standing.measured} of {goal.experiments} experiments are measured"
    if goal.until is not None and standing.at + standing.reserve_s > goal.until:
        return f"no further experiment and its confirmation would end by {moment_text(goal.until)}"
    spent = standing.cost.money
    if goal.max_cost is None or spent is None:
        return None
    if spent + standing.reserve_money > goal.max_cost:
        return f"{spent:.2f} are spent, and a further experiment and its confirmation would exceed {goal.max_cost:g}"
    return None


def exceeded(goal: Goal, cost: Cost, at: float) -> str | None:
    """Return the limit of time or cost that has passed, as text, or None. Then not even a confirmation may go on."""
    if goal.until is not None and at >= goal.until:
        return f"it is {moment_text(goal.until)}"
    if goal.max_cost is not None and cost.money is not None and cost.money >= goal.max_cost:
        return f"{cost.money:.2f} of {goal.max_cost:g} are spent"
    return None


def ends_at(goal: Goal, standing: Standing) -> float | None:
    """Return the expected end of the run with its final confirmation, in seconds since the epoch, or None without a
    limit, or before it is known how long a trial takes."""
    ends = []
    if goal.experiments is not None and standing.is_measured:
        left = max(0, goal.experiments - standing.measured)
        ends.append(standing.at + left * standing.experiment_s + standing.claim_s)
    if goal.until is not None:
        ends.append(max(goal.until, standing.at))
    if goal.max_cost is not None and standing.cost.money is not None and standing.price_per_hour:
        left_s = max(0.0, goal.max_cost - standing.cost.money) / standing.price_per_hour * 3600
        ends.append(standing.at + left_s)
    return min(ends, default=None)


def moment_text(at: float) -> str:
    """Return a moment in local time: `22:04` today, else `Nov 30 22:04`."""
    moment = time.localtime(at)
    is_today = moment[:3] == time.localtime()[:3]
    return time.strftime("%H:%M" if is_today else "%b %d %H:%M", moment)
