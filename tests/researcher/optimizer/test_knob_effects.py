"""What moving a knob did: recovered from moves, with an uncertainty that is true."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.optimizer.knob_effects import CHANGED, DOWN, UP, Effect, KnobMove, effects

SIGMA = 0.01
moves = st.lists(
    st.builds(
        KnobMove,
        st.dictionaries(st.sampled_from("ABCD"), st.tuples(st.integers(1, 3), st.integers(4, 6)), min_size=1),
        st.none() | st.floats(-0.5, 0.5),
    ),
    max_size=30,
)


def by_name(found: list[Effect]) -> dict[tuple[str, str], Effect]:
    return {(effect.knob, effect.direction): effect for effect in found}


def test_effects_of_knobs_moved_together_are_told_apart_within_their_uncertainty() -> None:
    true = {"A": 0.08, "B": -0.05, "C": 0.0}
    chance = Random(1)

    def move() -> KnobMove:
        names = chance.sample(sorted(true), chance.choice((1, 2, 3)))
        noise = chance.gauss(0, SIGMA) - chance.gauss(0, SIGMA)
        return KnobMove(dict.fromkeys(names, (1, 2)), sum(true[name] for name in names) + noise)

    found = by_name(effects([move() for _ in range(60)], SIGMA))

    for name, value in true.items():
        effect = found[name, UP]
        assert effect.mean is not None
        assert effect.sd is not None
        assert abs(effect.mean - value) < 3 * effect.sd
        assert effect.sd < SIGMA, "sixty moves say more than one"


def test_one_move_is_hardly_believed_where_it_is_no_more_than_noise() -> None:
    (small,) = effects([KnobMove({"A": (1, 2)}, -SIGMA)], SIGMA)
    (large,) = effects([KnobMove({"A": (1, 2)}, -20 * SIGMA)], SIGMA)

    assert small.mean == pytest.approx(-SIGMA / 2)
    assert large.mean == pytest.approx(-20 * SIGMA, rel=0.05)


def test_directions_words_and_failures_are_told_apart() -> None:
    found = effects(
        [
            KnobMove({"A": (2, 1)}, 0.1),
            KnobMove({"A": (1, 2)}, None),
            KnobMove({"P": ("SL", "L")}, 0.2),
            KnobMove({"A": (2, 1)}, None),
        ],
        SIGMA,
    )

    assert [(each.knob, each.direction, each.measured, each.failed) for each in found] == [
        ("A", DOWN, 1, 1),
        ("A", UP, 0, 1),
        ("P", CHANGED, 1, 0),
    ]
    assert (found[1].mean, found[1].sd) == (None, None), "a failed move has no score to speak of"


@given(moves)
def test_every_move_is_counted_once_for_each_of_its_knobs_and_no_effect_is_certain(asked: list[KnobMove]) -> None:
    found = effects(asked, SIGMA)

    assert sum(each.measured + each.failed for each in found) == sum(len(move.moved) for move in asked)
    assert all((each.mean is None) == (each.measured == 0) for each in found)
    assert all(each.sd is None or each.sd > 0 for each in found)
