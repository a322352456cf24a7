"""Following a run, on a real server and a real journal: the story goes on whenever the view rests."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

import services.views.follow
from researcher.journal import reader
from researcher.journal.database import JOURNAL_FILE, experiment_of
from researcher.journal.records import Decision, Experiment
from services.machine.state import CHOICES_FILE, RunConfig, State
from services.redis.server import RedisServer
from services.views.client import ClientError
from services.views.follow import LEFT, OVER, WAS_REFUSED, OpenJournal, follow_run
from services.views.follow import _see as see
from tests.fixtures.journal_story import Story
from tests.fixtures.servers import open_server
from trainer.jobs import RedisClient, Status, StatusKind, connect

Step = Callable[[], object]
ENDED = Status(StatusKind.ENDED, "the goal is reached")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with open_server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def bus(server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisClient]:
    secret = tmp_path / "password"
    secret.write_text(server.password or "")
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(secret))
    found = RedisClient(connect(server.url, password=server.password))
    yield found
    found.connection.flushall()
    found.connection.close()


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path / "journal")
    choices = RunConfig(profile="cpu", budget=None, subject=str(tmp_path / "subject"), text=None)
    (tmp_path / "journal" / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
    yield made
    made.journal.close()


def follow(state: Path, *steps: Step, terminal: bool = False) -> tuple[int, str]:
    """The exit code and what was shown; each rest of the view is one step."""
    told = iter(steps)
    console = Console(width=160, file=io.StringIO(), force_terminal=terminal, record=True)

    def rest() -> None:
        next(told)()

    code = follow_run(State(state), console, rest)
    return code, console.export_text()


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_it_follows_until_the_run_has_ended_and_shows_how_it_stands(
    bus: RedisClient, story: Story, tmp_path: Path, terminal: bool
) -> None:
    story.baseline(1.80, 1.82)
    bus.publish_status("researcher", Status.working("drafting"))

    code, text = follow(
        tmp_path,
        lambda: story.try_out("wider", 1.70, Decision.KEEP),
        lambda: bus.publish_status("researcher", ENDED),
        terminal=terminal,
    )

    assert code == OVER
    assert "best      experiment 1 (provisional): wider" in text
    assert "ended: the goal is reached" in text


def test_a_pipe_gets_one_line_for_each_decision_and_none_for_those_before(
    bus: RedisClient, story: Story, tmp_path: Path
) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("before", 1.75, Decision.KEEP)

    _, text = follow(
        tmp_path,
        lambda: story.try_out("[wider]", 1.70, Decision.KEEP),
        lambda: story.try_out("broken", None, Decision.CRASH),
        lambda: bus.publish_status("researcher", ENDED),
    )

    assert text.splitlines()[:3] == [
        "following run t; 2 decided before",
        "2  keep  1.700000  [wider]: because",
        "3  crash  no score  broken: because",
    ]


def test_what_cannot_change_any_more_is_read_once_however_long_it_follows(
    bus: RedisClient, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counted(row: sqlite3.Row) -> Experiment:
        read.append(row["title"])
        return experiment_of(row)

    story.baseline(1.80, 1.82)
    story.try_out("wider", 1.70, Decision.KEEP)
    story.try_out("deeper", 1.75, Decision.DISCARD)
    monkeypatch.setattr(reader, "experiment_of", counted)

    follow(tmp_path, *[lambda: None] * 5, lambda: bus.publish_status("researcher", ENDED), terminal=True)

    assert sorted(read) == ["baseline", "deeper", "wider"]


def test_another_journal_in_its_place_is_seen_after_a_while(
    bus: RedisClient, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        (tmp_path / "journal").rename(tmp_path / "before")
        made = Story(tmp_path / "journal")
        made.baseline(1.60, 1.62)
        made.try_out("of another run", 1.70, Decision.DISCARD)
        made.journal.close()
        shutil.copy(tmp_path / "before" / CHOICES_FILE, tmp_path / "journal")
        monkeypatch.setattr(services.views.follow, "RENEW_S", 0.0)

    story.baseline(1.80, 1.82)

    _, text = follow(tmp_path, replace, lambda: bus.publish_status("researcher", ENDED))

    assert "Nothing better than the start yet (1 tried)" in text


def test_a_silent_researcher_and_a_journal_to_come_are_waited_for(bus: RedisClient, tmp_path: Path) -> None:
    def begin() -> None:
        made = Story(tmp_path / "journal")
        made.baseline(1.80, 1.82)
        made.journal.close()

    code, text = follow(tmp_path, lambda: None, begin, lambda: bus.publish_status("researcher", ENDED))

    assert code == OVER
    assert str(ENDED) in text


def test_before_there_is_a_journal_it_is_told_too_what_the_llm_lacks(
    bus: RedisClient, story: Story, tmp_path: Path
) -> None:
    (tmp_path / "journal" / JOURNAL_FILE).unlink()
    bus.publish_status("llm", Status.working("none: pulling its model"))

    scene = see(State(tmp_path), OpenJournal(tmp_path / "journal"))

    assert scene.report.live is not None
    assert scene.report.live.notes == {"llm": "none: pulling its model"}


def test_a_server_that_is_away_is_waited_for(
    bus: RedisClient, story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: RedisServer
) -> None:
    story.baseline(1.80, 1.82)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")

    code, _ = follow(
        tmp_path, lambda: monkeypatch.setenv("REDIS_URL", server.url), lambda: bus.publish_status("researcher", ENDED)
    )

    assert code == OVER


def test_a_researcher_that_refuses_ends_the_view_with_its_reason(bus: RedisClient, tmp_path: Path) -> None:
    bus.publish_status("researcher", Status(StatusKind.REFUSED, "another GPU"))

    code, text = follow(tmp_path)

    assert code == WAS_REFUSED
    assert "refused: another GPU" in text


@pytest.mark.parametrize("kind", [StatusKind.ENDED, StatusKind.REFUSED])
def test_a_message_that_only_begins_like_an_end_ends_nothing(
    bus: RedisClient, tmp_path: Path, kind: StatusKind
) -> None:
    steps: list[Step] = [
        lambda: bus.connection.set("overnight:doing:researcher", f"{kind}: by an older version"),
        lambda: bus.publish_status("researcher", ENDED),
    ]
    bus.publish_status("researcher", Status.working(f"{kind}: no word of a protocol"))

    code, text = follow(tmp_path, *steps)

    assert code == OVER
    assert str(ENDED) in text


def test_a_journal_that_cannot_be_read_is_told_beside_what_the_researcher_says(
    bus: RedisClient, story: Story, tmp_path: Path
) -> None:
    story.journal.close()
    (tmp_path / "journal" / JOURNAL_FILE).write_bytes(b"no database" * 1000)
    bus.publish_status("researcher", Status(StatusKind.REFUSED, "its log says why"))

    scene = see(State(tmp_path), OpenJournal(tmp_path / "journal"))

    assert scene.report.unreadable is not None
    assert scene.report.live is not None
    assert scene.report.live.status == Status(StatusKind.REFUSED, "its log says why")


def test_ctrl_c_only_leaves(bus: RedisClient, story: Story, tmp_path: Path) -> None:
    def ctrl_c() -> None:
        raise KeyboardInterrupt

    code, _ = follow(tmp_path, ctrl_c)

    assert code == LEFT


def test_without_a_run_on_this_machine_there_is_nothing_to_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)

    with pytest.raises(ClientError, match="no run is going on"):
        follow(tmp_path)


def test_a_run_that_has_ended_is_shown_once(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    story.baseline(1.80, 1.82)
    story.journal.end(story.run, "8 of 8 experiments are measured", story.tick())

    code, text = follow(tmp_path)

    assert code == OVER
    assert "8 of 8 experiments are measured" in text
    assert "Nothing better than the start was found" in text
