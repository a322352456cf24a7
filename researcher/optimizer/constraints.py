"""Constraints between knobs, for the names of this family of subjects: whole batches, and moves that have an effect.

A step must hold whole device batches of rows. A width is rounded up to whole heads, so a move may not change it, and a
window pattern may differ only in layers that do not exist. Such moves are undone; otherwise the same model would be
measured twice. Heads need no other repair, because the width follows HEAD_DIM. Other names are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from researcher.source.knobs import Range
from researcher.source.proposal import KnobValue

Knobs = Mapping[str, KnobValue]


def repaired(old: Knobs, new: Knobs, ranges: Mapping[str, Range], context: int) -> dict[str, KnobValue] | None:
    """Return `new` changed so that it runs in place of `old`, or None if no batches inside the ranges fit."""
    batches = whole_batches(new, ranges, context) if _is_whole(old, context) else dict(new)
    return None if batches is None else without_idle(old, batches)


def whole_batches(knobs: Knobs, ranges: Mapping[str, Range], context: int) -> dict[str, KnobValue] | None:
    """Lower the device batch, if necessary, so that whole batches of rows of `context` tokens fill a step.

    If no device batch inside its range fits, the step's size changes as little as possible. Returns None if no values
    inside the ranges fit.
    """
    if _is_whole(knobs, context):
        return dict(knobs)
    total, device = knobs["TOTAL_BATCH_SIZE"], knobs["DEVICE_BATCH_SIZE"]
    assert isinstance(total, int)
    assert isinstance(device, int)
    fits = [
        (tokens, rows)
        for rows in _values(device, ranges.get("DEVICE_BATCH_SIZE"), 1)
        for tokens in _values(total, ranges.get("TOTAL_BATCH_SIZE"), rows * context)
        if tokens % (rows * context) == 0
    ]
    if not fits:
        return None
    tokens, rows = min(
        fits, key=lambda fit: (abs(math.log(fit[0] / total)), fit[1] > device, abs(math.log(fit[1] / device)))
    )
    return {**knobs, "TOTAL_BATCH_SIZE": tokens, "DEVICE_BATCH_SIZE": rows}


def _is_whole(knobs: Knobs, context: int) -> bool:
    """Return True if the batches are whole, or if the knobs define no batches."""
    total, device = knobs.get("TOTAL_BATCH_SIZE"), knobs.get("DEVICE_BATCH_SIZE")
    if not (isinstance(total, int) and isinstance(device, int) and total > 0 and device > 0):
        return True
    return total % (device * context) == 0


def _values(value: int, wanted: Range | None, step: int) -> Iterable[int]:
    """Return possible values of an integer knob: all powers and choices, or the nearest multiples of `step`."""
    if wanted is None:
        return [value]
    if wanted.kind == "pow2":
        return [2**power for power in range(int(wanted.low).bit_length() - 1, int(wanted.high).bit_length())]
    if wanted.kind == "choice":
        return [choice for choice in wanted.choices if isinstance(choice, int) and choice > 0]
    if step == 1:
        return range(max(1, int(wanted.low)), int(wanted.high) + 1)
    multiples = (value // step * step, (value // step + 1) * step)
    return [multiple for multiple in multiples if multiple > 0 and wanted.holds(multiple)]


def without_idle(old: Knobs, new: dict[str, KnobValue]) -> dict[str, KnobValue]:
    """Undo moves that leave the model unchanged."""
    if (shape := _shape(new)) is not None and shape == _shape(old):
        new["ASPECT_RATIO"] = old["ASPECT_RATIO"]
    if (windows := _windows(new)) is not None and windows == _windows(old):
        new["WINDOW_PATTERN"] = old["WINDOW_PATTERN"]
    return new


def _shape(knobs: Knobs) -> tuple[int, int, int] | None:
    """Return the number of layers, of heads in each, and the head size, or None."""
    depth, ratio, head = (knobs.get(name) for name in ("DEPTH", "ASPECT_RATIO", "HEAD_DIM"))
    if isinstance(depth, int) and isinstance(ratio, int | float) and isinstance(head, int) and head > 0:
        return depth, math.ceil(depth * ratio / head), head
    return None


def _windows(knobs: Knobs) -> str | None:
    """Return the windows of all layers but the last, which uses the whole context with any pattern."""
    depth, pattern = knobs.get("DEPTH"), knobs.get("WINDOW_PATTERN")
    if isinstance(depth, int) and isinstance(pattern, str) and pattern:
        return "".join(pattern[layer % len(pattern)] for layer in range(depth - 1))
    return None
