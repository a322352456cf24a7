"""The cost of a run: energy, rent, and the tokens of paid models, as far as prices are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from researcher.journal.records import Experiment, Run, Trial
from researcher.source.proposal import LlmCost


@dataclass(frozen=True)
class Cost:
    """The seconds of trials and of LLM answers, the tokens, and the money that a run has used.

    `money` is the price of the machine and of paid tokens, or None if no price is known.
    """

    trial_s: float
    llm_s: float
    llm_tokens: int
    money: float | None

    @property
    def hours(self) -> float:
        """Hours of work: trials and LLM answers, without pauses."""
        return (self.trial_s + self.llm_s) / 3600


def cost_of(run: Run, experiments: Sequence[Experiment], trials: Sequence[Trial], machine_s: float) -> Cost:
    """Sum up the cost of a run. The machine costs money for `machine_s` seconds of wall time, at work or not.

    The seconds of trials do not include lost attempts, because nothing measured their time.
    """
    costs = [item.cost for item in experiments if item.cost is not None]
    unbilled = [cost for cost in costs if cost.money is None]
    took = Cost(sum(trial.wall_s or 0.0 for trial in trials), sum(cost.seconds for cost in costs), _tokens(costs), None)
    prices = run.prices
    parts = [
        None if prices.per_hour is None else prices.per_hour * machine_s / 3600,
        None if prices.per_mtoken is None else prices.per_mtoken * _tokens(unbilled) / 1e6,
        *(cost.money for cost in costs),
    ]
    known = [part for part in parts if part is not None]
    return replace(took, money=sum(known)) if known else took


def _tokens(costs: list[LlmCost]) -> int:
    return sum((cost.prompt_tokens or 0) + (cost.answer_tokens or 0) for cost in costs)
