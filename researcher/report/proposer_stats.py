"""What each proposer tried, what came of it, and what that took: for people who compare them. Values in, values out.

A try is every experiment but the baseline that was decided, a rejected proposal too. A proposer that tried nothing is
not there. What the machine lost is a try and nothing else: it says nothing about who proposed it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from researcher.decision.cost import Cost, cost_of
from researcher.journal.records import Decision, Prices, Run
from researcher.report.results_table import NO_NUMBER
from researcher.report.view import FAILURES, Row
from researcher.source.proposal import ProposerName
from trainer.jobs import Outcome

# What the exports have, and how proposers.tsv writes it.
COLUMNS = {
    "proposer": "", "tries": "", "rejected": "", "trials": "", "crashed": "", "kept": "", "confirmed": "",
    "gain": ".6f", "gain_per_trial": ".6f", "gain_per_hour": ".6f",
    "trial_s": ".1f", "llm_s": ".1f", "llm_tokens": "", "llm_money": ".4f",
}  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """One proposer's part of a run.

    `trials` are the tries that were measured or failed by their own fault; `crashed` are the latter, all kinds of
    failure together. `kept` counts those that were rolled back too, as the tally does; `confirmed` those that a claim
    stands for. `gain` is that of the keeps that still stand, the mean of all runs of the parent minus that of its own;
    over all proposers it adds up to what the incumbent is better than the baseline. Of `cost`, the trials are its first
    ones, for repeats and claims are nobody's, and the money is that of its questions, without the machine's.
    """

    proposer: str
    tries: int
    rejected: int
    trials: int
    crashed: int
    kept: int
    confirmed: int
    gain: float
    cost: Cost

    @property
    def gain_per_trial(self) -> float | None:
        """None before its first trial."""
        return self.gain / self.trials if self.trials else None

    @property
    def gain_per_hour(self) -> float | None:
        """Of the machine at work for it, counted as in `Cost`: trials and answers, also those given beside a trial."""
        return self.gain / self.cost.hours if self.cost.hours else None

    def figures(self) -> dict[str, str | float | None]:
        """All of it, by the names of `COLUMNS`."""
        values = (
            self.proposer, self.tries, self.rejected, self.trials, self.crashed, self.kept, self.confirmed,
            self.gain, self.gain_per_trial, self.gain_per_hour,
            self.cost.trial_s, self.cost.llm_s, self.cost.llm_tokens, self.cost.money,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


def rates_of(run: Run, rows: Iterable[Row], scores: Mapping[int, Sequence[float]]) -> tuple[Rates, ...]:
    """Of everyone who tried something; `scores` are all of an experiment's, by its id."""
    tried = defaultdict[str, list[Row]](list)
    for row in rows:
        item = row.experiment
        if item.proposer is not None and item.decision is not None and not item.is_baseline:
            tried[item.proposer].append(row)
    return tuple(_rates(run, who, tried[who], scores) for who in dict.fromkeys((*ProposerName, *tried)) if who in tried)


def proposers_text(rates: Iterable[Rates]) -> str:
    """proposers.tsv: a line for each; an em dash for no number."""
    lines = ["\t".join(COLUMNS)]
    for each in rates:
        cells = each.figures().items()
        lines.append("\t".join(NO_NUMBER if value is None else format(value, COLUMNS[name]) for name, value in cells))
    return "\n".join(lines) + "\n"


def _rates(run: Run, who: str, rows: list[Row], scores: Mapping[int, Sequence[float]]) -> Rates:
    outcomes = [row.experiment.outcome for row in rows]
    rejected, kept = outcomes.count(Outcome.REJECTED), [row for row in rows if row.experiment.decision is Decision.KEEP]
    asked = replace(run, prices=Prices(per_mtoken=run.prices.per_mtoken))
    trials = [row.trial for row in rows if row.trial is not None]
    return Rates(
        proposer=who,
        tries=len(rows),
        rejected=rejected,
        trials=sum(outcome in (Outcome.OK, *FAILURES) for outcome in outcomes) - rejected,
        crashed=sum(outcome in FAILURES for outcome in outcomes) - rejected,
        kept=len(kept),
        confirmed=sum(row.confirmed for row in kept),
        gain=sum((_gain(row, scores) for row in kept if not row.rolled_back), 0.0),
        cost=cost_of(asked, [row.experiment for row in rows], trials),
    )


def _gain(row: Row, scores: Mapping[int, Sequence[float]]) -> float:
    item = row.experiment
    assert item.parent is not None, "only the baseline has none"
    return fmean(scores[item.parent]) - fmean(scores[item.id])
