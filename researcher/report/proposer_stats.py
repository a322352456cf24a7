"""Computes each proposer's tries, results and costs, so that users can compare proposers. Pure functions.

A try is any decided experiment except the baseline, including a rejected proposal. A lost trial is a try without a
result, because it says nothing about its proposer. A question to which an LLM's server gave no answer is no try.
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

# The columns of the exports, with the format in proposers.tsv.
COLUMNS = {
    "proposer": "", "tries": "", "rejected": "", "unanswered": "",
    "trials": "", "crashed": "", "kept": "", "confirmed": "",
    "gain": ".6f", "gain_per_trial": ".6f", "gain_per_hour": ".6f",
    "trial_s": ".1f", "llm_s": ".1f", "llm_tokens": "", "llm_money": ".4f",
}  # fmt: skip


@dataclass(frozen=True)
class Rates:
    """One proposer's part of a run.

    `trials` are the tries that were measured or failed by their own fault; `crashed` are the failures among them.
    `kept` includes rolled-back keeps, as the tally does; `confirmed` counts keeps with a standing claim. `gain` is the
    sum over the keeps that still stand: the mean of all the parent's trials minus the mean of the keep's own, in the
    unit of the metric. Over all proposers it adds up to the incumbent's gain over the baseline. `cost` contains the
    first trials only, because repeats and claims belong to no proposer, and the money for the proposer's questions,
    without that for the machine.
    """

    proposer: str
    tries: int
    rejected: int
    unanswered: int
    trials: int
    crashed: int
    kept: int
    confirmed: int
    gain: float
    cost: Cost

    @property
    def gain_per_trial(self) -> float | None:
        """The gain divided by the number of trials, or None before the first trial."""
        return self.gain / self.trials if self.trials else None

    @property
    def gain_per_hour(self) -> float | None:
        """The gain divided by the hours of trials and answers, including answers given beside a trial."""
        return self.gain / self.cost.hours if self.cost.hours else None

    def figures(self) -> dict[str, str | float | None]:
        """Return all figures by the names of `COLUMNS`."""
        values = (
            self.proposer, self.tries, self.rejected, self.unanswered,
            self.trials, self.crashed, self.kept, self.confirmed,
            self.gain, self.gain_per_trial, self.gain_per_hour,
            self.cost.trial_s, self.cost.llm_s, self.cost.llm_tokens, self.cost.money,
        )  # fmt: skip
        return dict(zip(COLUMNS, values, strict=True))


def rates_of(run: Run, rows: Iterable[Row], scores: Mapping[int, Sequence[float]]) -> tuple[Rates, ...]:
    """Return the figures of each proposer with a try or an unanswered question.

    `scores` are all scores of an experiment, by its id.
    """
    tried = defaultdict[str, list[Row]](list)
    for row in rows:
        item = row.experiment
        if item.proposer is not None and item.decision is not None and not item.is_baseline:
            tried[item.proposer].append(row)
    return tuple(
        _rates(run, proposer, tried[proposer], scores)
        for proposer in dict.fromkeys((*ProposerName, *tried))
        if proposer in tried
    )


def proposers_text(rates: Iterable[Rates]) -> str:
    """Return proposers.tsv: one line for each proposer, with an em dash for a missing number."""
    lines = ["\t".join(COLUMNS)]
    for each in rates:
        cells = each.figures().items()
        lines.append("\t".join(NO_NUMBER if value is None else format(value, COLUMNS[name]) for name, value in cells))
    return "\n".join(lines) + "\n"


def _rates(run: Run, proposer: str, rows: list[Row], scores: Mapping[int, Sequence[float]]) -> Rates:
    outcomes = [row.experiment.outcome for row in rows]
    rejected, kept = outcomes.count(Outcome.REJECTED), [row for row in rows if row.experiment.decision is Decision.KEEP]
    unanswered = outcomes.count(Outcome.UNANSWERED)
    asked = replace(run, prices=Prices(per_mtoken=run.prices.per_mtoken))
    trials = [row.trial for row in rows if row.trial is not None]
    return Rates(
        proposer=proposer,
        tries=len(rows) - unanswered,
        rejected=rejected,
        unanswered=unanswered,
        trials=sum(outcome in (Outcome.OK, *FAILURES) for outcome in outcomes) - rejected,
        crashed=sum(outcome in FAILURES for outcome in outcomes) - rejected,
        kept=len(kept),
        confirmed=sum(row.confirmed for row in kept),
        gain=sum((_gain(row, scores) for row in kept if not row.rolled_back), 0.0),
        cost=cost_of(asked, [row.experiment for row in rows], trials, machine_s=0.0),
    )


def _gain(row: Row, scores: Mapping[int, Sequence[float]]) -> float:
    item = row.experiment
    assert item.parent is not None, "only the baseline has none"
    return fmean(scores[item.parent]) - fmean(scores[item.id])
