"""progress.png: the night in one picture. Every experiment is a point, the incumbent a staircase, its noise a band."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from researcher.experiment import Verdict
from researcher.view import Night, Row

INK, FAINT, KEEP, CLAIM, LOST = "#1f2933", "#9aa5b1", "#0b7a5c", "#d97706", "#c2410c"
LABELS_LIMIT = 8
LABEL_CHARACTERS = 44


def draw(night: Night) -> bytes:
    """A PNG of the night so far; a night without a measured baseline says so in the picture."""
    figure = Figure(figsize=(12, 6.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _frame(axes)
    if night.gain is None:
        axes.text(0.5, 0.5, "the baseline is still being measured", transform=axes.transAxes, ha="center", color=INK)
    else:
        _staircase(axes, night)
        _points(axes, night)
        _claims(axes, night)
        axes.legend(loc="lower left", frameon=False, ncols=3, fontsize=9)
    axes.set_title(_title(night), loc="left", fontsize=13, color=INK)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
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


def _staircase(axes: Axes, night: Night) -> None:
    """The incumbent's score over the night as it was believed at the time, with one sigma of noise around it."""
    xs, ys = [0.0], [sum(night.baseline_scores) / len(night.baseline_scores)]
    for row in night.rows[1:]:
        if row.status == "keep" and row.experiment.score is not None:
            xs.append(row.experiment.number)
            ys.append(row.experiment.score)
    xs.append(max(row.experiment.number for row in night.rows) + 0.5)
    ys.append(ys[-1])
    sigma = night.sigma or 0.0
    axes.fill_between(xs, [y - sigma for y in ys], [y + sigma for y in ys], step="post", color=KEEP, alpha=0.12, lw=0)
    axes.step(xs, ys, where="post", color=KEEP, lw=1.6, label=f"incumbent, ±1σ = {sigma:.4f}")
    axes.axhline(ys[0], color=FAINT, lw=1, ls=":")


def _points(axes: Axes, night: Night) -> None:
    axes.scatter(
        [0] * len(night.baseline_scores), night.baseline_scores, s=26, color=INK, zorder=3, label="baseline, each seed"
    )
    measured = [row for row in night.rows[1:] if row.experiment.score is not None]
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
    _clip_to_interesting(axes, night, measured)
    _failures(axes, night)
    for row in [row for row in measured if row.status == "keep"][-LABELS_LIMIT:]:
        axes.annotate(
            _short(row.experiment.title),
            (row.experiment.number, row.experiment.score or 0.0),
            xytext=(6, 7),
            textcoords="offset points",
            fontsize=8,
            color=INK,
            rotation=18,
        )


def _clip_to_interesting(axes: Axes, night: Night, measured: list[Row]) -> None:
    """One disaster must not flatten the rest: scores far above the baseline are drawn at the upper edge."""
    scores = [row.experiment.score for row in measured if row.experiment.score is not None]
    top = max(night.baseline_scores)
    low = min([*scores, *night.baseline_scores])
    height = max(top - low, 8 * (night.sigma or 0.0), 0.02)
    upper = top + height
    axes.set_ylim(low - 0.45 * height, upper)
    above = [row.experiment.number for row in measured if (row.experiment.score or 0.0) > upper]
    if above:
        axes.scatter(
            above, [upper - 0.02 * height] * len(above), marker="^", color=FAINT, s=40, label="worse, off scale"
        )


def _failures(axes: Axes, night: Night) -> None:
    crashed = [row.experiment.number for row in night.rows if row.status == "crash"]
    if crashed:
        low, high = axes.get_ylim()
        axes.scatter(crashed, [low + 0.96 * (high - low)] * len(crashed), marker="x", color=LOST, s=40, label="crash")


def _claims(axes: Axes, night: Night) -> None:
    """Each confirmation's own means: the unbiased numbers, beside the lucky first runs of the keeps."""
    drawn = False
    for check in night.confirmations:
        head = night.row(check.head)
        if head is None or check.head_score is None or check.threshold is None:
            continue
        confirmed = check.verdict is Verdict.CONFIRMED
        x = head.experiment.number + 0.25
        axes.errorbar(
            [x],
            [check.head_score],
            yerr=[check.threshold / 2],
            fmt="D",
            color=CLAIM if confirmed else LOST,
            ms=7,
            capsize=4,
            zorder=5,
            label=None if drawn else "fresh seeds of the head",
        )
        drawn = True
        axes.annotate(
            f"{'confirmed' if confirmed else 'not confirmed'} {check.gain or 0.0:+.4f}",
            (x, check.head_score),
            xytext=(8, -14),
            textcoords="offset points",
            fontsize=9,
            color=CLAIM if confirmed else LOST,
            fontweight="bold",
        )


def _title(night: Night) -> str:
    counts = f"{night.measured} experiments: {night.count('keep')} kept, {night.count('discard')} discarded"
    counts += f", {night.count('crash')} crashed, {night.count('rejected')} rejected"
    gain = "no gain confirmed" if night.gain is None or night.gain.confirmed is None else _confirmed(night)
    return f"Overnight {night.run.tag} ({night.run.profile})   {counts}   {gain}"


def _confirmed(night: Night) -> str:
    assert night.gain is not None
    assert night.gain.confirmed is not None
    return f"confirmed {-night.gain.confirmed:+.4f} val_bpb"


def _short(title: str) -> str:
    return title if len(title) <= LABEL_CHARACTERS else f"{title[: LABEL_CHARACTERS - 1]}…"
