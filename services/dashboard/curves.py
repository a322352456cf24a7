"""Loss curves as the paths of an SVG picture. A curve runs over the share of the budget, so two of them compare at the
same share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import quantiles

from trainer.jobs import LossPoint

WIDTH, HEIGHT = 600, 160
_MARGIN = 6
_TOP_SHARE = 10  # the first tenth of a curve falls steeply, and does not set the scale
_FEWEST_FOR_TOP = 20


@dataclass(frozen=True)
class Curves:
    """The paths of a curve and of the one that it is compared with, and the losses at the picture's edges."""

    path: str
    compared: str
    low: float
    high: float
    last: float | None
    compared_there: float | None


def curves_of(curve: Sequence[LossPoint], compared: Sequence[LossPoint]) -> Curves | None:
    """Return the picture of two curves, or None if there is no loss to draw."""
    own, other = _usable(curve), _usable(compared)
    losses = [point.loss for part in (own, other) for point in part]
    if not losses:
        return None
    low, high = min(losses), max(_top(part) for part in (own, other) if part)
    high = high if high > low else low + 1.0
    last = own[-1] if own else None
    return Curves(
        path=_path(own, low, high),
        compared=_path(other, low, high),
        low=low,
        high=high,
        last=None if last is None else last.loss,
        compared_there=None if last is None else loss_at(other, last.progress),
    )


def loss_at(curve: Sequence[LossPoint], progress: float) -> float | None:
    """Return the loss of a curve at a share of the budget: that of the last point before it."""
    before = [point.loss for point in curve if point.progress <= progress]
    return before[-1] if before else None


def _usable(curve: Sequence[LossPoint]) -> list[LossPoint]:
    return [point for point in curve if isfinite(point.loss) and isfinite(point.progress)]


def _top(curve: Sequence[LossPoint]) -> float:
    losses = [point.loss for point in curve]
    return max(losses) if len(losses) < _FEWEST_FOR_TOP else quantiles(losses, n=_TOP_SHARE)[-1]


def _path(curve: Sequence[LossPoint], low: float, high: float) -> str:
    points = []
    for point in curve:
        x = _MARGIN + (WIDTH - 2 * _MARGIN) * min(max(point.progress, 0.0), 1.0)
        y = _MARGIN + (HEIGHT - 2 * _MARGIN) * (1 - (min(point.loss, high) - low) / (high - low))
        points.append(f"{x:.1f} {y:.1f}")
    return f"M{' L'.join(points)}" if len(points) > 1 else ""
