"""What whoever holds the client's password can do to a run's Redis and its researcher, on the server as it ships."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis

from researcher.queues.requests import RECEIVE, WAITING_LIMIT, RequestWorker, cancel, send, wait_reply
from services.redis.folder import LIMITS, memory_cap_mib
from services.redis.server import RedisServer
from services.redis.watchdog import SILENT_S, Watchdog
from tests import ROOT
from tests.fixtures.servers import open_server
from tests.fixtures.trials import wait_for
from trainer.jobs import REQUESTS, RedisClient, connect

MIB = 1024**2
DEEP = b"[" * 100_000 + b"]" * 100_000
CALL = json.dumps([RECEIVE, None, ["idea-0123456789ab", "idea", "wider"], {}]).encode()
ID = "idea-0123456789ab"
Fields = Callable[[], dict[str, object]]


@cache
def bomb() -> bytes:
    """What inflates to 300 MiB."""
    return zlib.compress(b"[" + bytes(300 * MIB), 9)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.redis.folder.memory_cap_mib", lambda _: 48)
        with open_server(tmp_path_factory.mktemp("server")) as server:
            yield server


@pytest.fixture
def server(running: RedisServer) -> Iterator[RedisServer]:
    yield running
    with closing(redis.Redis.from_url(running.url, password=running.password)) as everything:
        everything.flushall()


@pytest.fixture
def bus_of(server: RedisServer) -> Iterator[dict[str, RedisClient]]:
    buses = {}
    for user in ("client", "researcher"):
        secret = server.password_file(user)
        assert secret is not None
        buses[user] = RedisClient(connect(server.url_for(user), password=secret.read_text(), patient=False))
    yield buses
    for bus in buses.values():
        bus.connection.close()


@pytest.fixture
def client(bus_of: dict[str, RedisClient]) -> RedisClient:
    return bus_of["client"]


@pytest.fixture
def researcher(bus_of: dict[str, RedisClient]) -> RedisClient:
    return bus_of["researcher"]


def receive(request: str, kind: str, body: str) -> str:
    return f"taken in: {body[:20]}"


def forge(client: RedisClient, request: str | bytes = ID, /, **fields: object) -> None:
    """Write a request by hand and put it on the queue."""
    job = {"data": CALL, "origin": REQUESTS, "status": "queued"} | fields
    client.connection.hset(f"rq:job:{ID}", mapping=job)
    client.connection.rpush("rq:queue:requests", request)


def test_no_script_is_needed_to_ask_and_none_can_be_loaded(client: RedisClient, researcher: RedisClient) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        client.connection.script_load("while true do end")

    request = send(client, "idea", "wider")
    RequestWorker.open(researcher, receive).serve()

    assert wait_reply(client, request, 1) == "taken in: wider"
    assert researcher.connection.info("memory")["number_of_cached_scripts"] == 0


HOSTILE: dict[str, Fields] = {
    "inflates to 300 MiB": lambda: {"data": bomb()},
    "inflates twice": lambda: {"data": zlib.compress(bomb(), 9)},
    "is cut off": lambda: {"data": bomb()[:1000]},
    "is nested": lambda: {"data": zlib.compress(DEEP)},
    "is a nested argument": lambda: {"data": CALL.replace(b'"wider"', DEEP)},
    "is no call": lambda: {"data": b'{"a": 1}'},
    "is large as it is": lambda: {"data": b"[" + b"0," * 2_500_000 + b"0]"},
    "has a large field": lambda: {"description": b"x" * 7 * MIB},
    "has 20,000 fields": lambda: {f"f{number}": "x" for number in range(20_000)},
    "has an endless number": lambda: {"timeout": "9" * 5000},
    "has a date that is none": lambda: {"created_at": "99999999999"},
    "is of no known state": lambda: {"status": "x" * 1000},
    "has bytes for a name": lambda: {"origin": b"\xff\xfe"},
    "is of another queue": lambda: {"origin": "elsewhere"},
    "is of the trials": lambda: {"origin": "trials"},
}


@pytest.mark.parametrize("fields", HOSTILE.values(), ids=HOSTILE)
def test_request_that_cannot_be_read_is_refused_once_and_holds_nobody_up(
    client: RedisClient, researcher: RedisClient, fields: Fields
) -> None:
    sent = fields()
    forge(client, **sent)
    honest = send(client, "idea", "deeper")
    request_worker = RequestWorker.open(researcher, receive)

    tracemalloc.start()
    request_worker.serve()
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak_bytes < 64 * MIB
    assert wait_reply(client, honest, 1) == "taken in: deeper"
    if sent.get("origin") is None:
        assert (wait_reply(client, ID, 1) or "").startswith("refused")
    assert researcher.connection.llen("rq:queue:requests:intermediate") == 0
    RequestWorker.open(researcher, receive)
    assert researcher.queue(REQUESTS).count == 0, "it is not put back"


HARMLESS: dict[str, Fields] = {
    "what was kept of a failure inflates": lambda: {"exc_info": bomb()},
    "meta are nested": lambda: {"meta": DEEP, "result": DEEP},
    "dependencies are nested": lambda: {"dependency_ids": DEEP},
    "intervals are nested": lambda: {"retry_intervals": DEEP, "repeat_intervals": DEEP, "repeats_left": "3"},
    "it is to be kept for ever": lambda: {"result_ttl": "-1", "failure_ttl": "-1", "ttl": "1"},
    "it may take no time": lambda: {"timeout": "1"},
    "it is described at length": lambda: {"description": b"\xff" * 100_000},
}


@pytest.mark.parametrize("fields", HARMLESS.values(), ids=HARMLESS)
def test_field_that_we_do_not_use_is_not_read(client: RedisClient, researcher: RedisClient, fields: Fields) -> None:
    forge(client, **fields())

    RequestWorker.open(researcher, receive).serve()

    assert wait_reply(client, ID, 1) == "taken in: wider"


@pytest.mark.parametrize("entry", [b"\xff\xfe", b"a:b", b"", b"x" * 100_000, b"idea 1", b"nobody-0123456789ab"])
def test_entry_that_is_no_job_is_dropped_and_holds_nobody_up(
    client: RedisClient, researcher: RedisClient, entry: bytes
) -> None:
    client.connection.rpush("rq:queue:requests", entry, entry)
    honest = send(client, "idea", "deeper")

    RequestWorker.open(researcher, receive).serve()

    assert wait_reply(client, honest, 1) == "taken in: deeper"
    assert researcher.connection.llen("rq:queue:requests:intermediate") == 0


def test_request_that_a_killed_researcher_left_is_put_back_without_what_is_no_id(
    server: RedisServer, client: RedisClient, researcher: RedisClient
) -> None:
    honest = send(client, "idea", "deeper")
    with closing(redis.Redis.from_url(server.url, password=server.password)) as everything:
        everything.lmove("rq:queue:requests", "rq:queue:requests:intermediate")
        everything.rpush("rq:queue:requests:intermediate", b"\xff\xfe")

    RequestWorker.open(researcher, receive).serve()

    assert wait_reply(client, honest, 1) == "taken in: deeper"


def test_flood_of_requests_costs_a_bounded_time_and_what_is_too_much_is_dropped(
    client: RedisClient, researcher: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        client.connection.rpush("rq:queue:requests", *[ID] * 10_000)
    forge(client)
    served: list[str] = []
    request_worker = RequestWorker.open(researcher, lambda request, kind, body: served.append(request) or "taken in")

    assert researcher.queue(REQUESTS).count <= WAITING_LIMIT
    request_worker.serve()
    honest = send(client, "idea", "deeper")
    for _ in range(WAITING_LIMIT):
        request_worker.serve()

    assert len(served) <= 2
    assert wait_reply(client, honest, 1) == "taken in"
    assert "197001 are dropped" in caplog.text


def is_writable(bus: RedisClient) -> bool:
    try:
        bus.connection.set("overnight:doing:researcher", "measuring")
    except redis.OutOfMemoryError:
        return False
    return True


def test_memory_that_a_client_fills_is_given_back(client: RedisClient, researcher: RedisClient) -> None:
    kept = send(client, "idea", "wider")
    numbers = iter(range(200_000))
    while is_writable(researcher):  # the server's own buffers come and go: what they leave is filled again
        for size_bytes in (MIB, 10_000, 1):
            with suppress(redis.OutOfMemoryError):
                for _ in range(10_000):
                    client.connection.hset(f"rq:job:idea-{next(numbers):012x}", "data", bytes(size_bytes))

    RequestWorker.open(researcher, receive).serve()

    assert is_writable(researcher)
    assert wait_reply(client, kept, 1) == "taken in: wider"
    assert researcher.connection.info("memory")["used_memory"] < 24 * MIB


@pytest.mark.parametrize("size_bytes", [1_000, MIB])
def test_list_that_a_client_fills_is_cut(client: RedisClient, researcher: RedisClient, size_bytes: int) -> None:
    with suppress(redis.OutOfMemoryError):
        for _ in range(1000):
            client.connection.rpush("rq:queue:requests", *[bytes(size_bytes)] * (MIB // size_bytes))

    request_worker = RequestWorker.open(researcher, receive)
    for _ in range(WAITING_LIMIT):
        request_worker.serve()

    honest = send(client, "idea", "deeper")
    request_worker.serve()
    assert wait_reply(client, honest, 1) == "taken in: deeper"
    assert researcher.connection.info("memory")["used_memory"] < 24 * MIB


def test_large_value_or_question_is_refused_by_the_server(client: RedisClient, researcher: RedisClient) -> None:
    with pytest.raises((redis.ResponseError, redis.ConnectionError)):
        client.connection.hset(f"rq:job:{ID}", "data", bytes(9 * MIB))

    assert researcher.connection.ping()
    assert researcher.connection.hget(f"rq:job:{ID}", "data") is None


def test_client_that_does_not_read_what_it_asks_for_is_sent_away(server: RedisServer, client: RedisClient) -> None:
    client.connection.hset(f"rq:job:{ID}", "data", bytes(7 * MIB))
    pipe = client.connection.pipeline(transaction=False)
    for _ in range(200):
        pipe.hget(f"rq:job:{ID}", "data")

    with pytest.raises(redis.ConnectionError):
        pipe.execute()

    with closing(redis.Redis.from_url(server.url, password=server.password)) as everything:
        assert everything.info("memory")["used_memory"] < 24 * MIB


def test_request_is_taken_back_or_served_and_never_both(client: RedisClient, researcher: RedisClient) -> None:
    request_worker = RequestWorker.open(researcher, receive)
    back, served = send(client, "idea", "back"), send(client, "stop")
    assert cancel(client, back)

    request_worker.serve()

    assert wait_reply(client, back, 1) is None
    assert wait_reply(client, served, 1) == "taken in: "
    assert not cancel(client, served)
    assert researcher.connection.hget(f"rq:job:{back}", "data") is None


def test_request_that_was_cut_short_is_completed_by_asking_again(client: RedisClient, researcher: RedisClient) -> None:
    asked = send(client, "idea", "wider")
    client.connection.hset(f"rq:job:{asked}", "listed", "")
    served: list[str] = []

    assert send(client, "idea", "wider", request=asked) == asked
    assert send(client, "idea", "wider", request=asked) == asked
    assert researcher.queue(REQUESTS).count == 2
    RequestWorker.open(researcher, lambda request, kind, body: served.append(request) or "taken in").serve()

    assert served == [asked]


SCRIPTS = {
    "reads": "while true do redis.call('GET', 'overnight:doing:x') end",
    "only turns": "while true do end",
    "catches errors": "while true do pcall(function() while true do end end) end",
}


def test_script_that_has_written_is_ended_with_the_server_and_leaves_nothing(tmp_path: Path) -> None:
    with open_server(tmp_path / "redis") as server:
        with closing(redis.Redis.from_url(server.url, password=server.password)) as everything:
            everything.set("kept", "1")
            wait_for(lambda: everything.info("persistence")["aof_pending_bio_fsync"] == 0, 20)
        with endless(server, "redis.call('SET', 'written', '1') while true do end") as watchdog:
            watchdog.scan()
        assert server._hold is not None
        server._hold.process.wait(20)

        server.revive()

        with closing(redis.Redis.from_url(server.url, password=server.password)) as everything:
            assert everything.mget("kept", "written") == [b"1", None]


def test_server_that_is_silent_for_minutes_is_started_again_and_one_that_answers_is_not(tmp_path: Path) -> None:
    now = 1000.0
    with open_server(tmp_path / "redis") as server:
        assert server._hold is not None
        process = server._hold.process
        watchdog = watchdog_of(server, clock=lambda: now, answer_within_s=0.2)
        watchdog.scan()
        process.send_signal(signal.SIGSTOP)
        now += SILENT_S - 1
        watchdog.scan()
        assert process.poll() is None
        now += 1
        watchdog.scan()
        assert process.wait(5) == -signal.SIGKILL

        server.revive()

        with closing(redis.Redis.from_url(server.url, password=server.password)) as everything:
            assert everything.ping()


def test_container_and_local_mode_have_the_same_limits() -> None:
    shipped = (ROOT / "services/redis/redis.conf").read_text().splitlines()

    assert [line for line in LIMITS.splitlines() if line not in shipped] == []


@pytest.mark.parametrize(("machine_mib", "cap_mib"), [(512, 64), (4096, 256), (1_000_000, 512)])
def test_server_may_use_a_part_of_the_machine(machine_mib: int, cap_mib: int) -> None:
    assert memory_cap_mib(machine_mib) == cap_mib


REDIS_CLI = """#!{python}
import sys, redis
words = sys.argv[sys.argv.index("any") + 1:]
try:
    said = redis.Redis(port={port}, username="health", password="any").execute_command(*words)
    print("PONG" if words == ["ping"] else said)
