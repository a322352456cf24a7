"""The researcher's side of the trial queue: handed out once, answered by the right work only, never lost silently."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rq import SimpleWorker
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from researcher.queues.trials import Absent, JobFault, TrialQueue, Waiting
from services.redis.server import RedisServer
from tests.doubles.scripted_trainer import ScriptedJob
from trainer.jobs import TRIALS, Kind, RedisClient, TrialResult, TrialSpec, connect, files_digest, profile_named

CPU = profile_named("cpu")


def spec(trial: str = "t-1-t0-a0", level: str = "1.5") -> TrialSpec:
    files = {"train.py": f"LEVEL = {level}\n"}
    return TrialSpec(trial, Kind.FIRST, "cpu", files, files_digest(files), "d", 3, CPU.budget, CPU.caps)


@pytest.fixture
def bus(server: RedisServer) -> Iterator[RedisClient]:
    made = RedisClient(connect(server.url, password=server.password))
    made.connection.flushall()
    yield made
    made.connection.flushall()
    made.connection.close()


def work_off(bus: RedisClient) -> None:
    worker = SimpleWorker([TRIALS], connection=bus.connection, serializer=JSONSerializer, job_class=ScriptedJob)
    worker.work(burst=True, logging_level="WARNING")


def test_a_trial_handed_out_twice_is_run_once_and_answers_its_own_work(bus: RedisClient) -> None:
    queue = TrialQueue(bus)
    for _ in range(2):
        queue.hand_out(spec())

    assert bus.queue(TRIALS).get_job_ids() == ["t-1-t0-a0"]
    assert queue.poll("t-1-t0-a0", spec().digest) == Waiting()
    work_off(bus)

    answer = queue.poll("t-1-t0-a0", spec().digest)
    assert isinstance(answer, TrialResult)
    assert answer.val_bpb is not None


def test_an_answer_to_other_work_of_the_same_name_is_a_fault(bus: RedisClient) -> None:
    queue = TrialQueue(bus)
    queue.hand_out(spec(level="1.1"))
    work_off(bus)

    assert isinstance(queue.poll("t-1-t0-a0", spec(level="1.5").digest), JobFault)


def test_an_unknown_trial_is_absent_and_a_forgotten_one_too(bus: RedisClient) -> None:
    queue = TrialQueue(bus)
    assert queue.poll("t-1-t0-a0", "d") == Absent()

    queue.hand_out(spec())
    work_off(bus)
    queue.forget("t-1-t0-a0")
    queue.forget("t-1-t0-a0")

    assert queue.poll("t-1-t0-a0", spec().digest) == Absent()


def test_a_job_that_stands_in_no_list_is_noticed_and_handed_out_again(bus: RedisClient) -> None:
    queue = TrialQueue(bus)
    queue.hand_out(spec())
    bus.connection.delete(bus.queue(TRIALS).key)

    assert queue.poll("t-1-t0-a0", spec().digest) == Absent()

    queue.hand_out(spec())
    work_off(bus)
    assert isinstance(queue.poll("t-1-t0-a0", spec().digest), TrialResult)


def test_a_failed_job_is_a_fault_with_its_last_line(bus: RedisClient) -> None:
    queue = TrialQueue(bus)
    broken = spec(level="none")
    queue.hand_out(broken)
    work_off(bus)

    found = queue.poll("t-1-t0-a0", broken.digest)

    assert isinstance(found, JobFault)
    assert "a scripted subject has a LEVEL" in found.reason


def test_a_trial_whose_worker_vanished_is_given_up_when_its_lease_ends_and_can_be_forgotten(bus: RedisClient) -> None:
    queue = TrialQueue(bus)
    queue.hand_out(spec())
    job = start_and_vanish(bus, lease_s=0)

    found = queue.poll(job.id, spec().digest)

    assert isinstance(found, JobFault)
    assert "its lease has ended" in found.reason
    assert job.get_status(refresh=True) is JobStatus.STARTED, "looking writes nothing"
    queue.forget(job.id)
    assert queue.poll(job.id, spec().digest) == Absent()


def test_a_trial_whose_lease_runs_is_waited_for(bus: RedisClient) -> None:
    queue = TrialQueue(bus)
    queue.hand_out(spec())
    job = start_and_vanish(bus, lease_s=20)

    assert queue.poll(job.id, spec().digest) == Waiting()


def start_and_vanish(bus: RedisClient, lease_s: int) -> Job:
    """Take the trial and begin it as a worker does, then say no more."""
    queue = bus.queue(TRIALS)
    taken = queue.dequeue_any([queue], None, bus.connection, serializer=JSONSerializer)
    assert taken is not None
    job, _ = taken
    with bus.connection.pipeline() as pipeline:
        job.prepare_for_execution("trainer-gone", pipeline)
        Execution.create(job, lease_s, pipeline, worker_name="trainer-gone")
        pipeline.execute()
    return job
