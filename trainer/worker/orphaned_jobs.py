"""Recovers the jobs of a dead worker on this host at once, instead of when their lease ends.

RQ waits 20 s for a started job, and more than a minute for a job that was taken but not started. Where researcher and
trainer share a host, the process table shows a dead worker sooner. If another process has reused the pid, the worker
seems alive, and the lease decides as everywhere else.
"""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

from rq import Queue, Worker
from rq.registry import StartedJobRegistry

from trainer.jobs import AllowlistedJob

log = logging.getLogger(__name__)


def take_over(queue: Queue) -> list[str]:
    """Fail the jobs that dead workers had started, requeue those that no worker started, and return their ids.

    Only the researcher decides whether a failed job gets another attempt.
    """
    workers = Worker.all(queue=queue)
    dead = {each.name for each in workers if each.hostname == socket.gethostname() and not _is_alive(each.pid)}
    given = _fail_started(queue, dead)
    if len(dead) == len(workers):
        given += _put_back_taken(queue)
    for job_id in given:
        log.warning("%s was held by a dead worker; given back", job_id)
    return given


def _is_alive(pid: int | None) -> bool:
    return pid is not None and pid != os.getpid() and Path(f"/proc/{pid}").exists()


def _fail_started(queue: Queue, dead: set[str]) -> list[str]:
    registry = StartedJobRegistry(queue=queue, job_class=AllowlistedJob)
    abandoned = []
    for job_id, execution in registry.get_job_and_execution_ids(cleanup=False):
        job = queue.fetch_job(job_id)
        if job is not None and job.worker_name in dead:
            queue.connection.zadd(registry.key, {f"{job_id}:{execution}": 1.0}, xx=True)
            abandoned.append(job_id)
    if abandoned:
        registry.cleanup()
    return abandoned


def _put_back_taken(queue: Queue) -> list[str]:
    """Requeue jobs that were taken but not started. Call it only if no live worker may be about to start one.

    A worker lists a job as started before its fork begins the job. If the worker died in between, nothing has started,
    and that entry is removed.
    """
    registry = queue.started_job_registry
    taken = {job_id: queue.fetch_job(job_id) for job_id in queue.intermediate_queue.get_job_ids()}
    for job_id, job in taken.items():
        for listed, execution in registry.get_job_and_execution_ids(cleanup=False):
            if listed == job_id:
                queue.connection.zrem(registry.key, f"{listed}:{execution}")
        queue.intermediate_queue.remove(job_id)
        if job is not None and job.is_queued:
            queue.push_job_id(job_id, at_front=True)
    return list(taken)
