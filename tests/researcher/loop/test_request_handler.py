"""What a user is told at once: that no LLM takes an idea, that a file does not fit the profile, that a pause begins."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from researcher.journal.records import RequestState
from researcher.loop.request_handler import RequestHandler
from researcher.queues.requests import send, wait_reply
from researcher.report.snapshot import snapshot
from services.views.render import PAUSING, Scene
from tests.fixtures.journal_story import PROFILE, Story
from tests.fixtures.scripted_run import ScriptedRun
from tests.services.views.test_render import seen
from trainer.jobs import Kind, Outcome, RedisClient, Status

SOURCE = "DEPTH = 4\nMATRIX_LR = 0.04\nx = 1\n"


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path, source=SOURCE)
    made.baseline(1.80, 1.82)
    yield made
    made.journal.close()


def handler(story: Story, why_no_llm: str | None = None) -> RequestHandler:
    return RequestHandler(story.journal, lambda _: None, clock=story.tick, why_no_llm=lambda: why_no_llm)


def test_an_idea_that_no_llm_takes_is_kept_and_its_sender_told_why_and_what_to_do(story: Story) -> None:
    answer = handler(story, "no server answers at http://127.0.0.1:11434").receive("r", "idea", "wider")

    assert "no server answers at http://127.0.0.1:11434" in answer
    assert "overnight submit" in answer
    assert [each.body for each in story.journal.requests(RequestState.WAITING)] == ["wider"]
    assert "submit" not in handler(story).receive("s", "idea", "wider")


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (SOURCE, []),
        ("x = 2\n", []),
        ("DEPTH = 8\nMATRIX_LR = 0.04\n", ["DEPTH 8 (start: 4)"]),
        ("DEPTH = 8\nMATRIX_LR = 0.05\nNEW = 1\n", ["DEPTH 8 (start: 4)", "MATRIX_LR 0.05 (start: 0.04)"]),
        ("def broken(:\n", []),
    ],
)
def test_a_file_with_other_knobs_than_the_start_is_taken_with_a_warning(
    story: Story, source: str, named: list[str]
) -> None:
    answer = handler(story).receive("r", "submit", f"mine.py\n{source}")

    assert answer.startswith("taken in")
    assert answer.count("(start: ") == len(named)
    for each in named:
        assert each in answer


def test_a_pause_shows_at_once_that_it_begins_after_the_trial(story: Story, bus: RedisClient) -> None:
    story.journal.add_trial(story.run, story.journal.numbered(0).id, Kind.DRIFT, seed=1, at=story.tick())
    bus.publish_status("researcher", Status.working("trial"))

    during = handler(story).receive("r", "pause", "")
    shown = seen(Scene(snapshot(story.journal, bus, PROFILE, story.at)))
    story.finish(story.journal.trials()[-1], 1.81, Outcome.OK)

    assert during.startswith("pausing after this trial")
    assert PAUSING in shown
    assert PAUSING not in seen(Scene(snapshot(story.journal, bus, PROFILE, story.at)))
    assert handler(story).receive("s", "pause", "").startswith("paused;")


def test_a_run_without_an_llm_says_so_to_who_sends_an_idea(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    scripted_run.start_researcher(EXPERIMENTS=500, LLM="none", PROPOSER="optimizer")
    scripted_run.wait_until(lambda history: history.measured_count() >= 1, "one experiment")

    answer = wait_reply(scripted_run.bus, send(scripted_run.bus, "idea", "wider"), 30)

    assert answer is not None
    assert "no LLM" in answer
