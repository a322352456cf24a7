"""Bad days of storage, clock and Redis: each ends with a sentence that a tired person understands, and then the run
goes on by itself. The processes, the disks, the server and git are real; only the training is scripted.
"""

from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
import rq.utils
from rich.console import Console
from rq.job import Job

from researcher.__main__ import Stopped, StopSwitch
from researcher.backoff import Backoff
from researcher.config.settings import Settings
from researcher.journal import database
from researcher.journal.reader import JournalReader
from researcher.journal.records import ASKED_TO_PAUSE
from researcher.loop import context
from researcher.loop.context import PauseBackoffs
from researcher.loop.resume import run_through_outages
from researcher.queues.requests import send, wait_reply
from researcher.report.stall_alarm import alarm
from researcher.report.view import now
from services.machine.state import CHOICES_FILE, RunConfig, State
from services.redis.folder import ServerFolder
from services.redis.server import RedisServer
from services.views.client import ClientError, ask_and_wait
from services.views.show import show_status
from tests.fixtures.disks import Disk
from tests.fixtures.loop_in_process import opened
from tests.fixtures.servers import open_server
from tests.fixtures.trials import wait_for
from tests.scenarios.crash.checker import check
from tests.scenarios.crash.conftest import until_the_test_ends
from tests.scenarios.crash.forked_run import ForkedRun
from trainer.jobs import REQUESTS, TRIALS, Status, profile_named

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

GOAL = 3
SIZES = {"journal": "4m", "subject": "4m", "log": "1m", "trials": "16m"}
GOES_ON = "The run goes on by itself"


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    """Of one of the run's folders, named by the test."""
    made = Disk(tmp_path / request.param, SIZES[request.param])
    yield made
    made.remove()


def until(condition: Callable[[], bool]) -> Iterator[None]:
    while not condition():
        yield


def alarm_of(scripted_run: ForkedRun) -> str | None:
    """As `overnight status` has it."""
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
        assert run is not None
        return alarm(run, history.trials(), profile_named("cpu").budget, now(history, scripted_run.bus), time.time())


def alarm_in_journal(scripted_run: ForkedRun) -> str | None:
    """As `overnight status` has it where Redis does not answer."""
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
        assert run is not None
        return alarm(run, history.trials(), profile_named("cpu").budget, None, time.time())


def status_of(scripted_run: ForkedRun) -> str:
    """What `overnight status` prints."""
    choices = RunConfig(profile="cpu", budget=None, subject=str(scripted_run.subject), text=None)
    (scripted_run.journal / CHOICES_FILE).write_text(json.dumps(asdict(choices)))
    console = Console(width=900, file=io.StringIO())
    show_status(State(scripted_run.folder), console, as_json=False, verbose=True)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def has_begun(scripted_run: ForkedRun) -> Callable[[], bool]:
    """True once a first trial is written down; dozens of steps are still to come."""
    return lambda: "night-0-t0-a0 ok" in scripted_run.output()


def held(scripted_run: ForkedRun) -> list[str]:
    """What was said, once for each try."""
    return [line.partition("HELD")[2] for line in scripted_run.output().splitlines() if "HELD" in line]


def assert_it_went_on(scripted_run: ForkedRun, code: int | None) -> None:
    assert code == 0, scripted_run.last_words()
    assert "Traceback" not in scripted_run.output()
    found = check(scripted_run.folder)
    assert found["faults"] == []
    assert found["experiments"] == GOAL


@pytest.mark.parametrize("disk", ["journal", pytest.param("subject", marks=pytest.mark.slow)], indirect=True)
def test_full_disk_is_said_with_the_room_that_is_left_and_the_run_goes_on_once_there_is_some(
    disk: Disk, scripted_run: ForkedRun
) -> None:
    alarms: list[str] = []

    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        disk.fill()
        yield from until(lambda: len(held(scripted_run)) > 1)
        yield from until(lambda: bool(alarms.append(alarm_of(scripted_run) or "") or "no progress" in alarms[-1]))
        disk.free()

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    folder = re.escape(str(disk.folder))  # a transaction that was rolled back has left some of its room
    expected = rf"the disk of {folder} is full, \d+ KiB are free\. Next: delete or move something on it\. {GOES_ON}"
    assert re.search(expected, held(scripted_run)[0])
    assert re.search(expected, alarms[-1])
    assert_it_went_on(scripted_run, code)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["journal", "subject"], indirect=True)
