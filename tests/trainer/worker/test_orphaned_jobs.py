"""What a dead worker held is given back at once; what a living one holds is left alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from rq import Queue, Worker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from tests.fixtures.servers import open_server
from trainer.jobs import TRIALS, RedisClient, connect
from trainer.worker.orphaned_jobs import take_over


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisClient]:
    with open_server(tmp_path_factory.mktemp("server")) as server:
        made = RedisClient(connect(server.url, password=server.password))
        yield made
        made.connection.close()


@pytest.fixture
def queue(bus: RedisClient) -> Queue:
    bus.connection.flushall()
    return bus.queue(TRIALS)


def register(queue: Queue, name: str, pid: int) -> None:
    worker = Worker([queue], connection=queue.connection, name=name, serializer=JSONSerializer)
    worker.register_birth()
    queue.connection.hset(worker.key, "pid", pid)


def started_by(queue: Queue, worker: str) -> Job:
    job = queue.enqueue_call("x.y", job_id="t-1-t0-a0", result_ttl=-1, failure_ttl=-1)
    queue.connection.delete(queue.key)
    job.set_status(JobStatus.STARTED)
    queue.connection.hset(job.key, "worker_name", worker)
    queue.connection.zadd(queue.started_job_registry.key, {f"{job.id}:e1": 2e10})
    return job


@pytest.fixture
def gone() -> int:
    """The pid of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait(10)
    return process.pid


def test_a_started_trial_of_a_dead_worker_fails_at_once(queue: Queue, gone: int) -> None:
    register(queue, "dead", gone)
    job = started_by(queue, "dead")

    assert take_over(queue) == [job.id]

    assert job.get_status(refresh=True) is JobStatus.FAILED
    assert take_over(queue) == []


@pytest.mark.parametrize("listed", [False, True], ids=["taken", "about to be started"])
def test_a_taken_trial_that_nobody_started_is_put_back(queue: Queue, gone: int, listed: bool) -> None:
    register(queue, "dead", gone)
    job = queue.enqueue_call("x.y", job_id="t-1-t0-a0")
    queue.connection.lmove(queue.key, queue.intermediate_queue.key)
    if listed:
        queue.connection.zadd(queue.started_job_registry.key, {f"{job.id}:e1": 2e10})

    assert take_over(queue) == [job.id]

    assert queue.get_job_ids() == [job.id]
    assert queue.intermediate_queue.get_job_ids() == []
    assert queue.started_job_registry.get_job_ids(cleanup=False) == []


def test_what_a_living_worker_holds_is_left_alone(queue: Queue, gone: int) -> None:
    register(queue, "alive", os.getppid())
    register(queue, "dead", gone)
    job = started_by(queue, "alive")
    queue.connection.rpush(queue.intermediate_queue.key, "t-2-t0-a0")

    assert take_over(queue) == []

    assert job.get_status(refresh=True) is JobStatus.STARTED
    assert queue.intermediate_queue.get_job_ids() == ["t-2-t0-a0"]


def test_a_worker_of_another_host_is_not_judged_by_our_process_table(queue: Queue, gone: int) -> None:
    register(queue, "elsewhere", gone)
    queue.connection.hset(Worker.redis_worker_namespace_prefix + "elsewhere", "hostname", "another-host")
    job = started_by(queue, "elsewhere")

    assert take_over(queue) == []

    assert job.get_status(refresh=True) is JobStatus.STARTED
