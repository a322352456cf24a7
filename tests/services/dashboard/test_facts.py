"""The five facts of the first screen, as pure functions of a report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from researcher.report.snapshot import Report, snapshot
from researcher.report.view import LiveStatus
from services.dashboard.facts import Facts, facts_of, useful_share
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import Progress, Status, StatusKind, WorkerRole, WorkerStatus

WORKING = Status.working("measuring")


def report_of(story: Story, live: LiveStatus | None = None) -> Report:
    return replace(snapshot(story.journal, None, PROFILE, story.at), live=live)


def texts(facts: Facts, tone: str) -> list[str]:
    return [each.text for each in facts.troubles if each.tone == tone]


@pytest.mark.parametrize(
    ("live", "word", "tone"),
    [
        (LiveStatus(WORKING), "Running", "good"),
        (LiveStatus(Status(StatusKind.HELD, "no disk")), "Paused", "wait"),
        (LiveStatus(Status(StatusKind.ENDED, "12 of 12")), "Ended", "calm"),
        (LiveStatus(Status(StatusKind.REFUSED, "a bad value")), "Refused", "bad"),
        (LiveStatus(None, answers=False), "Not reachable", "bad"),
        (None, "Stopped", "wait"),
    ],
)
def test_the_state_of_the_run_is_a_word_and_a_tone(story: Story, live: LiveStatus | None, word: str, tone: str) -> None:
    alive = facts_of(report_of(story, live)).alive

    assert (alive.state, alive.tone) == (word, tone)


def test_an_alarm_is_what_is_wrong_and_makes_a_running_run_a_stalled_one(story: Story) -> None:
    facts = facts_of(replace(report_of(story, LiveStatus(WORKING)), alarm="no trial has ended"))

    assert facts.alive.state == "Stalled"
    assert texts(facts, "bad") == ["no trial has ended"]


def test_what_the_run_does_without_is_a_note_and_no_fault(story: Story) -> None:
    facts = facts_of(report_of(story, LiveStatus(WORKING, notes={"llm": "none, the settings ask for none"})))

    assert texts(facts, "note") == ["LLM: none, the settings ask for none"]
    assert texts(facts, "bad") == texts(facts, "wait") == []


def test_a_worker_that_is_held_is_a_fault(story: Story) -> None:
    held = WorkerStatus(WorkerRole.TRAINER, "trainer-0", Status(StatusKind.HELD, "the disk is full"), "cpu", None)

    facts = facts_of(report_of(story, LiveStatus(WORKING, workers=(held,))))

    assert texts(facts, "bad") == ["trainer-0 is held: the disk is full"]


def test_the_running_trial_shows_its_share_and_its_figures(story: Story) -> None:
    live = LiveStatus(WORKING, trial="t-5-t1-a0", progress=Progress("timed", 0.25, 4.0, 1200, 2.5))

    now = facts_of(report_of(story, live)).now

    assert now.share == 0.25
    assert now.figures == ("timed", "25 %", "step 1,200", "loss 2.5000")


def test_the_gain_of_the_first_screen_is_the_confirmed_one(story: Story) -> None:
    better = facts_of(report_of(story)).better

    assert better is not None
    assert (better.figure, better.mark, better.best_number) == ("5.0 %", "confirmed", 2)
    assert better.sentence == "better than the start, measured again 3 times"
    assert better.best == "a longer warm-up (provisional)"


def test_the_useful_share_counts_what_gave_a_score(story: Story) -> None:
    assert useful_share(story.report()) == 0.75