def test_run_that_waits_for_a_full_disk_ends_when_it_is_asked_to_and_goes_on_later(
    disk: Disk, scripted_run: ForkedRun
) -> None:
    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        disk.fill()
        yield from until(lambda: len(held(scripted_run)) > 2)
        send(scripted_run.bus, "stop")

    assert scripted_run.run_researcher(GOAL, meanwhile=day()) == 0, scripted_run.last_words()
    assert "stopped by a request" in scripted_run.output()
    disk.free()
    assert_it_went_on(scripted_run, scripted_run.run_researcher(GOAL))


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["log"], indirect=True)
def test_full_disk_of_the_log_costs_lines_and_nothing_else(disk: Disk, scripted_run: ForkedRun) -> None:
    (scripted_run.folder / "output.log").symlink_to(disk.folder / "output.log")

    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        disk.fill()
        yield from until(lambda: scripted_run.row("SELECT count(*) FROM experiment WHERE state = 'applied'") == (3,))
        disk.free()

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    assert_it_went_on(scripted_run, code)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["subject"], indirect=True)
def test_disk_that_becomes_read_only_is_said_and_the_run_goes_on_once_it_is_remounted(
    disk: Disk, scripted_run: ForkedRun
) -> None:
    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        disk.make_read_only()
        yield from until(lambda: len(held(scripted_run)) > 1)
        disk.make_writable()

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    assert f"the disk of {disk.folder} is read-only. Next: `dmesg` tells" in held(scripted_run)[0]
    assert_it_went_on(scripted_run, code)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["journal"], indirect=True)
def test_journal_on_a_read_only_disk_is_said_at_the_first_start_and_at_a_later_one(
    disk: Disk, scripted_run: ForkedRun
) -> None:
    alarms: list[str | None] = []

    def day() -> Iterator[None]:
        before = len(held(scripted_run))
        yield from until(lambda: len(held(scripted_run)) > before + 1)
        alarms.append(alarm_of(scripted_run) if (scripted_run.journal / "journal.db").exists() else None)
        disk.make_writable()

    disk.make_read_only()
    first = scripted_run.run_researcher(1, meanwhile=day())
    disk.make_read_only()
    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    assert first == 0
    assert alarms[0] is None
    assert f"no progress: the researcher is held: the disk of {disk.folder}" in (alarms[1] or "")
    assert all("is read-only" in words for words in held(scripted_run))
    assert_it_went_on(scripted_run, code)


@pytest.mark.slow
def test_journal_that_another_program_locks_is_waited_for(
    scripted_run: ForkedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.1)

    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        with closing(sqlite3.connect(scripted_run.journal / "journal.db", isolation_level=None)) as browser:
            browser.execute("BEGIN IMMEDIATE")
            yield from until(lambda: len(held(scripted_run)) > 1)

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    assert f"another program holds the journal in {scripted_run.journal} locked. Next: close" in held(scripted_run)[0]
    assert_it_went_on(scripted_run, code)


@pytest.mark.parametrize("page", [pytest.param(0, marks=pytest.mark.slow), 13], ids=["header", "an index"])
def test_damaged_journal_is_refused_untouched_and_it_is_said_where_the_run_still_is(
    scripted_run: ForkedRun, page: int
) -> None:
    assert scripted_run.run_researcher(1) == 0
    journal = scripted_run.journal / "journal.db"
    with journal.open("r+b") as file:
        file.seek(page * 4096)
        file.write(b"garbage!" * 512)
    damaged = journal.read_bytes()

    code = scripted_run.run_researcher(2)

    assert code == 2
    assert journal.read_bytes() == damaged
    said = scripted_run.output().splitlines()[-1]
    assert f"the journal {journal} is damaged" in said
    assert "nothing more is written to it" in said
    assert "`git for-each-ref refs/overnight`" in said


@pytest.mark.slow
@pytest.mark.parametrize("damage", [lambda path: path.write_text("commit\tval_bp"), Path.unlink], ids=["half", "gone"])
def test_results_that_are_half_written_or_deleted_are_there_again_with_the_next_experiment(
    damage: Callable[[Path], object], scripted_run: ForkedRun
) -> None:
    def day() -> Iterator[None]:
        yield from until(lambda: "1 discard" in scripted_run.output())
        damage(scripted_run.subject / "results.tsv")

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    assert_it_went_on(scripted_run, code)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    with open_server(tmp_path / "redis") as started:
        yield started


