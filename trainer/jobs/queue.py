"""RQ's queue without Lua scripts. No user of our Redis may run scripts, so no script can block Redis.

RQ enqueues a unique job by a script. Here a transaction does so, which is aborted if the job appears meanwhile. For a
user that may send only single commands, the commands are ordered so that a repetition completes an interrupted call.
"""

from __future__ import annotations

import logging
import re
from contextlib import closing
from typing import Any

import redis
from rq import Queue
from rq.exceptions import DuplicateJobError
from rq.intermediate_queue import IntermediateQueue
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer
from rq.utils import now

from trainer.jobs.bounded import BoundedJob, Unreadable

log = logging.getLogger(__name__)

_ID = re.compile(rb"[A-Za-z0-9_-]{1,200}")
_LISTED = "listed"


class JobQueue(Queue):
    """A queue whose jobs are read within bounds."""

    job_class = BoundedJob

    def enqueue_job(self, job: Job, pipeline: Any = None, at_front: bool = False, unique: bool = False) -> Job:
        """Enqueue a job as RQ does. With `unique`, raise DuplicateJobError if the job exists in any state."""
        if not unique:
            return super().enqueue_job(job, pipeline=pipeline, at_front=at_front)
        self._prepare(job)
        while not self._put_if_absent(job):
            log.debug("%s changed while it was enqueued", job.id)
        return job

    def _put_if_absent(self, job: Job) -> bool:
        """Return False if the job changed meanwhile or the connection broke; then the caller tries again."""
        with closing(self.connection.pipeline()) as pipe:
            try:
                pipe.watch(job.key)  # type: ignore[no-untyped-call]
                if pipe.exists(job.key):
                    raise DuplicateJobError(f"{job.id} is there already")
                pipe.multi()
                pipe.hset(job.key, mapping=job.to_dict())
                pipe.rpush(self.key, job.id)
                pipe.execute()
            except redis.WatchError:
                return False
        return True

    def put(self, job: Job) -> None:
        """Enqueue a job by single commands. Raise DuplicateJobError if it is listed already.

        A repetition completes an interrupted call. After an interruption just before the last command, the job is
        listed twice, but the reader runs it only once.
        """
        self._prepare(job)
        if self.connection.hget(job.key, _LISTED):
            raise DuplicateJobError(f"{job.id} is there already")
        self.connection.hset(job.key, mapping=job.to_dict())
        self.connection.rpush(self.key, job.id)
        self.connection.hset(job.key, _LISTED, "1")

    def _prepare(self, job: Job) -> None:
        job.origin = self.name
        job.enqueued_at = now()
        job.timeout = job.timeout or self._default_timeout
        job._status = JobStatus.QUEUED

    def fetch_job(self, job_id: str) -> Job | None:
        """Fetch a job. Return None for a missing job, and for an unreadable one, which is logged."""
        try:
            return super().fetch_job(job_id)
        except Unreadable as fault:
            log.warning("%s in the queue %s: %s", job_id, self.name, fault)
            return None

    @classmethod
    def lmove(cls, connection: redis.Redis, queue_key: str, timeout: int | None) -> Any:
        """Take the next id. Drop entries that are no ids, since RQ would fail to decode them at each start."""
        while (taken := super().lmove(connection, queue_key, timeout)) is not None:
            if is_id(taken[1]):
                return taken
            connection.lrem(IntermediateQueue(queue_key, connection).key, 1, taken[1])
            log.warning("the queue %s held something that is no id; it was dropped", queue_key)
        return None


def is_id(raw: bytes) -> bool:
    """Return whether an entry of a list can be the id of a job."""
    return _ID.fullmatch(raw) is not None


def open_queue(name: str, connection: redis.Redis) -> JobQueue:
    """Return a queue that uses JSON. With pickle, any client that writes to Redis could run code in this process."""
    return JobQueue(name, connection=connection, serializer=JSONSerializer)
