"""The cost of a run: energy, rent, and the tokens of paid models, as far as prices are known."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import islice

from researcher.journal.records import Experiment, Run, Trial
from researcher.source.proposal import LlmCost


@dataclass(frozen=True)
class Cost:
    """The time, tokens and money that a run has used.

    An hour of trials and an hour of LLM answers cost the same. `beside_s` are those of the `llm_s` that passed while a
    trial ran. `money` is None if no price is known.
    """

    trial_s: float
    llm_s: float
    llm_tokens: int
    money: float | None
    beside_s: float = 0.0

    @property
    def hours(self) -> float:
        """Hours of work: trials, and LLM answers while no trial ran, without pauses."""
        return (self.trial_s + self.llm_s - self.beside_s) / 3600


def cost_of(run: Run, experiments: list[Experiment], trials: list[Trial]) -> Cost:
    """Sum up the cost of a run so far. Lost attempts are not included, because nothing measured their time."""
    costs = [item.cost for item in experiments if item.cost is not None]
    unbilled = [cost for cost in costs if cost.money is None]
    took = Cost(
        trial_s=sum(trial.wall_s or 0.0 for trial in trials),
        llm_s=sum(cost.seconds for cost in costs),
        llm_tokens=_tokens(costs),
        money=None,
        beside_s=_beside_s(experiments, trials),
    )
    prices = run.prices
    parts = [
        None if prices.per_hour is None else prices.per_hour * took.hours,
        None if prices.per_mtoken is None else prices.per_mtoken * _tokens(unbilled) / 1e6,
        *(cost.money for cost in costs),
    ]
    known = [part for part in parts if part is not None]
    return replace(took, money=sum(known)) if known else took


def _beside_s(experiments: list[Experiment], trials: list[Trial]) -> float:
    """Return the seconds of answers that passed while a trial ran.

    An answer between trials is complete when its experiment is proposed. One that was prepared beside a trial was
    complete earlier, and its experiment is proposed soon after that trial.
    """
    answers = [(item.proposed_at - item.cost.seconds, item.proposed_at) for item in experiments if item.cost]
    if not answers:
        return 0.0
    ran = sorted(
        (trial.finished_at, trial.finished_at - trial.wall_s) for trial in trials if trial.finished_at and trial.wall_s
    )
    beside_s = 0.0
    for began, ended in answers:
        for finished, started in islice(ran, bisect_right(ran, (began, math.inf)), None):
            if started >= ended:
                break
            beside_s += min(finished, ended) - max(started, began)
    return beside_s


def _tokens(costs: list[LlmCost]) -> int:
    return sum((cost.prompt_tokens or 0) + (cost.answer_tokens or 0) for cost in costs)
