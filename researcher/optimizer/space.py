"""The space of the knobs: converts ranges to Optuna's distributions, and values back.

Values are inside their ranges; `researcher.optimizer.constraints` repairs constraints between knobs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from researcher.source.knobs import Range, read_knobs
from researcher.source.proposal import KnobValue

SIGNIFICANT_DIGITS = 3
STEP_SHARES = (0.1, 0.25)


def values_and_ranges(source: str) -> tuple[dict[str, KnobValue], dict[str, Range]]:
    """Return the value of each knob of a source except tuples, and the range of each knob that has one."""
    knobs = read_knobs(source)
    return (
        {name: knob.value for name, knob in knobs.items() if not isinstance(knob.value, tuple)},
        {name: knob.range for name, knob in knobs.items() if knob.range is not None},
    )


def distribution(wanted: Range) -> BaseDistribution:
    """Return the distribution of a whole range. For powers of two it holds the exponents."""
    match wanted.kind:
        case "choice":
            return CategoricalDistribution(wanted.choices)
        case "pow2":
            return IntDistribution(int(wanted.low).bit_length() - 1, int(wanted.high).bit_length() - 1)
        case "int":
            return IntDistribution(int(wanted.low), int(wanted.high), log=wanted.log)
        case "float":
            return FloatDistribution(wanted.low, wanted.high, log=wanted.log)


def to_study(value: KnobValue, wanted: Range) -> KnobValue:
    """Convert a knob's value for its distribution."""
    return value.bit_length() - 1 if wanted.kind == "pow2" and isinstance(value, int) else value


def from_study(value: KnobValue, wanted: Range) -> KnobValue:
    """Convert a value of the distribution to the knob's, with no more digits than a user would write."""
    if wanted.kind == "pow2" and isinstance(value, int):
        return int(2**value)
    if isinstance(value, float) and wanted.kind == "float":
        return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), wanted.low), wanted.high)
    return value


def untried_near(
    wanted: Range, value: KnobValue, seen: Collection[KnobValue], chance: random.Random
) -> BaseDistribution | None:
    """Return the values at 10 to 25 % of the range from `value`, on a side without any seen value, or None."""
    whole = distribution(wanted)
    if isinstance(whole, CategoricalDistribution):
        others = [choice for choice in wanted.choices if choice != value and choice not in seen]
        return CategoricalDistribution(others) if len(set(seen)) < 2 and others else None
    assert isinstance(whole, IntDistribution | FloatDistribution)
    at, known = _number(value, wanted), [_number(each, wanted) for each in seen]
    sides = [side for side in (-1, 1) if not any(side * each > side * at for each in known)]
    steps = [step for side in sides if (step := _step(whole, at, side)) is not None]
    return chance.choice(steps) if steps else None


def _step(whole: IntDistribution | FloatDistribution, at: float, side: int) -> BaseDistribution | None:
    scale, unscale = (math.log, math.exp) if whole.log else (float, float)
    width = scale(whole.high) - scale(whole.low)
    ends = sorted(unscale(scale(at) + side * share * width) for share in STEP_SHARES)
    if isinstance(whole, IntDistribution):
        nearest = int(at) + side
        low, high = sorted((nearest if abs(round(end) - at) < 1 else round(end)) for end in ends)
        low, high = max(low, whole.low), min(high, whole.high)
        return IntDistribution(int(low), int(high), log=whole.log) if low <= high else None
    floor, ceiling = max(ends[0], whole.low), min(ends[1], whole.high)
    return FloatDistribution(floor, ceiling, log=whole.log) if floor < ceiling else None


def _number(value: KnobValue, wanted: Range) -> float:
    found = to_study(value, wanted)
    assert not isinstance(found, str), "only a choice holds texts"
    return found
