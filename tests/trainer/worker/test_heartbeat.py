"""What a trainer shows of itself, read back through the bus from a real server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.servers import open_server
from tests.fixtures.trials import wait_for
from trainer.jobs import Progress, RedisClient, Status, StatusKind, WorkerStatus, connect
from trainer.jobs.bus import TRAINER
from trainer.worker.heartbeat import IDLE, TTL_S, Heartbeat, Publisher

TIMED = Status.working("timed")


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClient]:
    with open_server(tmp_path_factory.mktemp("server")) as server:
        connection = connect(server.url, password=server.password, patient=False)
        yield RedisClient(connection)
        connection.close()


def test_a_trainer_shows_its_profile_and_its_cap_with_every_heartbeat(bus: RedisClient) -> None:
    presence = Heartbeat(bus.connection, "trainer-a", profile="48gb", vram_cap_mib=31744)

    presence.show(IDLE)
    idle = bus.trainer()
    presence.show(TIMED, "t-1-t0-a0", token=3)

    assert idle == WorkerStatus("trainer-a", IDLE, "48gb", 31744)
    assert bus.trainer() == WorkerStatus("trainer-a", TIMED, "48gb", 31744)
    assert 0 < bus.connection.ttl(TRAINER) <= TTL_S


def test_while_a_trial_runs_its_publisher_shows_them_too(bus: RedisClient) -> None:
    publisher = Publisher(Heartbeat(bus.connection, "trainer-b", profile="cpu", no_user="all are taken"), "t-1-t0-a0")

    publisher.report(Progress("scoring", 1.0, 15.0))
    shown = WorkerStatus("trainer-b", Status.working("scoring"), "cpu", None, no_user="all are taken")
    wait_for(lambda: bus.trainer() == shown, 10)
    publisher.close()


def test_a_trainer_started_without_them_shows_none_of_its_predecessors(bus: RedisClient) -> None:
    Heartbeat(bus.connection, "trainer-a", profile="48gb", vram_cap_mib=31744).show(IDLE)

    Heartbeat(bus.connection, "trainer-c").show(IDLE)

    assert bus.trainer() == WorkerStatus("trainer-c", IDLE, None, None)


@pytest.mark.parametrize("kind", StatusKind)
def test_the_kind_of_its_status_is_shown_too(bus: RedisClient, kind: StatusKind) -> None:
    status = Status(kind, "the disk is full")

    Heartbeat(bus.connection, "trainer-a").show(status)

    assert bus.trainer() == WorkerStatus("trainer-a", status, None, None)


@pytest.mark.parametrize("more", [{}, {"kind": "unheard of"}], ids=["none", "unknown"])
def test_a_worker_without_a_known_kind_works(bus: RedisClient, more: dict[str, str]) -> None:
    Heartbeat(bus.connection, "trainer-a").fade()
    bus.connection.hset(TRAINER, mapping={"worker": "trainer-a", "phase": "held: says an older version"} | more)

    assert bus.trainer() == WorkerStatus("trainer-a", Status.working("held: says an older version"), None, None)


def test_no_trainer_is_none(bus: RedisClient) -> None:
    presence = Heartbeat(bus.connection, "trainer-a")
    presence.show(IDLE)

    presence.fade()

    assert bus.trainer() is None


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
