"""When status must be loud: a table of runs that get nowhere, and of those that only look so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from researcher.journal.records import ASKED_TO_PAUSE, Pause, PauseCause, Prices, Run, Trial
from researcher.loop.status import RESEARCHER, StatusPublisher
from researcher.report.stall_alarm import alarm, expected_s
from researcher.report.view import LiveStatus
from trainer.jobs import (
    Kind,
    Outcome,
    Progress,
    RedisClient,
    Status,
    StatusKind,
    WorkerRole,
    WorkerStatus,
    profile_named,
)

BUDGET = profile_named("cpu").budget  # 15 s
BEGAN = 1_000.0
RUN = Run(1, "t", "cpu", 15.0, "b", "c", "d", 1, 1, 1, None, Prices(), created_at=BEGAN)
TRAINER = WorkerStatus(WorkerRole.TRAINER, "trainer-a", Status.working("timed"), "cpu", None, trial="t-3-t0-a0")
IDLE = replace(TRAINER, worker="trainer-b", status=Status.working("idle"), trial=None)
DRY_RUN_WORKER = replace(IDLE, role=WorkerRole.DRY_RUN_WORKER, worker="dry-run-worker-a")
WORKS = LiveStatus(Status.working("trial t-3-t0-a0"), "t-3-t0-a0", Progress("timed", 0.5, 7.0), (TRAINER,))
WAITS = LiveStatus(Status.working("trial t-3-t0-a0"), "t-3-t0-a0", None, (DRY_RUN_WORKER,))
THINKS = LiveStatus(Status.working("proposing"), None, None, (IDLE,))
SILENT = LiveStatus(None)
HELD = LiveStatus(Status(StatusKind.HELD, "the disk is full"))
HELD_TRAINER = replace(IDLE, status=Status(StatusKind.HELD, "no room"))
HELD_HOLDER = replace(TRAINER, status=Status(StatusKind.HELD, "no memory"))
SPEAKS_OF_IT = LiveStatus(Status.working("held: says a message"))


def trials(*ends: float) -> list[Trial]:
    return [
        Trial(number, 1, None, Kind.FIRST, number, 0, 0, 1, None, True, Outcome.OK, "", BEGAN, end)
        for number, end in enumerate(ends)
    ]


EVERY_20_S = trials(*(BEGAN + 20 * number for number in range(1, 13)))  # the last at 1240


@pytest.mark.parametrize(
    ("run", "done", "seen", "at", "expected"),
    [
        (RUN, EVERY_20_S, WORKS, 1299, None),
        (
            RUN,
            EVERY_20_S,
            WORKS,
            1301,
            "no trial has ended for 61 s, one takes about 20 s; the researcher says: trial t-3",
        ),
        (
            RUN,
            EVERY_20_S,
            THINKS,
            1600,
            "no trial has ended for 6 minutes, one takes about 20 s; the researcher says: prop",
        ),
        (RUN, EVERY_20_S, SILENT, 1299, None),
        (RUN, EVERY_20_S, SILENT, 1301, "the researcher is silent; start it again: `overnight run`"),
        (RUN, EVERY_20_S, None, 1301, "the researcher is silent"),
        (RUN, [], WORKS, BEGAN + 3 * BUDGET.wall_limit_s - 1, None),
        (RUN, [], WORKS, BEGAN + 3 * BUDGET.wall_limit_s + 1, "one takes about 6 minutes"),
        (replace(RUN, going_since=1290), EVERY_20_S, WORKS, 1340, None),
        (replace(RUN, going_since=1290), EVERY_20_S, WORKS, 1351, "no trial has ended for 61 s"),
        (RUN, EVERY_20_S, WAITS, 1299, None),
        (replace(RUN, going_since=1290), EVERY_20_S, replace(WAITS, workers=(TRAINER,)), 1350, None),
        (replace(RUN, pause=ASKED_TO_PAUSE), EVERY_20_S, WORKS, 99_999, None),
        (
            replace(RUN, pause=Pause(PauseCause.SUBJECT, "the baseline fails; fix it")),
            EVERY_20_S,
            SILENT,
            1241,
            "no progress: the baseline fails; f",
        ),
        (replace(RUN, ended="8 of 8 experiments are measured"), EVERY_20_S, SILENT, 99_999, None),
        (RUN, EVERY_20_S, HELD, 1241, "no progress: the researcher is held: the disk is full"),
        (
            RUN,
            EVERY_20_S,
            replace(WAITS, workers=(HELD_TRAINER, DRY_RUN_WORKER)),
            1241,
            "no progress: the trainer trainer-b is held: no room",
        ),
        (RUN, EVERY_20_S, replace(WORKS, workers=(TRAINER, HELD_TRAINER)), 1241, None),
        (RUN, EVERY_20_S, replace(WAITS, workers=(HELD_TRAINER, replace(IDLE, worker="trainer-c"))), 1241, None),
        (
            RUN,
            EVERY_20_S,
            replace(WORKS, workers=(HELD_HOLDER, IDLE)),
            1241,
            "no progress: the trainer trainer-a is held: no memory",
        ),
        (RUN, EVERY_20_S, SPEAKS_OF_IT, 1299, None),
    ],
)
def test_status_is_loud_when_nothing_comes_and_quiet_when_that_is_as_it_should_be(
    run: Run, done: list[Trial], seen: LiveStatus | None, at: float, expected: str | None
) -> None:
    said = alarm(run, done, BUDGET, seen, at)

    assert (said is None) is (expected is None)
    assert (expected or "") in (said or "")


def test_a_trial_that_waits_for_a_trainer_that_is_not_there_is_told_after_a_minute() -> None:
    slow = trials(*(BEGAN + 200 * number for number in range(1, 13)))

    assert alarm(RUN, slow, BUDGET, WAITS, slow[-1].finished_at + 59) is None  # type: ignore[operator]
    said = alarm(RUN, slow, BUDGET, WAITS, slow[-1].finished_at + 61)  # type: ignore[operator]

    assert said == "t-3-t0-a0 is queued and no trainer is running. Next: check the trainer's log and start the trainer"


def test_what_a_trial_takes_is_known_from_the_journal_and_one_long_pause_teaches_nothing() -> None:
    with_llm = [BEGAN]
    for number in range(20):
        with_llm.append(with_llm[-1] + (20 if number % 2 else 140))
    with_llm[-1] += 30_000

    assert expected_s(trials(*with_llm), BUDGET) == 140
    assert expected_s(trials(*range(20)), BUDGET) == 15, "never less than the budget"


def test_an_alarm_is_said_beside_what_the_researcher_does_and_logged_once(
    bus: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    voice = StatusPublisher(bus, lambda: "no trial has ended")
    voice.REPEAT_S = 0.0
    voice.publish_status(RESEARCHER, "trial t-3-t0-a0")

    voice.repeat()
    voice.repeat()

    assert bus.doing(RESEARCHER) == Status.working("trial t-3-t0-a0; ALARM: no trial has ended")
    assert [record.getMessage() for record in caplog.records] == ["ALARM: no trial has ended"]
