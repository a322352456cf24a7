"""The recorded knob vectors: a seed alone determines them, so that an interrupted recording can continue.

Blocks of 28 trials, each shuffled, so that any beginning is balanced: the start values themselves, one to three knobs
moved over the whole of their ranges, all knobs near the start values, all knobs anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from researcher.optimizer.constraints import whole_batches
from researcher.source.knobs import Knob, Range, read_knobs
from researcher.source.proposal import KnobValue
from tests.fixtures.range_shares import from_share, to_share

REPEAT, FEW, NEAR, ANYWHERE = "repeat", "few", "near", "anywhere"
BLOCK = (REPEAT,) * 1 + (FEW,) * 12 + (NEAR,) * 7 + (ANYWHERE,) * 8
NEAR_SHARE = 0.25  # of a range, in both directions


@dataclass(frozen=True)
class Point:
    """One trial to run."""

    number: int
    design: str
    knobs: dict[str, KnobValue]
    seed: int


def point(source: str, context: int, seed: int, number: int) -> Point:
    """Return the `number`-th trial, from 0 on, of the design of `seed`."""
    block = list(BLOCK)
    Random(f"{seed} block {number // len(BLOCK)}").shuffle(block)
    design = block[number % len(BLOCK)]
    chance = Random(f"{seed} point {number}")
    knobs = searched(source)
    drawn = _drawn(knobs, design, chance)
    values = whole_batches(drawn, {name: knob.range for name, knob in knobs.items() if knob.range is not None}, context)
    assert values is not None, "every step of the default subject's range holds whole batches of some size"
    return Point(number, design, values, number + 1)


def searched(source: str) -> dict[str, Knob]:
    """Return the knobs that have a range."""
    return {name: knob for name, knob in read_knobs(source).items() if knob.range is not None}


def start_values(knobs: dict[str, Knob]) -> dict[str, KnobValue]:
    """Return the values in the file; a tuple never has a range."""
    return {name: knob.value for name, knob in knobs.items() if not isinstance(knob.value, tuple)}


def _drawn(knobs: dict[str, Knob], design: str, chance: Random) -> dict[str, KnobValue]:
    values = start_values(knobs)
    if design == REPEAT:
        return values
    moved = chance.sample(list(knobs), chance.choice((1, 1, 2, 2, 3))) if design == FEW else list(knobs)
    for name in moved:
        wanted = knobs[name].range
        assert wanted is not None
        values[name] = _moved(wanted, values[name], design, chance)
    return values


def _moved(wanted: Range, value: KnobValue, design: str, chance: Random) -> KnobValue:
    """Return a moved value. A choice has no near values, so half of the time it stays."""
    if wanted.kind == "choice":
        return value if design == NEAR and chance.random() < 0.5 else chance.choice(wanted.choices)
    if design != NEAR:
        return from_share(chance.random(), wanted)
    share = to_share(value, wanted) + chance.uniform(-NEAR_SHARE, NEAR_SHARE)
    return from_share(min(max(share, 0.0), 1.0), wanted)
