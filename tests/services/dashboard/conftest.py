"""A run in a state folder, and the application of its page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from researcher.journal.records import Decision
from services.dashboard.access import Access
from services.dashboard.app import create_app
from services.dashboard.run_data import RunData
from services.machine.state import CHOICES_FILE, RunConfig, State
from tests.fixtures.journal_story import Story

TOKEN, ORIGIN = "the-token-of-a-test", "http://127.0.0.1:8642"
SOURCE = "A = 1  # range 1..100\nB = 2  # range 1..9\n\n\ndef step():\n    return A\n"


@pytest.fixture
def make_story(tmp_path: Path) -> Iterator[Callable[[], Story]]:
    made: list[Story] = []

    def make() -> Story:
        story = Story(tmp_path / "journal", heldout_gap=0.125, source=SOURCE)
        choices = RunConfig(profile="cpu", budget=None, subject="subject", text=None)
        (tmp_path / "journal" / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
        made.append(story)
        return story

    yield make
    for story in made:
        story.journal.close()


@pytest.fixture
def story(make_story: Callable[[], Story]) -> Story:
    """A run with a confirmed keep, a provisional one, a discard and a crash."""
    story = make_story()
    story.baseline(2.0, 2.01, 1.99)
    story.try_out("a wider layer", 1.9, Decision.KEEP, source=SOURCE.replace("A = 1", "A = 2"))
    story.claim([1.9, 1.9, 1.9], [2.0, 2.0, 2.0])
    story.try_out("a longer warm-up", 1.88, Decision.KEEP, source=SOURCE.replace("A = 1", "A = 3"))
    story.try_out("no weight decay", 1.95, Decision.DISCARD)
    story.try_out("an odd shape", None, Decision.CRASH)
    return story


@pytest.fixture
def page(tmp_path: Path) -> Iterator[TestClient]:
    """Sends requests to the page of the run in `tmp_path`, as a browser on this machine does, a minute apart."""
    minutes = [0.0]
    app = create_app(RunData(State(tmp_path), clock=lambda: minutes[0]), Access(TOKEN, "It is in a file."))
    with TestClient(app, base_url=ORIGIN) as client:
        client.event_hooks["request"].append(lambda _: minutes.append(minutes.pop() + 60.0))
        yield client
