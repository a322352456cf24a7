"""progress.png: the run in one picture. Each experiment is a point, the incumbent a staircase, and its noise a band.

The best keeps have their number beside their point, and their titles stand in a list beside the plot. Scores far from
the staircase are drawn at the edge, so that they do not flatten the rest. A picture can be PNG or SVG, light or dark,
landscape or portrait. The user's settings of matplotlib do not change it, and titles are never read as TeX.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from researcher.journal.records import Confirmation, ConfirmationVerdict
from researcher.report.picture_layout import (
    LOOKS,
    Look,
    Mark,
    beside_the_defaults,
    boxes_of_line,
    boxes_of_points,
    fitted,
    place_labels,
)
from researcher.report.staircase import Scale, baseline_score, corners_of, place_at, scale_of, stands
from researcher.report.view import Row, RunReport, headline, tally_text
from trainer.jobs import Metric, Outcome

with beside_the_defaults():
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

FAILURE_MARKERS = {
    Outcome.CRASHED: "x",
    Outcome.OUT_OF_MEMORY: "+",
    Outcome.TIMED_OUT: "1",
    Outcome.UNSCORABLE: "2",
    Outcome.LOST: "3",
}
SMALL, NORMAL, LARGE = 8.0, 9.0, 13.0  # points
LINE = 1.55  # height of a line in font sizes
FAILURES_AT, OFF_SCALE_AT, BETTER_AT = 0.965, 0.915, 0.03  # heights in the axes, where worse scores are above


class _Values(ScalarFormatter):
    """Formats the ticks of an axis of scores as values of a metric."""

    def __init__(self, metric: Metric) -> None:
        super().__init__(useOffset=False)
        self._metric = metric

    def __call__(self, x: float, pos: int | None = None) -> str:
        return super().__call__(self._metric.value_of(x), pos)


@contextmanager
def _own_settings() -> Iterator[None]:
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams["text.parse_math"] = False  # a model may write $
        yield


@_own_settings()
def draw(report: RunReport, look: Look = LOOKS["progress.png"]) -> bytes:
    """Draw the run as PNG or SVG. A run without a measured baseline gets a note instead."""
    figure = figure_of(report, look)
    return png(figure) if look.form == "png" else _svg(figure)


@_own_settings()
def figure_of(report: RunReport, look: Look) -> Figure:
    """Return the picture of a run as a figure."""
    figure = Figure(figsize=look.inches, dpi=look.dpi, facecolor=look.palette.paper)
    FigureCanvasAgg(figure)
    axes = figure.add_axes(look.plot, facecolor=look.palette.paper)
    _title(figure, report, look)
    if report.gain is None:
        _frame(axes, report, look)
        note: dict[str, Any] = {"ha": "center", "color": look.palette.ink, "transform": axes.transAxes}
        axes.text(0.5, 0.5, "the baseline is still being measured", **note)
        return figure
    scale = scale_of(report)
    axes.set_ylim(*scale.edges)
    axes.set_xlim(-0.02 * len(report.rows) - 0.5, report.rows[-1].experiment.number * 1.01 + 1.2)
    _frame(axes, report, look)
    _percent(axes, report, look)
    _staircase(axes, report, look)
    _points(axes, report, look, scale)
    _claims(axes, report, look)
    _remeasured(axes, report, look)
    _legend(figure, axes, look)
    _numbers(axes, report, look, scale, _listing(figure, report, look))
    return figure


def png(figure: Figure) -> bytes:
    """Return a figure as PNG. Equal figures give equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "overnight"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _title(figure: Figure, report: RunReport, look: Look) -> None:
    left, width = look.listing[0] if look.portrait else look.plot[0], 0.92
    counts = f"{report.run.tag} ({report.run.profile}), {report.measured} experiments: {tally_text(report)}"
    top, height_px = 0.975, look.inches[1] * 72
    for words, size, weight in ((headline(report), LARGE, "bold"), (counts, NORMAL, "normal")):
        text = fitted(figure, words, width * figure.bbox.width, size, weight)
        style: dict[str, Any] = {"fontsize": size, "fontweight": weight, "color": look.palette.ink, "va": "top"}
        figure.text(left, top, text, **style)
        top -= LINE * size / height_px


def _frame(axes: Axes, report: RunReport, look: Look) -> None:
    colors = look.palette
    axes.spines["top"].set_visible(False)
    for side in ("left", "bottom", "right"):
        axes.spines[side].set_color(colors.faint)
    axes.tick_params(colors=colors.ink, labelsize=SMALL)
    axes.grid(axis="y", color=colors.faint, alpha=0.25)
    axes.set_xlabel("experiment", color=colors.ink, fontsize=NORMAL)
    metric = report.run.metric
    axes.set_ylabel(f"{metric.name} ({metric.explained(report.run.degree)})", color=colors.ink, fontsize=NORMAL)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(_Values(metric))