except redis.ResponseError as refusal:
    print(refusal)
"""


def test_health_check_of_the_container_ends_a_script_and_forgets_the_starts(
    server: RedisServer, tmp_path: Path
) -> None:
    program = tmp_path / "redis-cli"
    assert server._hold is not None
    program.write_text(REDIS_CLI.format(python=sys.executable, port=server._hold.port))
    program.chmod(0o755)
    check = ["sh", ROOT / "services/redis/watch.sh"]
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    with endless(server, "while true do end"):
        ended = subprocess.run(check, env=env, cwd=tmp_path, check=False, capture_output=True, text=True)
    (tmp_path / "starts").touch()

    assert ended.returncode == 1
    assert "a script did not end: b'OK'" in ended.stdout
    assert subprocess.run(check, env=env, cwd=tmp_path, check=False).returncode == 0
    assert not (tmp_path / "starts").exists()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_script_without_end_is_ended(server: RedisServer, caplog: pytest.LogCaptureFixture, script: str) -> None:
    with endless(server, script) as watchdog, caplog.at_level(logging.ERROR):
        watchdog.scan()
    assert "did not end and was ended by SCRIPT KILL" in caplog.text


@contextmanager
def endless(server: RedisServer, script: str) -> Iterator[Watchdog]:
    """A script that runs in the server by whoever may do everything; leaves once that one was answered."""

    def run() -> None:
        everything = redis.Redis.from_url(server.url, password=server.password)
        with closing(everything), suppress(redis.RedisError):
            everything.eval(script, 0)

    watchdog, thread = watchdog_of(server), threading.Thread(target=run)
    thread.start()
    wait_for(lambda: is_busy(watchdog), 20)
    yield watchdog
    thread.join(5)
    assert not thread.is_alive()


def watchdog_of(server: RedisServer, **how: Any) -> Watchdog:
    hold = server._hold
    assert hold is not None
    hold.watchdog.stop()  # the test looks by itself
    return Watchdog(hold.port, lambda: hold.process, **how)


def is_busy(watchdog: Watchdog) -> bool:
    try:
        watchdog._ask("PING")
    except redis.ResponseError as refusal:
        return "BUSY" in str(refusal).upper()
    except redis.TimeoutError:
        return False
    return False


class AnswersNoKill(Watchdog):
    """Of a server that says that it is busy, and then answers nothing more."""

    def _ask(self, command: str) -> None:
        if command == "PING":
            raise redis.ResponseError("BUSY Redis is busy running a script")
        raise redis.TimeoutError("no answer")


def test_a_server_that_does_not_answer_the_order_to_end_a_script_is_looked_at_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watchdog = AnswersNoKill(1, lambda: pytest.fail("nothing is killed for one look without an answer"))

    watchdog.scan()
    watchdog.scan()

    assert caplog.text.count("the next look asks again") == 2