@pytest.fixture
def run_alone(tmp_path: Path, own_server: RedisServer) -> Iterator[ForkedRun]:
    yield from until_the_test_ends(tmp_path, own_server)


@pytest.mark.slow
def test_redis_with_another_password_is_said_at_once_and_the_new_one_is_read_from_its_file(
    run_alone: ForkedRun, own_server: RedisServer
) -> None:
    scripted_run = run_alone

    def change_password() -> None:
        server = scripted_run.bus.connection
        server.execute_command("ACL", "SETUSER", "test", "resetpass", ">another")
        server.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def day() -> Iterator[None]:
        yield from until(lambda: len(held(scripted_run)) > 1)
        scripted_run.password_file.write_text(own_server.password or "")
        yield from until(has_begun(scripted_run))
        change_password()
        before = len(held(scripted_run))
        yield from until(lambda: len(held(scripted_run)) > before)
        scripted_run.password_file.write_text("another")

    scripted_run.password_file.write_text("not this one")
    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    assert all("refuses the password of this run" in words for words in held(scripted_run))
    assert "Next: write its password to the file" in held(scripted_run)[0]
    assert "Redis refuses this trainer's password" in scripted_run.output()
    assert_it_went_on(scripted_run, code)


def test_request_whose_answer_is_lost_was_perhaps_taken(
    run_alone: ForkedRun, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, pid = run_alone.bus.queue(REQUESTS), own_server.pid
    assert own_server.folder is not None
    assert pid is not None
    folder = ServerFolder(own_server.folder)
    run_alone.bus.publish_status("researcher", Status.working("proposing"))
    monkeypatch.setenv("REDIS_URL", own_server.url)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(run_alone.password_file))

    def kill_server() -> None:
        wait_for(lambda: not queue.is_empty(), 20)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_server)
    killer.start()
    try:
        with pytest.raises(ClientError, match=r"perhaps taken, but Redis stopped answering .*see `overnight status`"):
            ask_and_wait(State(run_alone.folder), "idea", "try a wider MLP")
    finally:
        killer.join()
        wait_for(lambda: own_server.revive() or folder.server_pids() not in ([], [pid]), 20)