def _percent(axes: Axes, report: RunReport, look: Look) -> None:
    """Draw the gain over the baseline in percent on the right; a baseline of 0 has no such axis."""
    base = baseline_score(report)
    if base == 0:
        return

    def gain(score: Any) -> Any:
        return 100 * (base - score) / abs(base)

    def score(gain: Any) -> Any:
        return base - abs(base) * gain / 100

    right = axes.secondary_yaxis("right", functions=(gain, score))
    right.tick_params(colors=look.palette.ink, labelsize=SMALL)
    right.spines["right"].set_color(look.palette.faint)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:+.3g} %" if abs(value) > 1e-9 else "start")


def _staircase(axes: Axes, report: RunReport, look: Look) -> None:
    """Draw the incumbent's score as it was known at the time: better with each keep, worse with each rollback."""
    xs, ys = zip(*corners_of(report), strict=True)
    sigma, color = report.sigma or 0.0, look.palette.keep
    axes.fill_between(xs, [y - sigma for y in ys], [y + sigma for y in ys], color=color, alpha=0.12, lw=0)
    axes.plot(xs, ys, color=color, lw=1.6, label=f"best so far, ±1σ = {sigma:.4f}")
    axes.axhline(ys[0], color=look.palette.faint, lw=1, ls=":")


def _size(report: RunReport, large: float) -> float:
    """Return the area of a marker: smaller, the more experiments there are."""
    return large * min(1.0, max(0.12, 60 / len(report.rows)))


def _points(axes: Axes, report: RunReport, look: Look, scale: Scale) -> None:
    colors = look.palette
    series = _series(report, look)
    for label, points, style in series:
        if inside := [point for point in points if point[1] in scale]:
            axes.scatter(*zip(*inside, strict=True), zorder=4, label=label, **style)
    scores = [point for _, points, _ in series for point in points]
    up, down = ("v", "^") if scale.turned else ("^", "v")
    worse, better = ([x for x, y in scores if y > scale.high], [x for x, y in scores if y < scale.low])
    _at_edge(axes, worse, scale.height(OFF_SCALE_AT), up, colors.faint, "worse, off the scale")
    _at_edge(axes, better, scale.height(BETTER_AT), down, colors.lost, "better, off the scale")
    for outcome, marker in FAILURE_MARKERS.items():
        at = [row.experiment.number for row in report.rows if row.experiment.outcome is outcome]
        _at_edge(axes, at, scale.height(FAILURES_AT), marker, colors.lost, outcome.value.replace("_", " "))


def _series(report: RunReport, look: Look) -> list[tuple[str, list[tuple[int, float]], dict[str, Any]]]:
    """Return the label, the points and the style of each kind of score."""
    colors, size = look.palette, _size(report, 60)
    ring = {"facecolors": colors.paper, "s": size, "linewidths": 1.5}
    rows = report.rows[1:]
    kinds: list[tuple[str, list[Row], dict[str, Any]]] = [
        ("discard", [row for row in rows if row.status == "discard"], {"color": colors.faint, "s": size / 2}),
        ("keep, measured once", [row for row in rows if _is_single(row)], ring | {"edgecolors": colors.keep}),
        ("keep, confirmed", [row for row in rows if row.confirmed], {"color": colors.keep, "s": size}),
        ("keep, rolled back", [row for row in rows if row.rolled_back], ring | {"edgecolors": colors.lost}),
    ]
    start = [(0, score) for score in report.baseline_scores]
    return [
        ("start, each seed", start, {"color": colors.ink, "s": size / 2}),
        *((label, [*map(_point, filter(_has_score, found))], style) for label, found, style in kinds),
    ]


def _is_single(row: Row) -> bool:
    return stands(row) and not row.confirmed


def _has_score(row: Row) -> bool:
    return row.experiment.score is not None


def _point(row: Row) -> tuple[int, float]:
    assert row.experiment.score is not None
    return row.experiment.number, row.experiment.score


def _at_edge(axes: Axes, xs: Sequence[float], height: float, marker: str, color: str, label: str) -> None:
    if xs:
        across = axes.get_xaxis_transform()
        style: dict[str, Any] = {"marker": marker, "color": color, "s": 26, "zorder": 4, "transform": across}
        axes.scatter(xs, [height] * len(xs), label=label, **style)


def _claims(axes: Axes, report: RunReport, look: Look) -> None:
    """Draw each claim's own means beside the keeps' optimistic first scores."""
    label: str | None = "mean of fresh seeds, ± the gain that was needed"
    for each in _decided_claims(report):
        if each.head_score is None or each.threshold is None or each.decided_at is None:
            continue
        is_confirmed = each.verdict is ConfirmationVerdict.CONFIRMED
        color = look.palette.claim if is_confirmed else look.palette.lost
        style: dict[str, Any] = {"fmt": "D", "ms": 5, "capsize": 3, "zorder": 5, "color": color, "label": label}
        axes.errorbar([place_at(report, each.decided_at)], [each.head_score], yerr=[each.threshold], **style)
        label = None


