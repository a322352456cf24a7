"""progress.png: the run in one picture. Each experiment is a point, the incumbent a staircase, and its noise a band.

The user's settings of matplotlib do not change the picture, and titles are never read as TeX.
"""

from __future__ import annotations

import io
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from researcher.journal.records import ConfirmationVerdict, Decision
from researcher.report.view import Row, RunReport, tally_text
from trainer.jobs import Outcome

INK, FAINT, KEEP, CLAIM, LOST = "#1f2933", "#9aa5b1", "#0b7a5c", "#d97706", "#c2410c"
LABELS_LIMIT = 8
LABEL_CHARACTERS = 44
FAILURE_MARKERS = {
    Outcome.CRASHED: "x",
    Outcome.OUT_OF_MEMORY: "+",
    Outcome.TIMED_OUT: "1",
    Outcome.UNSCORABLE: "2",
    Outcome.LOST: "3",
}


def draw(report: RunReport) -> bytes:
    """Draw the run as a PNG. A run without a measured baseline gets a note instead."""
    with mpl.rc_context():
        mpl.rcdefaults()
        return png(_figure(report))


def _figure(report: RunReport) -> Figure:
    figure = Figure(figsize=(12, 6.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _frame(axes)
    if report.gain is None:
        axes.text(0.5, 0.5, "the baseline is still being measured", transform=axes.transAxes, ha="center", color=INK)
    else:
        _staircase(axes, report)
        _points(axes, report)
        _claims(axes, report)
        _remeasured(axes, report)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", frameon=False, ncols=4, fontsize=9)
    axes.set_title(_title(report), loc="left", fontsize=12, color=INK)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a model may write $
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG. Equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _frame(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK)
    axes.grid(axis="y", color=FAINT, alpha=0.25)
    axes.set_xlabel("experiment", color=INK)
    axes.set_ylabel("val_bpb (bits per byte, lower is better)", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _staircase(axes: Axes, report: RunReport) -> None:
    """Draw the incumbent's score as it was known at the time: down with each keep, up with each rollback."""
    xs, ys = [0.0], [_baseline(report)]
    for x, y in _steps(report):
        xs.append(x)
        ys.append(y)
    xs.append(report.rows[-1].experiment.number + 1.0)
    ys.append(ys[-1])
    sigma = report.sigma or 0.0
    axes.fill_between(xs, [y - sigma for y in ys], [y + sigma for y in ys], step="post", color=KEEP, alpha=0.12, lw=0)
    axes.step(xs, ys, where="post", color=KEEP, lw=1.6, label=f"incumbent, ±1σ = {sigma:.4f}")
    axes.axhline(ys[0], color=FAINT, lw=1, ls=":")


def _steps(report: RunReport) -> list[tuple[float, float]]:
    """Return the changes of the incumbent as points: keeps at their number, rollbacks at their confirmation's place."""
    events = [
        (item.decided_at or 0.0, float(item.number), item.score)
        for item in (row.experiment for row in report.rows[1:])
        if item.decision is Decision.KEEP and item.score is not None
    ]
    for confirmation in report.confirmations:
        at = confirmation.decided_at
        if confirmation.rolled_back and at is not None:
            events.append((at, _end_of(report, at), _score_of(report, confirmation.base)))
    return [(x, y) for _, x, y in sorted(events)]


def _score_of(report: RunReport, experiment: int | None) -> float:
    """Return the score at the decision to keep, or the baseline's if there is none."""
    row = report.row(experiment)
    score = None if row is None or row.experiment.is_baseline else row.experiment.score
    return _baseline(report) if score is None else score


def _baseline(report: RunReport) -> float:
    """Return the baseline's score at its decision; later repeats belong to their claims."""
    score = report.rows[0].experiment.score
    return fmean(report.baseline_scores) if score is None else score


def _end_of(report: RunReport, at: float) -> float:
    """Return the position of a confirmation: half a step after the last experiment decided before it."""
    before = [row.experiment.number for row in report.rows if (row.experiment.decided_at or 0.0) < at]
    return before[-1] + 0.5


def _points(axes: Axes, report: RunReport) -> None:
    axes.scatter(
        [0] * len(report.baseline_scores),
        report.baseline_scores,
        s=26,
        color=INK,
        zorder=3,
        label="baseline, each seed",
    )
    measured = [row for row in report.rows[1:] if row.experiment.score is not None]
    kinds: list[tuple[str, list[Row], dict[str, Any]]] = [
        ("discard", [row for row in measured if row.status == "discard"], {"color": FAINT, "s": 30}),
        (
            "keep (provisional)",
            [row for row in measured if row.status == "keep" and not row.confirmed and not row.rolled_back],
            {"facecolors": "white", "edgecolors": KEEP, "s": 62, "linewidths": 1.8},
        ),
        ("keep (confirmed)", [row for row in measured if row.confirmed], {"color": KEEP, "s": 66}),
        (
            "keep (rolled back)",
            [row for row in measured if row.rolled_back],
            {"facecolors": "white", "edgecolors": LOST, "s": 62, "linewidths": 1.8},
        ),
    ]
    for label, rows, style in kinds:
        if rows:
            points = [(row.experiment.number, row.experiment.score or 0.0) for row in rows]
            axes.scatter(*zip(*points, strict=True), zorder=4, label=label, **style)
    _clip_to_interesting(axes, report, measured)
    _failures(axes, report)
    for index, row in enumerate([row for row in measured if row.status == "keep"][-LABELS_LIMIT:]):
        near_the_end = row.experiment.number > 0.7 * report.rows[-1].experiment.number
        axes.annotate(
            _short(row.experiment.title),
            (row.experiment.number, row.experiment.score or 0.0),
            xytext=(-8 if near_the_end else 8, -13 - 11 * (index % 3)),
            textcoords="offset points",
            ha="right" if near_the_end else "left",
            fontsize=8,
            color=INK,
        )


def _clip_to_interesting(axes: Axes, report: RunReport, measured: list[Row]) -> None:
    """Draw scores far above the baseline at the upper edge, so that one bad score does not flatten the rest."""
    scores = [row.experiment.score for row in measured if row.experiment.score is not None]
    top = max(report.baseline_scores)
    low = min([*scores, *report.baseline_scores])
    sigma = report.sigma or 0.0
    height = max(top - low, 4 * sigma, 0.01)
    upper = top + 0.8 * height
    axes.set_ylim(low - 0.25 * height, upper)
    above = [row.experiment.number for row in measured if (row.experiment.score or 0.0) > upper]
    if above:
        axes.scatter(
            above, [upper - 0.02 * height] * len(above), marker="^", color=FAINT, s=40, label="worse, off scale"
        )


def _failures(axes: Axes, report: RunReport) -> None:
    low, high = axes.get_ylim()
    for outcome, marker in FAILURE_MARKERS.items():
        at = [row.experiment.number for row in report.rows if row.experiment.outcome is outcome]
        if at:
            label = outcome.value.replace("_", " ")
            axes.scatter(at, [low + 0.96 * (high - low)] * len(at), marker=marker, color=LOST, s=40, label=label)


def _claims(axes: Axes, report: RunReport) -> None:
    """Draw each claim's own means beside the keeps' optimistic first scores, and each rollback with its reason."""
    label: str | None = "mean of fresh seeds, ± the gain that was needed"
    for index, confirmation in enumerate(report.confirmations):
        if confirmation.decided_at is None or confirmation.verdict in (None, ConfirmationVerdict.HOLDS):
            continue
        x = _end_of(report, confirmation.decided_at)
        color = CLAIM if confirmation.verdict is ConfirmationVerdict.CONFIRMED else LOST
        why = confirmation.reason or ""
        y = _score_of(report, confirmation.base)
        if confirmation.head_score is not None and confirmation.threshold is not None:
            y = confirmation.head_score
            why = f"gain {confirmation.gain or 0.0:+.4f}, {confirmation.threshold:.4f} needed"
            axes.errorbar(
                [x], [y], yerr=[confirmation.threshold], fmt="D", color=color, ms=7, capsize=4, zorder=5, label=label
            )
            label = None
        early = x < 0.4 * report.rows[-1].experiment.number
        axes.annotate(
            _short(f"{confirmation.verdict.words}: {why}"),
            (x, y),
            xytext=(9 if early else -9, 12 + 13 * (index % 3)),
            textcoords="offset points",
            ha="left" if early else "right",
            fontsize=9,
            color=color,
            fontweight="bold",
        )


def _remeasured(axes: Axes, report: RunReport) -> None:
    """Draw the incumbent's later trials. They are level with its step as long as the machine does not drift."""
    xs = [_end_of(report, trial.finished_at or 0.0) for trial in report.remeasured]
    if xs:
        ys = [trial.val_bpb or 0.0 for trial in report.remeasured]
        axes.scatter(xs, ys, marker="_", color=INK, s=60, zorder=5, label="incumbent, run again")


def _title(report: RunReport) -> str:
    counts = f"{report.measured} experiments: {tally_text(report)}"
    gain = "no gain confirmed" if report.gain is None or report.gain.confirmed is None else _confirmed(report)
    return f"Overnight {report.run.tag} ({report.run.profile})   {counts}   {gain}"


def _confirmed(report: RunReport) -> str:
    assert report.gain is not None
    assert report.gain.confirmed is not None
    return f"confirmed {-report.gain.confirmed:+.4f} val_bpb"


def _short(title: str) -> str:
    return title if len(title) <= LABEL_CHARACTERS else f"{title[: LABEL_CHARACTERS - 1]}…"
