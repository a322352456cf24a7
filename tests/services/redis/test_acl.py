"""The stack's Redis users at work on a real server: whole trials and requests, and what each is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from rq import Queue, Worker
from rq.command import send_stop_job_command
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from researcher.errors import Rejected
from researcher.queues.dry_runs import DryRuns
from researcher.queues.requests import KINDS, RECEIVE, RequestWorker, cancel, send, wait_reply
from researcher.queues.trials import Absent, JobFault, TrialQueue, Waiting
from researcher.report.view import now
from services.machine.process import spawn
from services.machine.state import CHOICES_FILE, RunConfig
from services.redis.acl import DRY_RUN, REQUEST, SERVICES, TRIAL, acl_file
from services.redis.binary import choose_binary
from services.redis.server import RedisServer
from tests.fixtures.scripted_run import ScriptedRun
from tests.fixtures.trials import MakeSpec, wait_for
from tests.fixtures.warm_processes import completed
from trainer.jobs import (
    DRY_RUNS,
    REQUESTS,
    RUN_TRIAL,
    TRIALS,
    UNNAMED_GPU,
    DryRunSpec,
    LeaseStore,
    Outcome,
    RedisClient,
    Status,
    TrialResult,
    TrialSpec,
    WorkerRole,
    connect,
    profile_named,
    trial_id,
    worker_key,
    worker_names_key,
)
from trainer.worker.heartbeat import IDLE, Heartbeat

PASSWORDS = {name: f"password-of-{name}" for name in (*SERVICES, "test")}
AN_IDEA = "idea-0123456789ab"


class Guarded:
    """A server with the shipped users, and one more, `test`, that may do everything."""

    def __init__(self, port: int, folder: Path) -> None:
        self._port = port
        self._folder = folder
        self._open: list[redis.Redis] = []
        self.bus = self.bus_of("test")

    def url(self, user: str) -> str:
        return f"redis://{user}@127.0.0.1:{self._port}/0"

    def password_file(self, user: str) -> Path:
        path = self._folder / f"{user}.password"
        path.write_text(PASSWORDS[user])
        return path

    def bus_of(self, user: str) -> RedisClient:
        self._open.append(connect(self.url(user), password=PASSWORDS.get(user, "any"), patient=False))
        return RedisClient(self._open[-1])

    def refusals(self) -> list[str]:
        """What the server refused anybody so far."""
        entries = self.bus.connection.acl_log()
        return [f"{entry['username']}: {entry['reason']} {entry['object']}" for entry in entries]

    def close(self) -> None:
        for connection in self._open:
            connection.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("server")
    users = folder / "users.acl"
    users.write_text(acl_file(PASSWORDS) + f"user test on >{PASSWORDS['test']} ~* &* +@all\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = choose_binary(None, (7, 0)).path
    with (folder / "log").open("wb") as log:
        argv = [binary, "--port", str(port), "--bind", "127.0.0.1", "--aclfile", users, "--save", "", "--dir", folder]
        process = spawn(argv, output=log, cwd=folder)
    server = Guarded(port, folder)
    try:
        wait_for(lambda: answers(server.bus.connection), 20)
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(10)


def answers(connection: redis.Redis) -> bool:
    try:
        return bool(connection.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture
def server(running: Guarded) -> Guarded:
    running.bus.connection.flushall()
    running.bus.connection.acl_log_reset()
    return running


Start = Callable[[], subprocess.Popen[str]]


@pytest.fixture
def start(server: Guarded, data: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m trainer` as the trainer's user, and ends those that still run."""
    started: list[subprocess.Popen[str]] = []

    def begin() -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "trainer", "--single-host", "--name", f"trainer-{len(started)}"]
        argv += ["--redis", server.url("trainer"), "--password-file", str(server.password_file("trainer"))]
        argv += ["--data", str(data), "--trials", str(tmp_path / "trials"), "--work", str(tmp_path / "work")]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.terminate()
        print(process.communicate(timeout=20)[0])


