"""The staircase of a run: the incumbent's score over the experiments, and the range of scores worth drawing.

The pictures and the page draw the same one. Pure functions of the run's report.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from researcher.journal.records import Decision
from researcher.report.view import Row, RunReport
from trainer.jobs import Direction

HEADROOM = 1.14


@dataclass(frozen=True)
class Scale:
    """The lowest and highest score that is drawn at its place. High scores, the worse ones, are below if `turned`."""

    low: float
    high: float
    turned: bool = False

    @property
    def edges(self) -> tuple[float, float]:
        """The scores at the plot's lower and upper edge; the strip beside the worst holds failures and scores off the
        scale."""
        worst = self.low + HEADROOM * (self.high - self.low)
        return (worst, self.low) if self.turned else (self.low, worst)

    def height(self, of_worse: float) -> float:
        """Return the height in the axes of a place that is this high where worse scores are above."""
        return 1 - of_worse if self.turned else of_worse

    def __contains__(self, score: float) -> bool:
        return self.low <= score <= self.high


def scale_of(report: RunReport) -> Scale:
    """Return the edges of the plot: around the staircase and its noise, whatever single scores are."""
    sigma, base = report.sigma or 0.0, baseline_score(report)
    standing = [row.experiment.score or 0.0 for row in report.rows if stands(row)]
    low, high = min([base, *standing]), max([base, *standing])
    height = max(high - low, min(4 * sigma, 0.05 * abs(base)), 0.002 * abs(base))  # one odd score widens sigma
    height = height or 1.0
    is_turned = report.run.metric.direction is Direction.HIGHER
    return Scale(low - 0.45 * height, high + 0.6 * height, is_turned)


def stands(row: Row) -> bool:
    """Return whether a row is a keep with a score that no confirmation rolled back."""
    return row.status == "keep" and not row.rolled_back and row.experiment.score is not None


def corners_of(report: RunReport) -> list[tuple[float, float]]:
    """Return the corners of the staircase."""
    corners = [(0.0, baseline_score(report))]
    for x, y in _steps(report):
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (report.rows[-1].experiment.number + 1.0, corners[-1][1])]


def _steps(report: RunReport) -> list[tuple[float, float]]:
    """Return the changes of the incumbent as points: keeps at their number, rollbacks at their confirmation's place."""
    events = [
        (item.decided_at or 0.0, float(item.number), item.score)
        for item in (row.experiment for row in report.rows[1:])
        if item.decision is Decision.KEEP and item.score is not None
    ]
    for each in report.confirmations:
        if each.rolled_back and each.decided_at is not None:
            events.append((each.decided_at, place_at(report, each.decided_at), _score_of(report, each.base)))
    return [(x, y) for _, x, y in sorted(events)]


def _score_of(report: RunReport, experiment: int | None) -> float:
    """Return the score at the decision to keep, or the baseline's if there is none."""
    row = report.row(experiment)
    score = None if row is None or row.experiment.is_baseline else row.experiment.score
    return baseline_score(report) if score is None else score


def baseline_score(report: RunReport) -> float:
    """Return the baseline's score at its decision; later repeats belong to their claims."""
    score = report.rows[0].experiment.score
    return fmean(report.baseline_scores) if score is None else score


def place_at(report: RunReport, at: float) -> float:
    """Return the position of a confirmation: half a step after the last experiment decided before it."""
    items = (row.experiment for row in report.rows)
    return max(item.number for item in items if item.decided_at is not None and item.decided_at < at) + 0.5
