"""Whose turn it is: shares that are kept, evenly, whatever was missed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.journal.records import Decision
from researcher.proposers.schedule import USUAL_SHARES, Count, Schedule, and_then, progress, upcoming
from researcher.source.proposal import Proposal, ProposerName
from tests.fixtures.journal_story import Story

LLM, ADVISER, OPTIMIZER = ProposerName.LLM, ProposerName.ADVISER, ProposerName.OPTIMIZER
schedules = st.builds(lambda edits, advice: {LLM: edits, ADVISER: advice}, st.floats(0, 1), st.floats(0, 1))


def turns_of(schedule: Schedule, count: int, *, away: range = range(0)) -> list[str]:
    """Who had each experiment from 1 on, the LLM being away for some, whose turns are the optimiser's."""
    so_far, found = progress(schedule, []), []
    for number in range(1, count + 1):
        found.append(OPTIMIZER if number in away else upcoming(so_far, schedule, 1)[0])
        so_far = and_then(so_far, found[-1])
    return found


@pytest.mark.parametrize(
    ("edits", "advice", "expected"),
    [
        (0.0, 0.0, "oooooooo"),
        (1.0, 0.3, "llllllll"),
        (0.5, 0.0, "lolololo"),
        (0.0, 1.0, "aaaaaaaa"),
        (0.5, 1.0, "lalalala"),
        (0.25, 0.0, "looolooo"),
        (0.25, 1.0, "laaalaaa"),
        (0.25, 0.5, "laoaloao"),
    ],
)
def test_turns_are_spread_evenly(edits: float, advice: float, expected: str) -> None:
    assert "".join(name[0] for name in turns_of({LLM: edits, ADVISER: advice}, 8)) == expected


def test_any_name_may_have_a_share_of_what_those_before_it_left() -> None:
    turns = turns_of({LLM: 0.25, "recipe": 0.5, ADVISER: 0.5}, 400)

    assert [turns.count(name) for name in (LLM, "recipe", ADVISER, OPTIMIZER)] == [100, 150, 75, 75]


@given(schedules)
def test_the_share_of_a_long_run_is_the_one_that_was_set(schedule: Schedule) -> None:
    turns = turns_of(schedule, 200)

    others = 200 - turns.count(LLM)
    assert turns.count(LLM) == pytest.approx(200 * schedule[LLM], abs=1.01)
    assert turns.count(ADVISER) == pytest.approx(others * schedule[ADVISER], abs=1.01)


def test_usual_shares_are_kept_to_the_experiment() -> None:
    turns = turns_of(USUAL_SHARES, 400)

    assert (turns.count(LLM), turns.count(ADVISER)) == (100, 90)


@given(schedules, st.integers(1, 60), st.integers(0, 60))
def test_an_llm_that_was_away_is_owed_one_turn_of_a_kind_and_no_more(
    schedule: Schedule, since: int, length: int
) -> None:
    back = since + length
    turns = turns_of(schedule, back + 20, away=range(since, back))[back - 1 :]

    others = 21 - turns.count(LLM)
    assert turns.count(LLM) <= 21 * schedule[LLM] + 2
    assert turns.count(ADVISER) <= others * schedule[ADVISER] + 2


@given(schedules, st.integers(0, 100))
def test_what_comes_is_what_is_taken_later(schedule: Schedule, before: int) -> None:
    so_far = progress(schedule, [])
    for name in turns_of(schedule, before):
        so_far = and_then(so_far, name)

    assert upcoming(so_far, schedule) == turns_of(schedule, before + 40)[before:]


def test_what_was_taken_is_read_from_the_journal(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    found = [progress(USUAL_SHARES, story.journal.experiments())]
    for who in (LLM, ADVISER, ProposerName.HUMAN, OPTIMIZER, ADVISER, LLM):
        story.try_out("t", 1.9, Decision.DISCARD, by=who)
        found.append(progress(USUAL_SHARES, story.journal.experiments()))

    story.journal.close()
    assert [(each[LLM], each[ADVISER]) for each in found] == [
        (Count(left=0, last=0), Count(left=0, last=0)),
        (Count(left=1, last=1), Count(left=0, last=0)),
        (Count(left=2, last=1), Count(left=1, last=1)),
        (Count(left=3, last=1), Count(left=2, last=1)),
        (Count(left=4, last=1), Count(left=3, last=1)),
        (Count(left=5, last=1), Count(left=4, last=4)),
        (Count(left=6, last=6), Count(left=4, last=4)),
    ]


def test_a_name_that_only_its_own_module_knows_is_read_from_the_journal(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    story.try_out("t", 1.9, Decision.DISCARD, by="recipe")

    found = progress({"recipe": 0.5}, story.journal.experiments())

    story.journal.close()
    assert found == {"recipe": Count(left=1, last=1)}


def test_a_question_without_an_answer_takes_no_turn(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    before = progress(USUAL_SHARES, story.journal.experiments())
    story.journal.unanswered(story.run, Proposal(LLM, "a question", "", ()), "the server broke off", story.tick())

    after = progress(USUAL_SHARES, story.journal.experiments())

    story.journal.close()
    assert after == before