@pytest.fixture
def dry_run_worker(server: Guarded, data: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`python -m trainer --dry-runs` as the dry-run worker's user."""
    argv = [sys.executable, "-m", "trainer", "--dry-runs", "--single-host", "--name", "dry-run-worker-0"]
    argv += ["--redis", server.url("dry-run-worker"), "--password-file", str(server.password_file("dry-run-worker"))]
    argv += ["--data", str(data), "--work", str(tmp_path / "dry-runs")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    yield process
    process.terminate()
    print(process.communicate(timeout=20)[0])


@pytest.mark.slow
def test_a_candidate_gets_its_dry_run_and_that_worker_works_nothing_else(
    server: Guarded, dry_run_worker: subprocess.Popen[str], spec: MakeSpec
) -> None:
    bus, trial = server.bus_of("researcher"), spec("tiny")
    said: list[str] = []
    asking = DryRuns(bus, profile_named("cpu"), lambda: trial.files, said.append)
    wait_for(lambda: bus.workers(WorkerRole.DRY_RUN_WORKER) != (), 30)
    TrialQueue(bus).hand_out(trial)
    foreign = server.bus.queue(DRY_RUNS)
    foreign.enqueue_call(RUN_TRIAL, args=(trial.to_json(),), job_id=f"dry-run-{32 * '0'}")

    wrong = trial.files["train.py"].replace("model(x, y)", "model(x, y, x, x, x)")
    assert wrong != trial.files["train.py"]
    asking.reject_failing(trial.files["train.py"], trial.files["train.py"], list)
    with pytest.raises(Rejected, match="positional arguments"):
        asking.reject_failing(wrong, trial.files["train.py"], list)

    assert said == []
    wait_for(lambda: foreign.fetch_job(f"dry-run-{32 * '0'}").is_failed, 10)
    assert bus.queue(TRIALS).job_ids == [trial.id], "a trial is none of its business"
    dry_run_worker.terminate()
    assert dry_run_worker.wait(15) == 0
    assert bus.workers(WorkerRole.DRY_RUN_WORKER) == ()
    assert server.refusals() == []


@pytest.fixture
def trials(server: Guarded) -> TrialQueue:
    return TrialQueue(server.bus_of("researcher"))


def outcome(trials: TrialQueue, spec: TrialSpec) -> TrialResult | Absent | JobFault:
    """What becomes of a trial, waited for as the loop does."""
    found: list[TrialResult | Absent | JobFault] = []

    def is_over() -> bool:
        looked = trials.poll(spec.id, spec.digest)
        if isinstance(looked, Waiting):
            trials.wait(spec.id)
            return False
        found.append(looked)
        return True

    wait_for(is_over, 40)
    return found[0]


def wait_until_training(server: Guarded, spec: TrialSpec) -> None:
    def seen() -> list[tuple[str | None, str]]:
        return [(worker.trial, worker.status.message) for worker in server.bus.workers(WorkerRole.TRAINER)]

    wait_for(lambda: (spec.id, "timed") in seen(), 30)


@pytest.mark.parametrize("user", ["researcher", "trainer"])
def test_who_needs_a_gpu_changes_its_lease(server: Guarded, user: str) -> None:
    store = LeaseStore(server.bus_of(user).connection, UNNAMED_GPU)

    store.change(lambda lease, _: lease.with_llm(4000))

    assert store.read().lease.llm_mib == 4000


def test_a_trial_goes_out_and_its_result_comes_back(
    server: Guarded, start: Start, trials: TrialQueue, spec: MakeSpec
) -> None:
    bus = server.bus_of("researcher")
    trainer, wanted = start(), spec("tiny")

    for _ in range(2):
        trials.hand_out(wanted)
    result = outcome(trials, wanted)

    assert isinstance(result, TrialResult)
    assert result.outcome is Outcome.OK
    own_names = server.bus_of("trainer").worker_names(WorkerRole.TRAINER)
    assert [worker.worker for worker in bus.workers(WorkerRole.TRAINER)] == own_names != []
    bus.read_progress(wanted.id)
    trials.forget(wanted.id)
    assert trials.poll(wanted.id, wanted.digest) == Absent()
    trainer.terminate()
    assert trainer.wait(10) == 0
    assert server.refusals() == []


@pytest.mark.slow
def test_a_trial_is_stopped_and_another_preempted(
    server: Guarded, start: Start, trials: TrialQueue, spec: MakeSpec
) -> None:
    trainer, unwanted, last = start(), spec("hangs_in_training"), spec("hangs_in_training", trial="e-2-t0-a0")
    trials.hand_out(unwanted)
    wait_until_training(server, unwanted)

    send_stop_job_command(server.bus.connection, unwanted.id, serializer=JSONSerializer)
    assert outcome(trials, unwanted) == JobFault("the job is stopped: Job stopped by user, work-horse terminated.")
    trials.forget(unwanted.id)
    trials.hand_out(last)
    wait_until_training(server, last)
    trainer.terminate()

    result = outcome(trials, last)
    assert isinstance(result, TrialResult)
    assert result.outcome is Outcome.PREEMPTED
    assert trainer.wait(10) == 0
    assert server.refusals() == []


@pytest.mark.slow
def test_a_trial_outlives_a_server_that_has_no_memory(
    server: Guarded, start: Start, trials: TrialQueue, spec: MakeSpec
) -> None:
    trainer, running, later = start(), spec("tiny"), spec("tiny", trial="e-1-t1-a2")
    trials.hand_out(running)
    wait_for(lambda: job_of(server, running).get_status() is JobStatus.STARTED, 30)
    with no_memory(server, refusals=6):
        pass

    result = outcome(trials, running)
    assert isinstance(result, TrialResult)
    assert result.outcome is Outcome.OK
    with no_memory(server, refusals=3), pytest.raises(redis.OutOfMemoryError):
        trials.hand_out(later)
    trials.hand_out(later)
    assert isinstance(outcome(trials, later), TrialResult)
    assert trainer.poll() is None, "it waits, and is not started again"


@contextmanager
def no_memory(server: Guarded, refusals: int) -> Iterator[None]:
    """The server refuses writes until it has refused so many."""
    connection = server.bus.connection

    def refused() -> int:
        return int(connection.info("errorstats").get("errorstat_OOM", {}).get("count", 0))

    before = refused()
    connection.config_set("maxmemory", 1)
    try:
        yield
        wait_for(lambda: refused() - before >= refusals, 60)
    finally:
        connection.config_set("maxmemory", 0)


@pytest.mark.slow
def test_what_a_killed_trainer_held_is_taken_over(
    server: Guarded, start: Start, trials: TrialQueue, spec: MakeSpec
) -> None:
    killed, held, taken = start(), spec("hangs_in_training"), spec("tiny", trial="e-1-t1-a2")
    trials.hand_out(held)
    wait_until_training(server, held)
    killed.kill()
    killed.wait(10)
    trials.hand_out(taken)
    take(server.bus.queue(TRIALS))

    start()

    assert isinstance(outcome(trials, held), JobFault)
    trials.forget(held.id)
    assert isinstance(outcome(trials, taken), TrialResult)
    assert server.refusals() == []


def test_a_trainer_clears_away_what_workers_of_other_hosts_left(
    server: Guarded, start: Start, trials: TrialQueue, spec: MakeSpec
) -> None:
    queue = server.bus.queue(TRIALS)
    abandoned, stuck = spec("tiny"), spec("tiny", trial="e-1-t1-a2")
    trials.hand_out(abandoned)
    begin_and_vanish(take(queue))
    trials.hand_out(stuck)
    take(queue)
    queue.connection.set(queue.intermediate_queue.get_first_seen_key(stuck.id), 1.0)
    for name, lives in (("trainer-elsewhere", True), ("trainer-gone", False)):
        worker = Worker([queue], connection=queue.connection, name=name, serializer=JSONSerializer)
        worker.register_birth()
        queue.connection.hset(worker.key, "hostname", "another-host")
        if not lives:
            queue.connection.delete(worker.key)

    start()

    for lost in (abandoned, stuck):
        wait_for(lambda lost=lost: job_of(server, lost).get_status() is JobStatus.FAILED, 20)
        assert isinstance(outcome(trials, lost), JobFault)
        trials.forget(lost.id)
    assert server.refusals() == []


def test_the_researcher_gives_up_an_abandoned_trial_and_one_that_the_queue_has_lost(
    server: Guarded, trials: TrialQueue, spec: MakeSpec
) -> None:
    abandoned, lost = spec("tiny"), spec("tiny", trial="e-1-t1-a2")
    trials.hand_out(abandoned)
    begin_and_vanish(take(server.bus.queue(TRIALS)))
    trials.hand_out(lost)
    server.bus.connection.delete(server.bus.queue(TRIALS).key)

    assert isinstance(trials.poll(abandoned.id, abandoned.digest), JobFault)
    trials.forget(abandoned.id)
    assert trials.poll(lost.id, lost.digest) == Absent()

    assert server.bus.connection.keys("rq:job:*") == []
    assert server.refusals() == []


def test_requests_are_asked_served_answered_and_withdrawn(server: Guarded) -> None:
    bus = server.bus_of("researcher")
    left = send(bus, "pause")
    take(server.bus.queue(REQUESTS))

    request_worker = RequestWorker.open(bus, receive)
    good, bad = send(bus, "idea", "wider"), send(bus, "submit", "broken")
    request_worker.serve()
    late = send(bus, "stop")

    assert [wait_reply(bus, request, 1) for request in (left, good)] == ["taken in", "taken in"]
    assert wait_reply(bus, bad, 1) == "refused: ValueError: broken"
    assert cancel(bus, late)
    for who in ("researcher", "llm"):
        bus.publish_status(who, Status.working("serving"))
        assert bus.doing(who) == Status.working("serving")
    assert server.refusals() == []


def test_a_client_asks_reads_the_answer_and_takes_back_what_nobody_answers(server: Guarded) -> None:
    client = server.bus_of("client")
    request_worker = RequestWorker.open(server.bus_of("researcher"), receive)

    asked = [send(client, kind, "body") for kind in KINDS]
    request_worker.serve()
    late = send(client, "stop")

    assert [wait_reply(client, request, 1) for request in asked] == ["taken in"] * len(KINDS)
    assert wait_reply(client, late, 1) is None
    assert cancel(client, late)
    now(None, client), client.read_progress("e-1-t0-a0")
    assert server.refusals() == []


@pytest.mark.parametrize("role", WorkerRole)
def test_a_worker_shows_itself_is_seen_by_its_health_check_and_forgets_the_vanished(
    server: Guarded, role: WorkerRole
) -> None:
    own = server.bus_of(role)
    worker, killed = (Heartbeat(own.connection, f"{role}-{number}", role=role) for number in range(2))
    for each in (worker, killed):
        each.show(IDLE)
    server.bus.connection.delete(worker_key(role, killed.worker))

    worker.forget_vanished()

    assert own.worker(role, worker.worker) is not None
    for reader in (own, server.bus_of("researcher"), server.bus_of("client")):
        assert reader.worker_names(role) == [worker.worker]
        assert len(reader.workers(role)) == 1
    worker.fade()
    assert server.bus.workers(role) == ()
    assert server.refusals() == []


@pytest.mark.parametrize("idea", [b"wider", "größer …".encode(), b"\xff\n[b]$x"])
def test_overnight_asks_as_a_client_where_no_run_is(server: Guarded, tmp_path: Path, idea: bytes) -> None:
    researcher = server.bus_of("researcher")
    request_worker = RequestWorker.open(researcher, receive)
    researcher.publish_status("researcher", Status.working("measuring"))
    door = {"REDIS_URL": server.url("client"), "REDIS_PASSWORD_FILE": str(server.password_file("client"))}
    argv = [sys.executable, "-m", "services.cli", "idea", os.fsdecode(idea), "--state", str(tmp_path)]

    with subprocess.Popen(argv, env=os.environ | door, stdout=subprocess.PIPE, text=True) as asking:
        wait_for(lambda: request_worker.queues[0].count > 0, 30)
        request_worker.serve()
        said, _ = asking.communicate(timeout=30)

    assert said.strip() == "taken in"
    assert server.refusals() == []


def test_what_a_client_may_write_cannot_move_the_desk_to_anything_else(
    server: Guarded, trials: TrialQueue, spec: MakeSpec, tmp_path: Path
) -> None:
    client, waiting, witness = server.bus_of("client"), spec("tiny"), tmp_path / "witness"
    trials.hand_out(waiting)
    forge(client, "idea-00000000000a", "os.mkdir", str(witness))
    for number, field in enumerate(("success", "failure", "stopped")):
        forge(
            client,
            f"idea-00000000000{number}",
            RECEIVE,
            "x",
            "idea",
            "wider",
            **{f"{field}_callback_name": "os.getpid"},
        )
    forge(client, "idea-00000000000b", RECEIVE, "x", "idea", "wider", group_id="g")
    forge(client, "idea-00000000000c", RECEIVE, "x", "idea", "wider", repeats_left="3", repeat_intervals="[0]")
    forge(client, "idea-00000000000d", RECEIVE, "x", "idea", "wider", rate_limit_key="k", rate_limit_concurrency="1")
    forge(client, "idea-00000000000e", RECEIVE, "x", "idea", "wider", dependency_ids=json.dumps([waiting.id]))
    forge(client, "idea-00000000000f", "os.mkdir", str(witness), origin=TRIALS)
    client.connection.rpush("rq:queue:requests", waiting.id, "rubbish")

    RequestWorker.open(server.bus_of("researcher"), receive).serve()

    assert not witness.exists()
    assert trials.poll(waiting.id, waiting.digest) == Waiting()
    assert server.bus.connection.llen("rq:queue:requests:intermediate") == 0
    for number in "012bcde":
        assert wait_reply(client, f"idea-00000000000{number}", 1) == "taken in"
    assert "is no work of this process" in str(wait_reply(client, "idea-00000000000a", 1))


def test_a_run_of_the_researcher_and_a_look_at_it_are_refused_nothing(server: Guarded, tmp_path: Path) -> None:
    everything = RedisServer(server.url("test"), PASSWORDS["test"], None, "", None, "given")
    scripted_run = ScriptedRun(tmp_path, everything)
    try:
        scripted_run.start_trainer()
        door = {"REDIS_URL": server.url("researcher"), "REDIS_PASSWORD_FILE": str(server.password_file("researcher"))}
        researcher = scripted_run.start_researcher(**door, EXPERIMENTS=3, PROPOSER="hybrid")
        assert researcher.wait(90) == 0, scripted_run.output()
        choices = RunConfig("cpu", None, str(scripted_run.subject), None)
        (scripted_run.journal / CHOICES_FILE).write_text(json.dumps(dataclasses.asdict(choices)))
        shown = completed("services.cli", "status", "--state", str(tmp_path), env=os.environ | door)
        assert shown.returncode == 0, shown.stderr
        assert server.refusals() == []
    finally:
        scripted_run.end()


def forge(client: RedisClient, request: str, function: str, *arguments: str, **fields: str) -> None:
    """Write a request by hand, with whatever RQ would read in it."""
    work = json.dumps([function, None, arguments, {}])
    client.connection.hset(f"rq:job:{request}", mapping={"data": work, "origin": REQUESTS, "status": "queued"} | fields)
    client.connection.rpush("rq:queue:requests", request)


def receive(request: str, kind: str, body: str) -> str:
    if body == "broken":
        raise ValueError(body)
    return "taken in"


def take(queue: Queue) -> Job:
    """Take the next job as a worker does, and be silent."""
    taken = queue.connection.lmove(queue.key, queue.intermediate_queue.key)
    return Job.fetch(taken.decode(), connection=queue.connection, serializer=JSONSerializer)


def begin_and_vanish(job: Job) -> None:
    with job.connection.pipeline() as pipeline:
        job.prepare_for_execution("trainer-gone", pipeline)
        Execution.create(job, 0, pipeline, worker_name="trainer-gone")
        pipeline.lrem("rq:queue:trials:intermediate", 1, job.id)
        pipeline.execute()


def job_of(server: Guarded, spec: TrialSpec) -> Job:
    return Job.fetch(spec.id, connection=server.bus.connection, serializer=JSONSerializer)


EVERYBODY_IS_REFUSED = [
    "FLUSHALL",
    "FLUSHDB",
    "KEYS *",
    "RANDOMKEY",
    "CONFIG GET *",
    "CONFIG SET maxmemory 1",
    "ACL LIST",
    "ACL SETUSER trainer on",
    "MODULE LIST",
    "SHUTDOWN NOSAVE",
    "SAVE",
    "REPLICAOF NO ONE",
    "MONITOR",
    "CLIENT LIST",
    "CLIENT KILL ID 1",
    "CLIENT PAUSE 1",
    "CLIENT NO-EVICT on",
    # running, loading or keeping a script
    "SCRIPT FLUSH",
    "SCRIPT LOAD return(1)",
    f"SCRIPT EXISTS {40 * '0'}",
    "SCRIPT DEBUG yes",
    "EVAL return(1) 0",
    "EVAL_RO return(1) 0",
    f"EVALSHA {40 * '0'} 0",
    f"EVALSHA_RO {40 * '0'} 0",
    f"EVALSHA {40 * '0'} 2 rq:job:e-1-t0-a0 rq:queue:trials",
    f"EVALSHA {40 * '0'} 2 rq:job:{AN_IDEA} rq:queue:requests",
    "FCALL f 0",
    "FCALL_RO f 0",
    "FUNCTION LIST",
    "FUNCTION LOAD #!lua",
    "FUNCTION RESTORE x",
    "FUNCTION FLUSH",
    "MODULE LOAD /tmp/x.so",
    # stopping, slowing or watching the server for all
    "DEBUG SLEEP 10",
    "DEBUG RELOAD",
    "BGSAVE",
    "BGREWRITEAOF",
    "REPLICAOF 127.0.0.1 1",
    "FAILOVER",
    "PSYNC ? -1",
    "MIGRATE 127.0.0.1 1 rq:job:e-1-t0-a0 0 10",
    "WAIT 1 0",
    "SORT rq:queue:requests",
    "SORT rq:queue:trials BY nosort GET #",
    "DUMP rq:job:e-1-t0-a0",
    "OBJECT FREQ rq:queue:trials",
    "MEMORY PURGE",
    "MEMORY STATS",
    "LATENCY RESET",
    "SLOWLOG GET",
    "PUBSUB CHANNELS",
    "DBSIZE",
    "CLIENT TRACKING ON BCAST",
    "CLIENT UNBLOCK 1 ERROR",
    "CLIENT PAUSE 100000 ALL",
    "CLIENT KILL USER researcher",
    # one large value
    f"SETRANGE rq:job:{AN_IDEA} 500000000 x",
    "APPEND rq:queue:requests x",
    "SELECT 1",
    "SWAPDB 0 1",
    "GET else",
    "SET else 1",
    "RENAME rq:queue:trials rq:queue:requests",
    "COPY rq:results:e-1-t0-a0 rq:results:e-2-t0-a0",
    "RESTORE rq:results:e-1-t0-a0 0 x",
    "PUBLISH rq:pubsub:trainer-0 {}",
    "PSUBSCRIBE *",
    "SUBSCRIBE rq:pubsub:researcher-0",
    "SET rq:suspended 1",
    "HSET rq:job:else data x",
]
REFUSED = {
    "trainer": [
        # asking for something, or answering in the researcher's name
        "RPUSH rq:queue:requests x",
        f"LPUSH rq:queue:requests {AN_IDEA}",
        f"HSET rq:job:{AN_IDEA} data x",
        f"HGETALL rq:job:{AN_IDEA}",
        f"XADD rq:results:{AN_IDEA} * type 1",
        "LRANGE rq:queue:requests 0 -1",
        "BLMOVE rq:queue:trials rq:queue:requests LEFT RIGHT 0.1",
        "HSET rq:worker:researcher-0 state busy",
        "SET overnight:doing:researcher x",
        "GET overnight:doing:researcher",
        # speaking in a dry-run worker's name, or making another key where the index is
        "HSET overnight:worker:dry-run-worker:dry-run-worker-0 phase idle",
        "DEL overnight:worker:dry-run-worker:dry-run-worker-0",
        "SADD overnight:workers:dry-run-worker x",
        "SMEMBERS overnight:workers:dry-run-worker",
        "HSET overnight:workers:trainer phase idle",
        "DEL overnight:workers:trainer",
        "SADD overnight:worker:trainer:trainer-0 x",
        "HSET overnight:trainer phase idle",
        "SCAN 0",
        "SCRIPT KILL",
    ],
    "researcher": [
        # writing a result, taking a trial away from a trainer, speaking in its name
        "XADD rq:results:e-1-t0-a0 * type 1",
        "XADD rq:results:e-1-t0-a12345678901 * type 1",
        "HSET rq:results:e-1-t0-a0 type 1",
        "ZADD rq:finished:trials 1 e-1-t0-a0",
        "ZADD rq:wip:trials 1 e-1-t0-a0:x",
        "BLMOVE rq:queue:trials rq:queue:trials:intermediate LEFT RIGHT 0.1",
        "LMOVE rq:queue:trials rq:queue:requests LEFT RIGHT",
        "HSET rq:worker:trainer-0 state busy",
        "DEL rq:worker:trainer-0",
        "SREM rq:workers:trials rq:worker:trainer-0",
        *(
            command
            for role in WorkerRole
            for command in (
                f"HSET overnight:worker:{role}:{role}-0 phase idle",
                f"DEL overnight:worker:{role}:{role}-0",
                f"SADD overnight:workers:{role} x",
                f"SREM overnight:workers:{role} {role}-0",
            )
        ),
        f"XADD rq:results:dry-run-{32 * '0'} * type 1",
        "BLMOVE rq:queue:dry-runs rq:queue:trials LEFT RIGHT 0.1",
        "HSET overnight:trial:e-1-t0-a0 phase timed",
        "INCR overnight:trainer:token",
        "SADD rq:queues x",
        "SCRIPT KILL",
    ],
    "dry-run-worker": [
        # anything of a trial, a request, a trainer's heartbeat
        "BLMOVE rq:queue:trials rq:queue:dry-runs LEFT RIGHT 0.1",
        "HGETALL rq:job:e-1-t0-a0",
        "XADD rq:results:e-1-t0-a0 * type 1",
        f"HGETALL rq:job:{AN_IDEA}",
        f"HGETALL rq:job:dry-run-{12 * '0'}",
        "HSET rq:worker:trainer-0 state busy",
        "HSET overnight:worker:trainer:trainer-0 phase idle",
        "DEL overnight:worker:trainer:trainer-0",
        "SREM overnight:workers:trainer trainer-0",
        "HSET overnight:trial:e-1-t0-a0 phase timed",
        "SET overnight:doing:dry_runs x",
        "SCAN 0",
        "SCRIPT KILL",
    ],
    "client": [
        # handing out a trial, changing one or its result, answering a request, taking one off another's hands
        "RPUSH rq:queue:trials e-1-t0-a0",
        "HSET rq:job:e-1-t0-a0 data x",
        "HGETALL rq:job:e-1-t0-a0",
        "DEL rq:job:e-1-t0-a0",
        "LREM rq:queue:trials 1 e-1-t0-a0",
        "XADD rq:results:e-1-t0-a0 * type 1",
        "XREVRANGE rq:results:e-1-t0-a0 + -",
        f"XADD rq:results:{AN_IDEA} * type 1",
        "LRANGE rq:queue:requests 0 -1",
        "LMOVE rq:queue:requests rq:queue:requests:intermediate LEFT RIGHT",
        "HSET rq:worker:researcher-0 state busy",
        "SET overnight:doing:researcher x",
        "HSET overnight:worker:trainer:trainer-0 phase idle",
        "SREM overnight:workers:trainer trainer-0",
        "HSET overnight:trial:e-1-t0-a0 phase timed",
        f"HGETALL rq:job:dry-run-{32 * '0'}",
        # many commands at once, or one that walks over what a client stored
        "MULTI",
        "EXEC",
        f"WATCH rq:job:{AN_IDEA}",
        "SCAN 0",
        f"HGETALL rq:job:{AN_IDEA}",
        f"HKEYS rq:job:{AN_IDEA}",
        f"LREM rq:queue:requests 0 {AN_IDEA}",
        f"LPOS rq:queue:requests {AN_IDEA}",
        f"LINSERT rq:queue:requests BEFORE {AN_IDEA} x",
        f"MEMORY USAGE rq:job:{AN_IDEA} SAMPLES 0",
        "SCRIPT KILL",
        # a key of another type where the researcher's is, or one that nobody looks for
        "HSET rq:queue:requests x y",
        f"RPUSH rq:job:{AN_IDEA} x",
        "SADD rq:queues x",
        "DEL rq:queue:requests",
        f"DEL rq:job:{AN_IDEA}",
        f"HSET rq:job:{'x' * 1000}-{12 * '0'} data x",
        "HSET rq:job:other-0123456789ab data x",
    ],
    "health": [
        "SCAN 0",
        "INFO",
        "CLIENT INFO",
        "HGETALL overnight:worker:trainer:trainer-0",
        "SMEMBERS overnight:workers:trainer",
        "GET overnight:doing:researcher",
        "LRANGE rq:queue:trials 0 -1",
        "EXISTS rq:suspended",
    ],
}
REFUSED["dashboard"] = REFUSED["client"]


def test_the_keys_of_workers_have_the_names_that_stand_in_the_refused_commands() -> None:
    commands = {command for own in REFUSED.values() for command in own}

    for role in (WorkerRole.TRAINER, WorkerRole.DRY_RUN_WORKER):
        assert f"HSET {worker_key(role, f'{role}-0')} phase idle" in commands
        assert f"SADD {worker_names_key(role)} x" in commands


@pytest.mark.parametrize(
    ("user", "command"),
    [(user, command) for user, own in REFUSED.items() for command in EVERYBODY_IS_REFUSED + own],
)
def test_user_is_refused(server: Guarded, user: str, command: str) -> None:
    with pytest.raises(redis.ResponseError, match=r"(?i)permission|command not allowed"):
        server.bus_of(user).connection.execute_command(*command.split())


def test_health_may_ping_with_any_password_and_the_others_need_theirs(server: Guarded) -> None:
    assert server.bus_of("health").connection.ping()
    for user in (*SERVICES, "default"):
        with pytest.raises(redis.AuthenticationError):
            connect(server.url(user), password="wrong", patient=False).ping()
    with pytest.raises(redis.AuthenticationError):
        connect(server.url("").replace("@", ""), patient=False).ping()


@given(st.from_regex(r"[A-Za-z0-9_-]+", fullmatch=True), *[st.integers(0, 10**14)] * 3)
def test_no_id_of_a_trial_passes_for_a_requests(tag: str, experiment: int, number: int, attempt: int) -> None:
    trial = trial_id(tag, experiment, number, attempt)

    assert fnmatchcase(trial, TRIAL)
    assert not fnmatchcase(trial, REQUEST)


@given(st.sampled_from(KINDS), st.from_regex(r"[0-9a-f]{12}", fullmatch=True))
def test_no_id_of_a_request_passes_for_a_trials(kind: str, number: str) -> None:
    assert fnmatchcase(f"{kind}-{number}", REQUEST)
    assert not fnmatchcase(f"{kind}-{number}", TRIAL)


@given(st.text())
def test_no_id_of_a_dry_run_passes_for_anothers(text: str) -> None:
    dry_run = DryRunSpec("cpu", {"train.py": text}).id

    assert [pattern for pattern in (DRY_RUN, REQUEST, TRIAL) if fnmatchcase(dry_run, pattern)] == [DRY_RUN]


def test_the_file_holds_no_password() -> None:
    assert not [secret for secret in PASSWORDS.values() if secret in acl_file(PASSWORDS)]
