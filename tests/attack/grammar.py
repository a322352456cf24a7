"""Hypothesis draws candidates from the grammar: the same seed draws the same ones, on every machine."""

from __future__ import annotations

import contextlib
import unittest

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.attack.candidate import Candidate
from tests.attack.parts import COVERS, GAINS, GATES, PLACES, SPEECHES, TRAININGS, Part

_A_CLOCKED_ONE_IN = 12  # it takes ten times as long
_DRAWS_FOR_ONE = 20


def _one_of_a_kind(parts: tuple[Part, ...]) -> st.SearchStrategy[Part]:
    """A kind first, then one of it: a kind with many numbers is not drawn more often."""
    kinds: dict[str, list[Part]] = {}
    for part in parts:
        kinds.setdefault(part.kind, []).append(part)
    return st.sampled_from(list(kinds.values())).flatmap(st.sampled_from)


def _some(parts: tuple[Part, ...], least: int, most: int) -> st.SearchStrategy[list[Part]]:
    return st.lists(_one_of_a_kind(parts), min_size=least, max_size=most, unique_by=lambda part: part.kind)


_BESIDE = ("looks ahead", "looks ahead, signs balanced", "constant rows", "offset rows")
_ADDED = tuple(part for part in GAINS if part.kind in _BESIDE)  # may stand beside another gain
ANSWERING = st.builds(
    lambda gain, more, gates, place, cover, speech: Candidate.of(gain, *more, *gates, place, *cover, *speech),
    gain=_one_of_a_kind(GAINS),
    more=st.just([]) | st.just([]) | _some(_ADDED, 1, 1),
    gates=st.just([]) | _some(GATES, 1, 1) | _some(GATES, 2, 3),
    place=_one_of_a_kind(PLACES),
    cover=st.just([]) | _some(COVERS, 1, 1),
    speech=st.just([]) | st.just([]) | st.just([]) | _some(SPEECHES, 1, 1),
)
TRAINING = st.builds(
    lambda gain, place, speech: Candidate.of(gain, *([place] if gain.act else []), *speech),
    gain=_one_of_a_kind(TRAININGS),
    place=_one_of_a_kind(PLACES),
    speech=st.just([]) | st.just([]) | _some(SPEECHES, 1, 1),
)


def candidates(number: int, count: int, *, clocked: bool = True) -> list[Candidate]:
    """`count` different candidates of the seed `number`, the first ones the same for every count."""
    drawn: dict[str, Candidate] = {}
    choice = st.integers(1, _A_CLOCKED_ONE_IN) if clocked else st.just(1)

    @seed(number)
    @settings(
        max_examples=_DRAWS_FOR_ONE * count,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(choice, ANSWERING, TRAINING)
    def draw(which: int, answering: Candidate, training: Candidate) -> None:
        one = training if which == _A_CLOCKED_ONE_IN else answering
        drawn.setdefault(one.names, one)
        if len(drawn) == count:
            raise unittest.SkipTest  # the one way to end a run of hypothesis early

    with contextlib.suppress(unittest.SkipTest):
        draw()
    return list(drawn.values())
