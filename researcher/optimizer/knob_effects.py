"""What moving each knob did to the score, and how sure that is: pure.

Each measured move of knobs alone is an equation: the sum of what its knobs did is the score's difference to its parent,
with noise. Solved for all at once by Bayesian linear regression (a normal prior around nothing, as wide as the
differences are; Bishop, Pattern Recognition and Machine Learning, 3.3), so that moves of several knobs count too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from researcher.source.proposal import KnobValue

UP, DOWN, CHANGED = "up", "down", "changed"


@dataclass(frozen=True)
class KnobMove:
    """One experiment that moved knobs alone: each from and to, and the score above its parent's; None if it failed."""

    moved: Mapping[str, tuple[KnobValue, KnobValue]]
    worse_by: float | None


@dataclass(frozen=True)
class Effect:
    """What a move of `knob` in a direction did: `mean` below 0 is better, `sd` how far off that may be. None where no
    move of it came to a score."""

    knob: str
    direction: str
    mean: float | None
    sd: float | None
    measured: int
    failed: int


def effects(moves: Sequence[KnobMove], sigma: float) -> list[Effect]:
    """Of each knob and direction, in the order of their first move. `sigma` is the scatter of one score."""
    asked = [(_directions(move), move.worse_by) for move in moves]
    names = list(dict.fromkeys(name for directions, _ in asked for name in directions))
    scored = [(directions, worse_by) for directions, worse_by in asked if worse_by is not None]
    tried = Counter(name for directions, _ in scored for name in directions)
    failed = Counter(name for directions, worse_by in asked if worse_by is None for name in directions)
    known = [name for name in names if tried[name]]
    solved = _solved(known, scored, sigma)
    return [
        Effect(knob, direction, mean, sd, tried[knob, direction], failed[knob, direction])
        for knob, direction in names
        for mean, sd in [solved.get((knob, direction), (None, None))]
    ]


_Name = tuple[str, str]


def _directions(move: KnobMove) -> list[_Name]:
    return [(knob, _direction(*values)) for knob, values in move.moved.items()]


def _direction(old: KnobValue, new: KnobValue) -> str:
    if isinstance(old, str) or isinstance(new, str):
        return CHANGED
    return UP if new > old else DOWN


def _solved(
    names: Sequence[_Name], scored: Sequence[tuple[Sequence[_Name], float]], sigma: float
) -> dict[_Name, tuple[float, float]]:
    """Mean and standard deviation of each."""
    if not names:
        return {}
    place = {name: number for number, name in enumerate(names)}
    noise = 2 * sigma**2  # of a difference of two scores
    seen = np.array([worse_by for _, worse_by in scored])
    width = max(float(np.mean(seen**2)), noise)
    precision = np.eye(len(names)) / width
    pulled = np.zeros(len(names))
    for directions, worse_by in scored:
        at = [place[name] for name in directions]
        precision[np.ix_(at, at)] += 1 / noise
        pulled[at] += worse_by / noise
    spread = np.linalg.inv(precision)
    means = spread @ pulled
    return {name: (float(means[at]), float(np.sqrt(spread[at, at]))) for name, at in place.items()}
