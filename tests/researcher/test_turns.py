"""Whose turn it is: shares that are kept, evenly, whatever was missed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.turns import Shares, Turn, coming, newest, turn_of

LLM_TURNS = (Turn.EDIT, Turn.ADVICE)
shares = st.builds(Shares, st.floats(0, 1), st.floats(0, 1))


def taken(wanted: Shares, count: int, *, away: range = range(0)) -> list[Turn]:
    """Who had each experiment from 1 on, the LLM being away for some, whose turns are the optimiser's."""
    last, found = dict.fromkeys(LLM_TURNS, 0), []
    for number in range(1, count + 1):
        turn = turn_of(number, last, wanted)
        if number in away:
            turn = Turn.KNOBS
        if turn in last:
            last[turn] = number
        found.append(turn)
    return found


@pytest.mark.parametrize(
    ("edits", "advice", "expected"),
    [
        (0.0, 0.0, "kkkkkkkk"),
        (1.0, 0.3, "eeeeeeee"),
        (0.5, 0.0, "ekekekek"),
        (0.0, 1.0, "aaaaaaaa"),
        (0.5, 1.0, "eaeaeaea"),
        (0.25, 0.0, "ekkkekkk"),
    ],
)
def test_turns_are_spread_evenly(edits: float, advice: float, expected: str) -> None:
    assert "".join(turn[0] for turn in taken(Shares(edits, advice), 8)) == expected


@given(shares)
def test_the_share_of_a_long_night_is_the_one_that_was_set(wanted: Shares) -> None:
    turns = taken(wanted, 200)

    assert turns.count(Turn.EDIT) == pytest.approx(200 * wanted.edits, abs=1.01)
    assert turns.count(Turn.ADVICE) <= 200 * wanted.of(Turn.ADVICE) + 2
    assert turns.count(Turn.ADVICE) >= 0.8 * 200 * wanted.of(Turn.ADVICE) - 2


def test_usual_shares_are_kept_to_the_experiment() -> None:
    turns = taken(Shares(0.25, 0.3), 400)

    assert (turns.count(Turn.EDIT), turns.count(Turn.ADVICE)) == (100, 90)


@given(shares, st.integers(1, 60), st.integers(0, 60))
def test_an_llm_that_was_away_is_owed_one_turn_of_a_kind_and_no_more(wanted: Shares, since: int, length: int) -> None:
    back = since + length
    turns = taken(wanted, back + 20, away=range(since, back))[back - 1 :]

    for kind in LLM_TURNS:
        assert turns.count(kind) <= 21 * wanted.of(kind) + 2


@given(shares, st.integers(1, 100))
def test_what_comes_is_what_is_taken_later(wanted: Shares, number: int) -> None:
    turns = taken(wanted, number + 39)
    last = {
        kind: max((at + 1 for at, turn in enumerate(turns[: number - 1]) if turn is kind), default=0)
        for kind in LLM_TURNS
    }

    assert coming(number, last, wanted, 3) == [turn for turn in turns[number - 1 :] if turn in LLM_TURNS][:3]


def test_nobody_has_had_a_turn_in_an_empty_night() -> None:
    assert newest([]) == {Turn.EDIT: 0, Turn.ADVICE: 0}
