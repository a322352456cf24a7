"""`scripts/bench overhead`: which time counts as the trainer's wait, and when a limit is missed."""

from collections import Counter
from pathlib import Path

import pytest

from researcher.journal.records import Decision
from researcher.source.proposal import Proposal, ProposerName
from tests.bench.overhead import MeasuredRun, bars_missed, read_run
from tests.fixtures.journal_story import Story


def measured_run(latency_s: float, wait_s: float, trained_s: float) -> MeasuredRun:
    parts = [{"timed training": trained_s, "scoring": 10.0 - trained_s}]
    return MeasuredRun(latency_s, Counter([ProposerName.LLM]), 0, [wait_s], parts)


def test_wait_is_from_the_end_of_what_was_measured_before_and_refused_answers_are_in_it(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.0, 1.0)
    story.try_out("better", 0.8, Decision.KEEP)
    story.claim([0.8] * 3, [1.0] * 3)
    story.journal.reject(story.run, Proposal(ProposerName.LLM, "bad", "", ()), "does not parse", story.tick())
    story.try_out("worse", 0.9, Decision.DISCARD)

    found = read_run(story.journal, 5.0)

    assert found.waits == [1.0, 2.0]
    assert (found.by, found.refused) == (Counter({ProposerName.LLM: 2}), 1)
    first = story.journal.numbered(1)
    assert first.applied_at is not None
    assert sum(found.parts[0].values()) == pytest.approx(first.applied_at - first.proposed_at + 1.0)


def test_seconds_of_an_experiment_that_failed_or_ran_twice_are_not_told_but_its_wait_is(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.0, 1.0)
    story.try_out("crashes", None, Decision.CRASH)
    story.try_out("lost once", 1.1, Decision.DISCARD, faults=1)
    story.try_out("runs", 1.1, Decision.DISCARD)

    found = read_run(story.journal, 0.0)

    assert (len(found.waits), len(found.parts)) == (3, 1)


def test_wait_is_judged_at_every_latency_and_duty_at_the_longest() -> None:
    assert bars_missed([measured_run(0, 0.5, 4.0), measured_run(5, 0.5, 4.0), measured_run(15, 0.5, 6.5)]) == []
    assert bars_missed([measured_run(0, 0.6, 4.0), measured_run(15, 0.1, 6.4)]) == [
        "missed: the trainer waits 0.600 s at 0 s of latency, bar 0.5 s",
        "missed: duty cycle 0.640 at 15 s of latency, bar 0.65",
    ]
