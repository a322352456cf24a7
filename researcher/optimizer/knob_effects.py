"""Estimates the effect of moving each knob on the score, with its uncertainty. Pure functions.

Each measured change of knobs alone is an equation: the sum of its knobs' effects is the score's difference from its
parent, with noise. All equations are solved together by Bayesian linear regression (a normal prior with mean 0, as wide
as the differences; Bishop, Pattern Recognition and Machine Learning, 3.3), so changes of several knobs count too.
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
    """One experiment that changed knobs alone: the old and new value of each knob, and the rise of the score.

    `worse_by` is the score minus the parent's score, or None if the experiment failed.
    """

    moved: Mapping[str, tuple[KnobValue, KnobValue]]
    worse_by: float | None


@dataclass(frozen=True)
class Effect:
    """The effect of moving `knob` in a direction, as a difference of scores.

    `mean` below 0 is better, and `sd` is its standard deviation. Both are None if no such move has a score.
    """

    knob: str
    direction: str
    mean: float | None
    sd: float | None
    measured: int
    failed: int


def effects(moves: Sequence[KnobMove], sigma: float) -> list[Effect]:
    """Return the effect of each knob and direction, in the order of their first move.

    `sigma` is the noise of one score.
    """
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
    """Return the mean and standard deviation of each effect."""
    if not names:
        return {}
    place = {name: number for number, name in enumerate(names)}
    noise = 2 * sigma**2  # variance of the difference of two scores
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
