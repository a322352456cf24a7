"""The one report that everything draws: what it holds, its JSON, and a Redis or a journal that is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from researcher.journal.records import Decision
from researcher.report.proposer_stats import COLUMNS as FIGURES
from researcher.report.results_table import COLUMNS
from researcher.report.snapshot import snapshot, without_journal
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import TRIALS, RedisClient, Status, StatusKind, WorkerRole, connect, unknown_jobs_text
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

    assert report.run_report == story.report()
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

    assert [*found] == ["gain", "tally", "proposers", "alarm", "range_faults", "notes", "workers", "rows"]
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
        *("role", "worker", "status", "profile", "vram_cap_mib", "refused", "no_user", "trial")
    ]
    assert [[*each] for each in found["proposers"]] == [[*FIGURES]]
    assert [[*row] for row in found["rows"]] == [[*COLUMNS, "heldout", "claims"]] * 2
    baseline, good = found["rows"]
    assert (baseline["number"], baseline["proposer"], baseline["heldout"], baseline["claims"]) == (0, None, None, [])
    assert (good["status"], good["note"], good["val_bpb"], good["outcome"]) == ("keep", "confirmed", 1.7, "ok")
    assert good["heldout"]["heldout_gain"] == pytest.approx(0.11)
    [claim] = good["claims"]
    assert [*claim] == ["verdict", "gain", "unseen_gain", "val_gain", "heldout_gain"]
    assert claim["verdict"] == "confirmed"


def test_a_silent_researcher_of_a_run_that_has_ended_has_ended(story: Story, bus: RedisClient) -> None:
    story.baseline(1.80, 1.82)
    silent = snapshot(story.journal, bus, PROFILE, AT).live
    story.journal.end(story.run, "the goal is reached")
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
