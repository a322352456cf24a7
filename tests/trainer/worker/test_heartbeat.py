"""What a trainer shows of itself, read back through the bus from a real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis.client import Pipeline

from tests.fixtures.servers import open_server
from tests.fixtures.trials import wait_for
from trainer.jobs import (
    Progress,
    RedisClient,
    Status,
    StatusKind,
    WorkerRole,
    WorkerStatus,
    connect,
    worker_key,
    worker_names_key,
)
from trainer.worker.heartbeat import IDLE, TTL_S, Heartbeat, Publisher

TIMED = Status.working("timed")
TRAINER = WorkerRole.TRAINER


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClient]:
    with open_server(tmp_path_factory.mktemp("server")) as server:
        connection = connect(server.url, password=server.password, patient=False)
        yield RedisClient(connection)
        connection.close()


@pytest.fixture
def bus(server: RedisClient) -> RedisClient:
    server.connection.flushall()
    return server


class Overtaken(Heartbeat):
    """Each vanished worker shows itself again just before its name would be removed."""

    def _forget(self, name: str, pipeline: Pipeline) -> None:
        super()._forget(name, pipeline)
        if not self.connection.exists(worker_key(self.role, name)):
            Heartbeat(self.connection, name).show(IDLE)


def vanish(bus: RedisClient, name: str) -> None:
    """As a killed trainer does when its time to live is over."""
    bus.connection.pexpire(worker_key(TRAINER, name), 0)


def test_a_beat_replaces_the_heartbeat_file_and_one_that_cannot_be_written_stops_nothing(
    bus: RedisClient, tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    beating = Heartbeat(bus.connection, "trainer-a", file=file)

    beating.beat(IDLE)
    before = file.stat().st_ino
    beating.beat(Status(StatusKind.HELD, "the disk is full"))
    replace(beating, file=tmp_path / "none" / "heartbeat").beat(IDLE)

    assert file.read_text() == "held: the disk is full"
    assert file.stat().st_ino != before, "a reader never sees a part"
    assert [path.name for path in tmp_path.iterdir()] == ["heartbeat"]


def test_a_trainer_shows_its_profile_and_its_cap_with_every_heartbeat(bus: RedisClient) -> None:
    heartbeat = Heartbeat(bus.connection, "trainer-a", profile="48gb", vram_cap_mib=31744)

    heartbeat.show(IDLE)
    idle = bus.worker(TRAINER, "trainer-a")
    heartbeat.show(TIMED, "t-1-t0-a0", token=3)

    assert idle == WorkerStatus(TRAINER, "trainer-a", IDLE, "48gb", 31744)
    timed = WorkerStatus(TRAINER, "trainer-a", TIMED, "48gb", 31744, trial="t-1-t0-a0")
    assert bus.worker(TRAINER, "trainer-a") == timed
    assert 0 < bus.connection.ttl(worker_key(TRAINER, "trainer-a")) <= TTL_S
    assert 0 < bus.connection.ttl(worker_names_key(TRAINER)) <= TTL_S


def test_while_a_trial_runs_its_publisher_shows_them_too(bus: RedisClient) -> None:
    publisher = Publisher(Heartbeat(bus.connection, "trainer-b", profile="cpu", no_user="all are taken"), "t-1-t0-a0")

    publisher.report(Progress("scoring", 1.0, 15.0))
    scoring = Status.working("scoring")
    shown = WorkerStatus(TRAINER, "trainer-b", scoring, "cpu", None, no_user="all are taken", trial="t-1-t0-a0")
    wait_for(lambda: bus.workers(TRAINER) == (shown,), 10)
    publisher.close()


def test_a_trainer_started_without_them_shows_none_of_its_predecessors(bus: RedisClient) -> None:
    Heartbeat(bus.connection, "trainer-a", profile="48gb", vram_cap_mib=31744).show(IDLE)

    Heartbeat(bus.connection, "trainer-a").show(IDLE)

    assert bus.workers(TRAINER) == (WorkerStatus(TRAINER, "trainer-a", IDLE, None, None),)


def test_workers_show_themselves_at_once_and_none_erases_another(bus: RedisClient) -> None:
    Heartbeat(bus.connection, "trainer-b", profile="24gb").show(TIMED, "t-1-t0-a0")
    Heartbeat(bus.connection, "trainer-a", profile="12gb").show(IDLE)
    Heartbeat(bus.connection, "dry-run-worker-a", role=WorkerRole.DRY_RUN_WORKER).show(IDLE)

    first = WorkerStatus(TRAINER, "trainer-a", IDLE, "12gb", None)
    second = WorkerStatus(TRAINER, "trainer-b", TIMED, "24gb", None, trial="t-1-t0-a0")
    assert bus.workers(TRAINER) == (first, second)
    assert bus.workers(WorkerRole.DRY_RUN_WORKER) == (
        WorkerStatus(WorkerRole.DRY_RUN_WORKER, "dry-run-worker-a", IDLE, None, None),
    )


def test_a_trainer_that_fades_or_vanishes_leaves_the_others(bus: RedisClient) -> None:
    trainers = [Heartbeat(bus.connection, f"trainer-{letter}") for letter in "abc"]
    for trainer in trainers:
        trainer.show(IDLE)

    trainers[0].fade()
    vanish(bus, "trainer-b")

    assert [worker.worker for worker in bus.workers(TRAINER)] == ["trainer-c"]
    assert bus.worker_names(TRAINER) == ["trainer-b", "trainer-c"]
    trainers[2].forget_vanished()
    assert bus.worker_names(TRAINER) == ["trainer-c"]


def test_a_worker_that_shows_itself_while_it_is_forgotten_is_not(bus: RedisClient) -> None:
    Heartbeat(bus.connection, "trainer-a").show(IDLE)
    vanish(bus, "trainer-a")

    Overtaken(bus.connection, "trainer-b").forget_vanished()

    assert [worker.worker for worker in bus.workers(TRAINER)] == ["trainer-a"]


@pytest.mark.parametrize("kind", StatusKind)
def test_the_kind_of_its_status_is_shown_too(bus: RedisClient, kind: StatusKind) -> None:
    status = Status(kind, "the disk is full")

    Heartbeat(bus.connection, "trainer-a").show(status)

    assert bus.workers(TRAINER) == (WorkerStatus(TRAINER, "trainer-a", status, None, None),)


@pytest.mark.parametrize("more", [{}, {"kind": "unheard of"}], ids=["none", "unknown"])
def test_a_worker_without_a_known_kind_works(bus: RedisClient, more: dict[str, str]) -> None:
    bus.connection.hset(worker_key(TRAINER, "trainer-a"), mapping={"phase": "held: says an older version"} | more)

    older = Status.working("held: says an older version")
    assert bus.worker(TRAINER, "trainer-a") == WorkerStatus(TRAINER, "trainer-a", older, None, None)


def test_however_often_a_trial_reports_redis_hears_only_the_newest_now_and_then(bus: RedisClient) -> None:
    def written() -> int:
        return int(bus.connection.info("commandstats").get("cmdstat_hset", {"calls": 0})["calls"])

    before = written()
    publisher = Publisher(Heartbeat(bus.connection, "trainer-d"), "t-1-t0-a0")

    for step in range(10_000):
        publisher.report(Progress("timed", 0.5, 1.0, step=step))

    wait_for(lambda: (seen := bus.read_progress("t-1-t0-a0")) is not None and seen.step == 9_999, 10)
    publisher.close()
    assert written() - before < 100