def _decided_claims(report: RunReport) -> list[Confirmation]:
    undrawn = (None, ConfirmationVerdict.HOLDS)
    return [each for each in report.confirmations if each.decided_at is not None and each.verdict not in undrawn]


def _remeasured(axes: Axes, report: RunReport, look: Look) -> None:
    """Draw the incumbent's later trials. They are level with its step as long as the machine does not drift."""
    xs = [place_at(report, trial.finished_at or 0.0) for trial in report.remeasured]
    if xs:
        ys = [trial.val_bpb or 0.0 for trial in report.remeasured]
        axes.scatter(xs, ys, marker="_", color=look.palette.ink, s=_size(report, 60), zorder=5, label="best, run again")


def _legend(figure: Figure, axes: Axes, look: Look) -> None:
    columns, top = (2, look.plot[1] - 0.045) if look.portrait else (4, look.plot[1] - 0.075)
    handles, labels = axes.get_legend_handles_labels()
    style: dict[str, Any] = {"frameon": False, "fontsize": SMALL, "labelcolor": look.palette.ink, "ncols": columns}
    figure.legend(handles, labels, loc="upper left", bbox_to_anchor=(look.plot[0] - 0.03, top), **style)


def _listing(figure: Figure, report: RunReport, look: Look) -> list[Row]:
    """Write the keeps with the largest gains and the latest claims in a list. Return the listed keeps."""
    left, bottom, width, height = look.listing
    line = LINE * SMALL / (look.inches[1] * 72)
    room = int(height / line)
    keeps = [row for row in report.rows if row.status == "keep" and not row.experiment.is_baseline]
    claims = _decided_claims(report)[-max(2, room // 4) :]
    largest = sorted(keeps, key=_gain, reverse=True)[: room - len(claims) - 2]
    lines = [(_keep_text(row), _color(row, look)) for row in keeps if row in largest]
    if len(keeps) > len(largest):
        lines.append((f"and {len(keeps) - len(largest)} smaller keeps, see results.tsv", look.palette.faint))
    lines += [(_claim_text(report, each), _claim_color(each, look)) for each in claims]
    for index, (words, color) in enumerate(lines):
        text = fitted(figure, words, width * figure.bbox.width, SMALL)
        style: dict[str, Any] = {"fontsize": SMALL, "color": color, "va": "top"}
        figure.text(left, bottom + height - index * line, text, **style)
    return largest


def _numbers(axes: Axes, report: RunReport, look: Look, scale: Scale, keeps: Sequence[Row]) -> None:
    """Write the numbers of `keeps` beside their points, where neither points nor the staircase lie."""
    radius_px = (_size(report, 60) ** 0.5 / 2 + 1) * look.dpi / 72
    points: list[tuple[float, float]] = [
        point for _, found, _ in _series(report, look) for point in found if point[1] in scale
    ]
    points += [(place_at(report, each.decided_at or 0.0), each.head_score or 0.0) for each in _decided_claims(report)]
    corners = corners_of(report)
    marks = [
        Mark(*_point(row), str(row.experiment.number), _color(row, look), radius_px)
        for row in keeps
        if row.experiment.score is not None and row.experiment.score in scale
    ]
    place_labels(axes, marks, [*boxes_of_points(axes, points, radius_px), *boxes_of_line(axes, corners)], SMALL)


def _gain(row: Row) -> float:
    """Return how much lower a keep's first score was than the score that it had to beat."""
    return -(row.delta or 0.0)


def _color(row: Row, look: Look) -> str:
    return look.palette.lost if row.rolled_back else look.palette.keep


def _claim_color(claim: Confirmation, look: Look) -> str:
    return look.palette.claim if claim.verdict is ConfirmationVerdict.CONFIRMED else look.palette.lost


def _keep_text(row: Row) -> str:
    delta = "" if row.change is None else f" ({row.change:+.4f})"
    return f"{row.experiment.number}{delta}  {row.experiment.title}{', rolled back' if row.rolled_back else ''}"


def _claim_text(report: RunReport, claim: Confirmation) -> str:
    assert claim.verdict is not None
    head = report.row(claim.head)
    number = "?" if head is None else head.experiment.number
    why = claim.reason or ""
    if claim.gain is not None and claim.threshold is not None:
        why = f"gain {claim.gain:+.4f}, {claim.threshold:.4f} needed"
    return f"◆ {number} {claim.verdict.words}: {why}"
