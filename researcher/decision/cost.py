"""What a run has cost: energy, rent and the tokens of paid models, as far as prices are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

from researcher.journal.records import Experiment, Run, Trial
from researcher.source.proposal import LlmCost


@dataclass(frozen=True)
class Cost:
    """What the run took. An hour of the machine costs the same in a trial and while the LLM answers; money is None
    where no price was given."""

    trial_s: float
    llm_s: float
    llm_tokens: int
    money: float | None

    @property
    def hours(self) -> float:
        """Of the machine at work: trials and answers, not pauses."""
        return (self.trial_s + self.llm_s) / 3600


def cost_of(run: Run, experiments: list[Experiment], trials: list[Trial]) -> Cost:
    """What a run took so far. A trial that the machine lost is not in it, for nobody measured it."""
    costs = [item.cost for item in experiments if item.cost is not None]
    unbilled = [cost for cost in costs if cost.money is None]
    took = Cost(sum(trial.wall_s or 0.0 for trial in trials), sum(cost.seconds for cost in costs), _tokens(costs), None)
    prices = run.prices
    parts = [
        None if prices.per_hour is None else prices.per_hour * took.hours,
        None if prices.per_mtoken is None else prices.per_mtoken * _tokens(unbilled) / 1e6,
        *(cost.money for cost in costs),
    ]
    known = [part for part in parts if part is not None]
    return replace(took, money=sum(known)) if known else took


def _tokens(costs: list[LlmCost]) -> int:
    return sum((cost.prompt_tokens or 0) + (cost.answer_tokens or 0) for cost in costs)
