"""Whose turn it is: shares that are kept, evenly, whatever was missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.journal.records import Decision
from researcher.proposers.schedule import FARTHEST, Shares, Taken, Turn, coming, taken, turn_of
from researcher.source.proposal import Proposer
from tests.fixtures.journal_story import Story

LLM_TURNS = (Turn.EDIT, Turn.ADVICE)
shares = st.builds(Shares, st.floats(0, 1), st.floats(0, 1))


def turns_of(wanted: Shares, count: int, *, away: range = range(0)) -> list[Turn]:
    """Who had each experiment from 1 on, the LLM being away for some, whose turns are the optimiser's."""
    so_far, found = Taken(), []
    for number in range(1, count + 1):
        found.append(Turn.KNOBS if number in away else turn_of(so_far, wanted))
        so_far = so_far.and_then(found[-1])
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
        (0.25, 1.0, "eaaaeaaa"),
        (0.25, 0.5, "eakaekak"),
    ],
)
def test_turns_are_spread_evenly(edits: float, advice: float, expected: str) -> None:
    assert "".join(turn[0] for turn in turns_of(Shares(edits, advice), 8)) == expected


@given(shares)
def test_the_share_of_a_long_night_is_the_one_that_was_set(wanted: Shares) -> None:
    turns = turns_of(wanted, 200)

    others = 200 - turns.count(Turn.EDIT)
    assert turns.count(Turn.EDIT) == pytest.approx(200 * wanted.edits, abs=1.01)
    assert turns.count(Turn.ADVICE) == pytest.approx(others * wanted.advice, abs=1.01)


def test_usual_shares_are_kept_to_the_experiment() -> None:
    turns = turns_of(Shares(0.25, 0.3), 400)

    assert (turns.count(Turn.EDIT), turns.count(Turn.ADVICE)) == (100, 90)


@given(shares, st.integers(1, 60), st.integers(0, 60))
def test_an_llm_that_was_away_is_owed_one_turn_of_a_kind_and_no_more(wanted: Shares, since: int, length: int) -> None:
    back = since + length
    turns = turns_of(wanted, back + 20, away=range(since, back))[back - 1 :]

    others = 21 - turns.count(Turn.EDIT)
    assert turns.count(Turn.EDIT) <= 21 * wanted.edits + 2
    assert turns.count(Turn.ADVICE) <= others * wanted.advice + 2


@given(shares, st.integers(0, 100))
def test_what_comes_is_what_is_taken_later(wanted: Shares, before: int) -> None:
    so_far = Taken()
    for turn in turns_of(wanted, before):
        so_far = so_far.and_then(turn)

    later = turns_of(wanted, before + FARTHEST)[before:]
    assert coming(so_far, wanted, 3) == [turn for turn in later if turn in LLM_TURNS][:3]


def test_what_was_taken_is_read_from_the_journal(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    found = [taken(story.journal.experiments())]
    for who in (Proposer.LLM, Proposer.ADVISER, Proposer.HUMAN, Proposer.OPTIMIZER, Proposer.ADVISER, Proposer.LLM):
        story.try_out("t", 1.9, Decision.DISCARD, by=who)
        found.append(taken(story.journal.experiments()))

    story.journal.close()
    assert found == [
        Taken(experiments=0, edit=0, others=0, advised=0),
        Taken(experiments=1, edit=1, others=0, advised=0),
        Taken(experiments=2, edit=1, others=1, advised=1),
        Taken(experiments=3, edit=1, others=2, advised=1),
        Taken(experiments=4, edit=1, others=3, advised=1),
        Taken(experiments=5, edit=1, others=4, advised=4),
        Taken(experiments=6, edit=6, others=4, advised=4),
    ]
