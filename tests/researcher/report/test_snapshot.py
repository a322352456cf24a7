"""The one report that everything draws: what it holds, its JSON, and a Redis or a journal that is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from researcher.journal.records import ASKED_TO_PAUSE, Decision, Goal, Pause, PauseCause
from researcher.report.document import VERSION, Document, RunState, schema
from researcher.report.proposer_stats import COLUMNS as FIGURES
from researcher.report.results_table import COLUMNS
from researcher.report.snapshot import snapshot, without_journal
from researcher.report.view import build_report
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import TRIALS, Kind, Outcome, RedisClient, Status, StatusKind, WorkerRole, connect, unknown_jobs_text
from trainer.worker.heartbeat import IDLE, Heartbeat

AT = 10_000.0


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    made = Story(tmp_path, heldout_gap=0.05)
    yield made
    made.journal.close()


def test_a_report_holds_the_run_what_goes_on_the_alarm_and_the_rates(story: Story, bus: RedisClient) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("wider", 1.70, Decision.KEEP)
    bus.publish_status("researcher", Status.working("proposing"))

    report = snapshot(story.journal, bus, PROFILE, AT)

    assert report.run_report == build_report(story.journal, PROFILE, AT)
    assert report.live is not None
    assert report.live.status == Status.working("proposing")
    assert report.alarm is not None
    assert [each.proposer for each in report.rates] == ["llm"]


def test_a_report_names_the_ranges_that_the_optimiser_cannot_use_in_the_incumbent(tmp_path: Path) -> None:
    story = Story(tmp_path, source="RATE = 0.1  # range 0.01 to 1\nDEPTH = 2  # range 1..4\n")

    report = snapshot(story.journal, None, PROFILE, AT)
    story.journal.close()

    assert [*report.range_faults] == ["RATE"]
    assert report.to_json()["range_faults"] == report.range_faults


def test_its_json_is_plain_and_has_every_column_of_each_row(story: Story, bus: RedisClient) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("good", 1.70, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)
    bus.publish_status("llm", Status.working("none: away"))
    Heartbeat(bus.connection, "trainer-a", profile="12gb", refused=lambda: 1).show(Status.working("timed"), "t-3-t0-a0")
    Heartbeat(bus.connection, "trainer-b", refused=lambda: 2).show(IDLE)
    Heartbeat(bus.connection, "dry-run-worker-a", role=WorkerRole.DRY_RUN_WORKER).show(IDLE)

    report = snapshot(story.journal, bus, PROFILE, AT)
    found = json.loads(json.dumps(report.to_json()))

    TypeAdapter(Document).validate_python(found)
    assert [*found] == [field.name for field in fields(Document)]
    assert (found["version"], found["state"], found["at"]) == (VERSION, "stopped", AT)
    assert [*found["gain"]] == ["baseline", "confirmed", "provisional", "confirmed_heldout"]
    assert found["notes"] == {"llm": "none: away"}
    assert report.live is not None
    assert report.live.foreign == unknown_jobs_text(3, TRIALS)
    assert [(each["role"], each["worker"], each["trial"]) for each in found["workers"]] == [
        ("trainer", "trainer-a", "t-3-t0-a0"),
        ("trainer", "trainer-b", None),
        ("dry-run-worker", "dry-run-worker-a", None),
    ]
    assert found["workers"][0]["status"] == {"kind": "working", "message": "timed"}
    assert [*found["workers"][0]] == [
        *("role", "worker", "status", "profile", "vram_cap_mib", "refused", "no_user", "trial", "gpu")
    ]
    assert [[*each] for each in found["proposers"]] == [[*FIGURES]]
    assert [[*row] for row in found["rows"]] == [[*COLUMNS, "heldout", "claims"]] * 2
    baseline, good = found["rows"]
    assert (baseline["number"], baseline["proposer"], baseline["heldout"], baseline["claims"]) == (0, None, None, [])
    assert (good["status"], good["note"], good["value"], good["outcome"]) == ("keep", "confirmed", 1.7, "ok")
    assert good["heldout"]["heldout_gain"] == pytest.approx(0.11)
    [claim] = good["claims"]
    assert [*claim] == ["verdict", "gain", "unseen_gain", "val_gain", "heldout_gain"]
    assert claim["verdict"] == "confirmed"


def test_a_silent_researcher_of_a_run_that_has_ended_has_ended(story: Story, bus: RedisClient) -> None:
    story.baseline(1.80, 1.82)
    silent = snapshot(story.journal, bus, PROFILE, AT).live
    story.journal.end(story.run, "the goal is reached", story.tick())
    ended = snapshot(story.journal, bus, PROFILE, AT).live

    assert silent is not None
    assert silent.status is None
    assert ended is not None
    assert ended.status == Status(StatusKind.ENDED, "the goal is reached")


def test_a_redis_that_is_away_costs_only_what_goes_on_now(story: Story) -> None:
    story.baseline(1.80, 1.82)
    away = RedisClient(connect("redis://127.0.0.1:9/0", patient=False))

    report = snapshot(story.journal, away, PROFILE, AT)

    assert report.run_report == story.report()
    assert report.live is not None
    assert report.live.status is None


def test_without_a_redis_nobody_is_asked(story: Story) -> None:
    assert snapshot(story.journal, None, PROFILE, AT).live is None


def test_without_a_journal_redis_alone_is_asked(bus: RedisClient) -> None:
    bus.publish_status("llm", Status.working("none: pulling its model"))

    begun, unreadable = without_journal(bus), without_journal(bus, "damaged")

    assert begun.live is not None
    assert begun.live.notes == {"llm": "none: pulling its model"}
    assert (begun.unreadable, unreadable.unreadable) == (None, "damaged")
    assert begun.rows_json() == []


def test_the_document_says_when_what_and_how_far(story: Story, bus: RedisClient) -> None:
    story.baseline(1.80, 1.82)
    story.try_out("good", 1.70, Decision.KEEP)
    story.claim([1.70] * 4, [1.81] * 4)
    story.journal.limit(story.run, Goal(5, AT + 3600))
    story.journal.receive("r", "idea", "a wider MLP\nwith more", "kept", waiting=True, at=story.tick())
    bus.publish_status("researcher", Status.working("proposing"))

    found = snapshot(story.journal, bus, PROFILE, AT).document()

    assert (found.state, found.doing) == (RunState.RUNNING, "proposing")
    assert found.headline == "6.1 % better than the start, measured again 4 times"
    assert found.times is not None
    assert found.times.started_at == story.run.created_at
    assert found.times.running_s == AT - story.run.created_at
    assert found.times.ends_at is not None
    assert AT < found.times.ends_at <= AT + 3600
    assert found.goal is not None
    assert (found.goal.experiments, found.goal.until) == (5, AT + 3600)
    assert found.progress is not None
    assert found.progress.measured == 1
    assert found.best is not None
    assert (found.best.number, found.best.seeds, found.best.confirmed) == (1, 5, True)
    assert [(each.kind, each.text) for each in found.waiting] == [("idea", "a wider MLP")]


def test_the_state_of_a_run_is_one_word(story: Story, bus: RedisClient) -> None:
    def state() -> RunState:
        return snapshot(story.journal, bus, PROFILE, AT).state

    story.baseline(1.80, 1.82)
    assert state() is RunState.STOPPED
    bus.publish_status("researcher", Status.working("trial"))
    assert state() is RunState.RUNNING
    story.journal.add_trial(story.run, story.journal.numbered(0).id, Kind.DRIFT, seed=1, at=story.tick())
    story.journal.pause(story.run, ASKED_TO_PAUSE)
    assert state() is RunState.PAUSING, "at once, while the trial still runs"
    story.finish(story.journal.trials()[-1], 1.81, Outcome.OK)
    assert state() is RunState.PAUSED
    story.journal.pause(story.run, Pause(PauseCause.OUTAGE, "the disk is full"))
    assert state() is RunState.PAUSED
    story.journal.go_on(story.run, story.tick())
    bus.publish_status("researcher", Status(StatusKind.REFUSED, "another GPU"))
    assert state() is RunState.REFUSED
    bus.publish_status("researcher", Status(StatusKind.ENDED, "the goal is reached"))
    assert state() is RunState.ENDED


def test_the_state_of_a_run_whose_redis_is_away_is_unknown_until_it_has_ended(story: Story) -> None:
    away = RedisClient(connect("redis://127.0.0.1:9/0", patient=False))
    story.baseline(1.80, 1.82)

    unknown = snapshot(story.journal, away, PROFILE, AT)
    story.journal.end(story.run, "the goal is reached", story.tick())
    ended = snapshot(story.journal, away, PROFILE, AT)

    assert (unknown.state, ended.state) == (RunState.UNKNOWN, RunState.ENDED)
    assert ended.times is not None
    assert ended.times.running_s == story.at - story.run.created_at
    assert ended.document().headline == "Nothing better than the start was found (0 tried)"


def test_the_schema_names_every_field(story: Story) -> None:
    properties = schema()["properties"]

    assert isinstance(properties, dict)
    assert [*properties] == [field.name for field in fields(Document)]
