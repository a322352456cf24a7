"""An edit format is offered for what came of it, and none is dropped before it was tried enough."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.journal.records import Decision
from researcher.proposers.edit_formats import (
    COUNTED_AGAIN_EVERY,
    JSON_IN_A_ROW,
    TRIED_ENOUGH,
    AskedModel,
    Success,
    attempts_of,
    offered,
    offered_formats,
    successes,
)
from researcher.source.proposal import (
    FREE_FORMATS,
    AnswerStage,
    Attempt,
    EditFormat,
    LlmCost,
    Proposal,
    ProposerName,
    SearchReplace,
    SetKnobs,
)
from tests.fixtures.journal_story import Story
from trainer.jobs import Outcome

MODEL = AskedModel("m")
SET, SEARCH, FILE = ((edit_format,) for edit_format in (EditFormat.SET, EditFormat.SEARCH, EditFormat.FILE))


def test_what_ran_counts_for_an_edit_format_and_what_was_refused_or_crashed_against_it() -> None:
    measured = successes(
        [
            ((Attempt(SEARCH, AnswerStage.APPLY), Attempt(SET)), Outcome.OK),
            ((Attempt(SET),), Outcome.CRASHED),
            ((Attempt(SET + SEARCH),), Outcome.OUT_OF_MEMORY),
            ((Attempt(FILE, AnswerStage.PARSE),), Outcome.REJECTED),
            ((Attempt(SET),), Outcome.LOST),
            ((Attempt(SET),), None),
        ]
    )

    assert measured == {
        EditFormat.SET: Success(3, 1),
        EditFormat.FUNCTION: Success(0, 0),
        EditFormat.SEARCH: Success(2, 0),
        EditFormat.FILE: Success(1, 0),
        EditFormat.JSON: Success(0, 0),
    }


def test_edit_format_that_does_much_worse_than_the_best_is_not_offered() -> None:
    good, poor = Success(20, 15), Success(20, 3)

    assert offered(
        {EditFormat.SET: good, EditFormat.FUNCTION: good, EditFormat.SEARCH: poor, EditFormat.FILE: good}
    ) == (
        EditFormat.SET,
        EditFormat.FUNCTION,
        EditFormat.FILE,
    )


def test_no_edit_format_is_dropped_before_it_was_tried_enough() -> None:
    failed = Success(TRIED_ENOUGH - 1, 0)
    measured = {
        EditFormat.SET: Success(50, 50),
        EditFormat.FUNCTION: failed,
        EditFormat.SEARCH: failed,
        EditFormat.FILE: failed,
    }

    assert offered(measured) == FREE_FORMATS


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=4, max_size=4))
def test_something_is_always_offered_and_the_best_that_is_known_among_it(counts: list[tuple[int, int]]) -> None:
    measured = {
        edit_format: Success(tried + ran, ran) for edit_format, (tried, ran) in zip(FREE_FORMATS, counts, strict=True)
    }

    edit_formats = offered(measured)

    assert edit_formats
    assert (
        max(
            FREE_FORMATS,
            key=lambda edit_format: (measured[edit_format].tried >= TRIED_ENOUGH, measured[edit_format].rate),
        )
        in edit_formats
    )


@pytest.mark.parametrize("key", ["edit_formats", "lanes"])
def test_attempts_of_a_stored_proposal_are_read_by_the_key_of_now_and_of_before(key: str) -> None:
    proposal = Proposal(ProposerName.LLM, "t", "h", (), attempts=(Attempt(FILE, AnswerStage.PARSE),))
    stored = proposal.to_json()
    (attempt,) = stored["attempts"]
    attempt[key] = attempt.pop("edit_formats")

    assert Proposal.from_json(stored) == proposal


def test_edit_formats_of_a_journal_are_those_of_this_model_and_change_only_now_and_then(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    failed = (Attempt(FILE, AnswerStage.PARSE), Attempt(FILE, AnswerStage.APPLY))
    proposal = Proposal(ProposerName.LLM, "t", "h", (), cost=LlmCost("u", "m", 1, 1, 1, 1.0), attempts=failed)
    for _ in range(TRIED_ENOUGH):
        story.try_out("set", 1.9, Decision.DISCARD)  # of an older journal: its edits alone tell the edit format

    seen = []
    for _ in range(20):
        story.journal.reject(story.run, proposal, "no", story.tick())
        seen.append(offered_formats(story.journal, MODEL, may_be_json=False))

    others = offered_formats(story.journal, AskedModel("another"), may_be_json=False)
    story.journal.close()
    dropped = tuple(edit_format for edit_format in FREE_FORMATS if edit_format is not EditFormat.FILE)
    assert seen == [FREE_FORMATS] * 10 + [dropped] * 10
    assert others == FREE_FORMATS


def test_edit_formats_are_counted_again_when_the_incumbent_changes(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    failed = (Attempt(FILE, AnswerStage.PARSE),) * TRIED_ENOUGH
    for _ in range(TRIED_ENOUGH):
        story.try_out("set", 1.9, Decision.DISCARD)
    proposal = Proposal(ProposerName.LLM, "t", "h", (), cost=LlmCost("u", "m", 1, 1, 1, 1.0), attempts=failed)
    story.journal.reject(story.run, proposal, "no", story.tick())

    before = offered_formats(story.journal, MODEL, may_be_json=False)
    story.try_out("better", 1.7, Decision.KEEP)
    after = offered_formats(story.journal, MODEL, may_be_json=False)

    story.journal.close()
    assert before == FREE_FORMATS
    assert after == tuple(edit_format for edit_format in FREE_FORMATS if edit_format is not EditFormat.FILE)


def test_attempts_of_an_older_journal_are_read_from_its_edits() -> None:
    old = Proposal(ProposerName.LLM, "t", "h", (SetKnobs({"A": 2}),))

    assert attempts_of(old, Outcome.OK) == (Attempt(SET),)
    assert attempts_of(old, Outcome.REJECTED) == (Attempt(SET, AnswerStage.VALIDATE),)
    assert attempts_of(Proposal(ProposerName.LLM, "t", "h", ()), Outcome.REJECTED) == attempts_of(None, None) == ()


def test_advice_says_nothing_of_the_forms_of_edits(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    for _ in range(TRIED_ENOUGH):
        story.try_out("code", 1.9, Decision.DISCARD, edits=(SearchReplace("A = 1", "A = 2"),))
    failed = (Attempt(SET, AnswerStage.VALIDATE),)
    advice = Proposal(ProposerName.ADVISER, "t", "h", (), cost=LlmCost("u", "m", 1, 1, 1, 1.0), attempts=failed)
    for _ in range(2 * COUNTED_AGAIN_EVERY):
        story.journal.reject(story.run, advice, "no", story.tick())

    edit_formats = offered_formats(story.journal, MODEL, may_be_json=False)

    story.journal.close()
    assert edit_formats == FREE_FORMATS


def asked(story: Story, *attempts: Attempt) -> None:
    cost = LlmCost("u", "m", 1, 1, 1, 1.0)
    story.journal.reject(
        story.run, Proposal(ProposerName.LLM, "t", "h", (), cost, attempts=attempts), "no", story.tick()
    )


IN_JSON = Attempt((EditFormat.JSON,), AnswerStage.VALIDATE)
UNREAD = Attempt(FREE_FORMATS, AnswerStage.PARSE)


@pytest.mark.parametrize(
    ("answers", "in_json"),
    [
        ([], False),
        ([(UNREAD,)], False),
        ([(UNREAD,), (UNREAD,)], True),
        ([(UNREAD, IN_JSON), (UNREAD, IN_JSON)], True),  # a repair in JSON is no question in JSON
        ([(UNREAD,), (Attempt(SET),)], False),
        ([(UNREAD,), (UNREAD,), (IN_JSON,)], True),
        ([(UNREAD,), (UNREAD,), *[(IN_JSON,)] * JSON_IN_A_ROW], False),
        ([(UNREAD,), (UNREAD,), *[(IN_JSON,)] * JSON_IN_A_ROW, (UNREAD,)], True),
        ([(UNREAD,), (UNREAD,), *[(IN_JSON,)] * JSON_IN_A_ROW, (Attempt(SEARCH),)], False),
    ],
)
def test_after_two_answers_that_cannot_be_read_a_model_is_held_to_json_and_tries_again_later(
    tmp_path: Path, answers: list[tuple[Attempt, ...]], in_json: bool
) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    for attempts in answers:
        asked(story, *attempts)

    formats = offered_formats(story.journal, MODEL, may_be_json=True)
    for_an_idea = offered_formats(story.journal, MODEL, may_be_json=False)

    story.journal.close()
    assert formats == ((EditFormat.JSON,) if in_json else FREE_FORMATS)
    assert for_an_idea == FREE_FORMATS


def test_a_small_model_begins_with_json_and_later_tries_one_format_that_edits_code(tmp_path: Path) -> None:
    story, small = Story(tmp_path), AskedModel("m", is_small=True)
    story.baseline(1.80, 1.82)

    seen = []
    for _ in range(2 * JSON_IN_A_ROW + 2):
        formats = offered_formats(story.journal, small, may_be_json=True)
        seen.append(formats)
        asked(story, Attempt(formats, AnswerStage.VALIDATE))
    for_an_idea = offered_formats(story.journal, small, may_be_json=False)

    story.journal.close()
    assert seen == 2 * [*[(EditFormat.JSON,)] * JSON_IN_A_ROW, (EditFormat.FUNCTION,)]
    assert for_an_idea == (EditFormat.FUNCTION,)


def test_a_whole_file_that_no_answer_has_room_for_is_not_offered(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)

    formats = offered_formats(story.journal, AskedModel("m", writes_file=False), may_be_json=True)

    story.journal.close()
    assert formats == (EditFormat.SET, EditFormat.FUNCTION, EditFormat.SEARCH)
