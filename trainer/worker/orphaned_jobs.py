"""What a dead worker of this host held is given back at once, instead of when its lease ends.

RQ waits 20 s for a started job and more than a minute for one that was taken but not started. Where researcher and
trainer share a host, the process table tells sooner: a registered worker whose process is gone holds nothing. A pid
that was used again makes a worker look alive; then the lease decides, as everywhere else.
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
    """Fail what dead workers had started, put back what nobody started; the ids of those jobs.

    A failed job is the researcher's to attempt again: the worker never decides that.
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
    """Only where no worker is left that may be about to start one of them.

    A worker lists a trial as started before its fork begins it; one that died in between has started nothing.
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