def overwrite_queue(server: RedisServer) -> None:
    """Kill the server, and overwrite the middle of its append-only file."""
    assert server.folder is not None
    folder = ServerFolder(server.folder)
    for pid in folder.server_pids():
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not folder.server_pids(), 20)
    (file,) = (server.folder / "appendonlydir").glob("*.incr.aof")
    with file.open("r+b") as opened_file:
        opened_file.seek(file.stat().st_size // 2)
        opened_file.write(b"\0garbage" * 64)


def test_queue_that_is_damaged_during_a_run_is_put_aside_and_made_again(
    run_alone: ForkedRun, own_server: RedisServer
) -> None:
    def day() -> Iterator[None]:
        yield from until(has_begun(run_alone))
        overwrite_queue(own_server)
        while True:
            own_server.revive()
            yield

    code = run_alone.run_researcher(GOAL, meanwhile=day())

    assert own_server.folder is not None
    assert ServerFolder(own_server.folder).damaged.is_dir()
    assert_it_went_on(run_alone, code)


@pytest.mark.slow
def test_queue_that_is_damaged_between_two_starts_is_put_aside_and_the_open_trial_is_queued_again(
    run_alone: ForkedRun, own_server: RedisServer
) -> None:
    def day() -> Iterator[None]:
        yield from until(has_begun(run_alone))
        send(run_alone.bus, "stop")

    assert run_alone.run_researcher(GOAL, meanwhile=day()) == 0
    overwrite_queue(own_server)
    own_server.revive()

    code = run_alone.run_researcher(GOAL)

    assert_it_went_on(run_alone, code)


@pytest.mark.slow
@pytest.mark.parametrize("disk", ["trials"], indirect=True)
def test_trainer_without_room_for_results_takes_no_trial_says_so_and_goes_on_by_itself(
    disk: Disk, scripted_run: ForkedRun
) -> None:
    said: list[str] = []

    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        disk.fill()
        yield from until(lambda: len(held(scripted_run)) > 0 and alarm_of(scripted_run) is not None)
        said.append(alarm_of(scripted_run) or "")
        disk.free()

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    expected = (
        rf"the disk of {re.escape(str(disk.folder))} is full, \d+ KiB are free and a trial needs 8192. Next: delete"
    )
    assert re.search(expected, held(scripted_run)[0])  # looked at while it was still filling, perhaps
    assert re.search(rf"no progress: the trainer \S+ is held: {expected}", said[0])
    assert_it_went_on(scripted_run, code)


FOREIGN = 500  # of each kind
PICKLED = b"\x80\x04\x95\x14\x00\x00\x00\x00\x00\x00\x00(\x8c\x08os.mkdir\x94N)}\x94t\x94."


def crowd(scripted_run: ForkedRun, name: str) -> None:
    """Other people's jobs: not our function, bytes that are no JSON, a hash that is no job, no hash at all."""
    queue, pipeline = scripted_run.bus.queue(name), scripted_run.bus.connection.pipeline()
    for number in range(FOREIGN):
        queue.enqueue_call(
            "os.mkdir", args=(str(scripted_run.folder / "made"),), job_id=f"theirs-{number}", pipeline=pipeline
        )
        for kind, mapping in (
            ("pickled", {"data": PICKLED, "status": "queued", "origin": name}),
            ("garbage", {"data": b"?", "status": "asleep", "created_at": "yesterday", "timeout": "soon"}),
        ):
            pipeline.hset(f"rq:job:{kind}-{number}", mapping=mapping)
            pipeline.rpush(queue.key, f"{kind}-{number}")
        pipeline.rpush(queue.key, f"nothing-{number}")
    pipeline.execute()


@pytest.mark.slow
@pytest.mark.parametrize("queue", [TRIALS, REQUESTS])
def test_queue_full_of_foreign_jobs_is_refused_in_one_line_and_the_runs_own_gets_through(
    queue: str, scripted_run: ForkedRun
) -> None:
    said: list[str] = []
    crowd(scripted_run, queue)
    send(scripted_run.bus, "idea", "try a wider MLP", request="idea-1")

    def day() -> Iterator[None]:
        yield from until(lambda: "1 discard" in scripted_run.output())
        with JournalReader(scripted_run.journal) as history:
            said.append(now(history, scripted_run.bus).foreign or "")

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    lines = [line for line in scripted_run.output().splitlines() if "not from this run" in line]
    assert f"{3 * FOREIGN} jobs in the queue {queue} are not from this run and were refused. Next: find" in said[0]
    assert len(lines) == 1
    assert not (scripted_run.folder / "made").exists()
    assert Job.fetch("theirs-0", connection=scripted_run.bus.connection).get_status() == "failed"
    assert scripted_run.row("SELECT kind FROM request") == ("idea",)
    assert_it_went_on(scripted_run, code)


@pytest.fixture
def set_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock of all processes of the run, by seconds; those that run notice at once."""
    offset, real_time, real_now = tmp_path / "offset", time.time, rq.utils.now

    def read_s() -> float:
        return float(offset.read_text())

    def change(by_s: float) -> None:
        offset.with_suffix(".new").write_text(str(by_s))
        offset.with_suffix(".new").replace(offset)

    change(0.0)
    monkeypatch.setattr(time, "time", lambda: real_time() + read_s())
    monkeypatch.setattr(rq.utils, "now", lambda: real_now() + timedelta(seconds=read_s()))
    return change


@pytest.mark.slow
def test_clock_that_is_set_three_hours_on_and_back_and_to_1970_decides_nothing_and_nobody_waits_for_it(
    scripted_run: ForkedRun, set_clock: Callable[[float], None]
) -> None:
    alarms: list[str | None] = []

    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        set_clock(3 * 3600.0)
        yield from until(lambda: "0-t4-a0 ok" in scripted_run.output())
        alarms.append(alarm_of(scripted_run))
        set_clock(-3 * 3600.0)
        yield from until(lambda: "1 discard" in scripted_run.output())
        alarms.append(alarm_of(scripted_run))

    first = scripted_run.run_researcher(2, meanwhile=day())
    set_clock(1000.0 - time.time())
    code = scripted_run.run_researcher(GOAL)

    assert first == 0, scripted_run.last_words()
    assert "the machine's clock went forward by 180 minutes; nothing is decided by that" in scripted_run.output()
    assert "the machine's clock was set back by 360 minutes; nothing is decided by that" in scripted_run.output()
    assert alarms == [None, None]
    assert scripted_run.row("SELECT max(attempt), max(faults) FROM trial") == (0, 0), "no attempt was lost"
    assert_it_went_on(scripted_run, code)


@pytest.mark.slow
def test_redis_that_is_away_for_long_is_said_in_the_journal_too_and_the_run_goes_on_when_it_is_back(
    run_alone: ForkedRun, own_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted_run, alarms, said = run_alone, list[str | None](), list[str]()
    monkeypatch.setenv("REDIS_URL", own_server.url)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(scripted_run.password_file))

    def day() -> Iterator[None]:
        yield from until(has_begun(scripted_run))
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGKILL)
        yield from until(lambda: len(held(scripted_run)) > 0)
        yield from until(lambda: bool(alarms.append(alarm_in_journal(scripted_run)) or alarms[-1]))
        said.append(status_of(scripted_run))
        own_server.revive()

    code = scripted_run.run_researcher(GOAL, meanwhile=day())

    address = own_server.url.rpartition("/")[0].rpartition("@")[2]
    assert f"Redis at {address}" in held(scripted_run)[0]
    assert f"ALARM no progress: Redis at {address}/0 does not answer" in said[0]
    assert "so the live status is unknown; all else is from the journal" in said[0]
    assert_it_went_on(scripted_run, code)


@pytest.fixture
def switch() -> Iterator[StopSwitch]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield StopSwitch()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def settings(scripted_run: ForkedRun, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a run in this process, with a run begun."""
    monkeypatch.setattr(context, "BACKOFFS", dict.fromkeys(context.BACKOFFS, Backoff(0.1, 60)))
    with opened(scripted_run, []):
        pass
    return Settings(
        redis_url=scripted_run.server.url, redis_password_file=scripted_run.password_file,
        subject_dir=scripted_run.subject, journal_dir=scripted_run.journal, data_dir=scripted_run.folder / "data",
        profile="cpu",
    )  # fmt: skip


class HeldOnce:
    """A run that finds no room, and ends when it is entered again."""

    entered = 0

    def __call__(self, _: PauseBackoffs) -> None:
        self.entered += 1
        if self.entered == 1:
            raise OSError(errno.ENOSPC, "No space left on device")


def test_pause_that_a_user_asked_for_outlives_a_bad_day(
    scripted_run: ForkedRun, settings: Settings, switch: StopSwitch
) -> None:
    with opened(scripted_run, []) as run_context:
        run_context.journal.pause(run_context.run, ASKED_TO_PAUSE)
    days = HeldOnce()

    run_through_outages(settings, days, switch)

    assert days.entered == 2
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
    assert run is not None
    assert run.pause == ASKED_TO_PAUSE


def test_held_run_takes_requests_and_tries_again_at_once_when_asked_to_resume(
    scripted_run: ForkedRun, settings: Settings, switch: StopSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "BACKOFFS", dict.fromkeys(context.BACKOFFS, Backoff(3600, 3600)))
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    idea, resume = send(scripted_run.bus, "idea", "try a wider MLP"), send(scripted_run.bus, "resume")
    days = HeldOnce()

    run_through_outages(settings, days, switch)

    assert days.entered == 2
    assert (wait_reply(scripted_run.bus, resume, 1) or "").startswith("going on; it was paused (the disk of ")
    assert (wait_reply(scripted_run.bus, idea, 1) or "").startswith("taken in")
    with JournalReader(scripted_run.journal) as history:
        assert [request.kind for request in history.requests()] == ["idea", "resume"]


@pytest.mark.parametrize("disk", ["journal"], indirect=True)
def test_held_run_whose_journal_takes_no_more_takes_a_stop_and_refuses_what_must_be_written_down(
    disk: Disk, scripted_run: ForkedRun, settings: Settings, switch: StopSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    disk.fill()
    idea, stop = send(scripted_run.bus, "idea", "try a wider MLP"), send(scripted_run.bus, "stop")

    with pytest.raises(Stopped, match="a request"):
        run_through_outages(settings, HeldOnce(), switch)
    disk.free()

    assert "it cannot be written down: the disk of" in (wait_reply(scripted_run.bus, idea, 1) or "")
    assert (wait_reply(scripted_run.bus, stop, 1) or "").startswith(
        "stopping now, though it cannot be written down: the disk of"
    )
    assert scripted_run.bus.queue(REQUESTS).is_empty()
    with JournalReader(scripted_run.journal) as history:
        assert history.requests() == []
