"""What a run has taught: the effect and importance of each knob, and why experiments failed.

The effects are the optimiser's own estimates, from the same evidence. The importance is Optuna's PED-ANOVA (Watanabe et
al., 2023): how far the best quarter of the scored values of a knob differs from all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from researcher.journal.reader import JournalReader
from researcher.optimizer.evidence import Evidence, Measured, structure_of
from researcher.optimizer.knob_effects import effects
from researcher.optimizer.space import distribution, to_study, values_and_ranges
from researcher.proposers.lessons import NOTHING_LEARNED
from researcher.report.view import Row, RunReport
from services.dashboard.experiments import kind_of, label_of

BEST_SHARE = 0.25
FEWEST_POINTS = 20  # fewer leave less than five in the best quarter, which says nothing
SURE_SDS = 2.0
EXAMPLES = 3

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class KnobLine:
    """The effect of moving a knob in a direction, on the value of the metric.

    `low`, `mean` and `high` are -1..1 of the widest interval of all lines, for a picture, and None without a score.
    `verdict` is better, worse, or not sure. `importance` is 0..1 of the sum over the knobs, or None without enough
    scores.
    """

    knob: str
    direction: str
    change: float | None
    sd: float | None
    measured: int
    failed: int
    verdict: str
    picture: tuple[float, float, float] | None
    importance: float | None


@dataclass(frozen=True)
class Failures:
    """The experiments that failed in one way, and the newest of them."""

    label: str
    count: int
    newest: tuple[Row, ...]


class Knowledge:
    """Collects the evidence of one run. Each experiment is read once."""

    def __init__(self) -> None:
        self._evidence = Evidence()
        self._read: set[int] = set()

    def learn(self, history: JournalReader) -> None:
        """Read the experiments that were decided since the last call."""
        fresh = [item for item in history.experiments() if item.decided_at is not None and item.id not in self._read]
        fresh.sort(key=lambda item: item.decided_at or 0.0)
        ran = (item for item in fresh if item.outcome not in NOTHING_LEARNED)
        self._evidence.learn(
            (Measured(item.id, item.parent, history.source(item.id)) for item in ran), history.scores()
        )
        self._read |= {item.id for item in fresh}

    def knobs(self, found: RunReport, incumbent: str) -> tuple[KnobLine, ...]:
        """Return a line for each knob and direction that was moved, the best effect first."""
        if found.sigma is None:
            return ()
        metric, known = found.run.metric, effects(self._evidence.moves(), found.sigma)
        widest = max(
            (abs(each.mean) + SURE_SDS * each.sd for each in known if each.mean is not None and each.sd is not None),
            default=1.0,
        )
        importance = self._importances(incumbent)
        lines = []
        for each in sorted(known, key=lambda each: (each.mean is None, each.mean)):
            change, picture, verdict = None, None, "no score"
            if each.mean is not None and each.sd is not None:
                change, reach = metric.change(each.mean), SURE_SDS * each.sd
                picture = ((change - reach) / widest, change / widest, (change + reach) / widest)
                verdict = "better" if each.mean + reach < 0 else "worse" if each.mean - reach > 0 else "not sure"
            lines.append(
                KnobLine(
                    each.knob, each.direction, change, each.sd, each.measured, each.failed,
                    verdict, picture, importance.get(each.knob),
                )
            )  # fmt: skip
        return tuple(lines)

    def _importances(self, source: str) -> Mapping[str, float]:
        """Return the importance of each ranged knob of a source, or nothing with few scores."""
        values, ranges = values_and_ranges(source)
        points = self._evidence.around(structure_of(source), ranges, values)
        if len(points) < FEWEST_POINTS or not ranges:
            return {}
        space = {name: distribution(wanted) for name, wanted in ranges.items()}
        study = optuna.create_study()
        for point, score in points.items():
            there = {name: to_study(value, ranges[name]) for name, value in zip(ranges, point, strict=True)}
            study.add_trial(create_trial(params=there, distributions=space, value=score))
        evaluator = PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE)
        return get_param_importances(study, evaluator=evaluator)


def failures_of(rows: Sequence[Row]) -> tuple[Failures, ...]:
    """Return the failed and rejected experiments by kind, the most frequent first."""
    by_label: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if kind_of(row) in ("failed", "rejected"):
            by_label[label_of(row)].append(row)
    groups = (Failures(label, len(each), tuple(reversed(each[-EXAMPLES:]))) for label, each in by_label.items())
    return tuple(sorted(groups, key=lambda each: -each.count))


def fruitless(found: RunReport) -> int:
    """Return the number of experiments that were measured since the last keep that still stands."""
    count = 0
    for row in reversed(found.rows):
        if row.status == "keep" and not row.rolled_back:
            break
        count += row.experiment.was_measured
    return count
