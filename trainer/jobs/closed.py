"""RQ jobs with a closed table of functions: what cannot be named cannot be run.

RQ itself would import any function, callback or object that a job's hash names, JSON or not; whoever can write to Redis
could then run code in every worker. A subclass of `AllowlistedJob` knows its table and drops the rest: to a worker a
foreign job does not exist, so that thousands of them cost neither a fork nor a line of log each. One that is too large
to be read is deleted, so that it is met once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import redis
from rq.exceptions import DeserializationError, NoSuchJobError, TimeoutFormatError
from rq.job import JobStatus
from rq.results import Result

from trainer.jobs.bounded import BoundedJob, Unreadable

log = logging.getLogger(__name__)

_SAY_EVERY_S = 60.0
_OWNER_MAY_READ_S = 24 * 3600
_ORIGIN_LIMIT_BYTES = 64
# What RQ raises for a hash that is no job, or another program's; a server may also not let us read it.
_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    DeserializationError,
    TimeoutFormatError,
    redis.exceptions.NoPermissionError,
)


class NotInTable(ValueError):
    """A job asked for a function that is no work of this process."""


def unknown_jobs_text(refused: int, queue: str) -> str:
    """What a person should know of them."""
    return (
        f"{refused} jobs in the queue {queue} were none of this run and were refused. "
        "Next: find who else writes to this Redis, and give one of you another"
    )


class AllowlistedJob(BoundedJob):
    """A job that can ask for nothing but what is in `functions`; without a queue to work it is only looked at."""

    functions: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    works: ClassVar[str | None] = None
    refused: ClassVar[int] = 0
    _said_s: ClassVar[float | None] = None

    @classmethod
    def fetch(cls, id: str, connection: redis.Redis | None = None, serializer: Any = None) -> Self:
        """Raises NoSuchJobError for a foreign job, once it is failed and out of our way."""
        if cls.works is None:
            return cast(Self, super().fetch(id, connection=connection, serializer=serializer))
        job = cls(id, connection=connection, serializer=serializer)
        try:
            job.refresh()
            _ = job.func
            if job.origin != cls.works:  # RQ would write the outcome where this name points
                raise NotInTable(f"it says that it is of the queue {job.origin[:_ORIGIN_LIMIT_BYTES]!r}")
        except NoSuchJobError:
            job.leave_list()
            raise
        except _UNREADABLE as fault:
            cls._refuse(job, fault)
            raise NoSuchJobError(f"{id} is none of ours: {fault}") from fault
        except redis.ResponseError as fault:
            if not str(fault).startswith("WRONGTYPE"):
                raise  # the server's trouble, not the job's
            cls._refuse(job, fault)
            raise NoSuchJobError(f"{id} is none of ours: {fault}") from fault
        return job

    def leave_list(self) -> None:
        """Take the id off the list of jobs that were taken and not started; nobody would ever do that."""
        self.connection.lrem(f"rq:queue:{self.works}:intermediate", 1, self.id)

    @classmethod
    def _refuse(cls, job: Self, fault: Exception) -> None:
        why = str(fault) or type(fault).__name__
        cls.refused += 1
        if cls._said_s is None or time.monotonic() - cls._said_s > _SAY_EVERY_S:
            cls._said_s = time.monotonic()
            log.warning("%s; the last: %s: %s", unknown_jobs_text(cls.refused, str(cls.works)), job.id, why[:200])
        job.leave_list()
        if not isinstance(fault, redis.RedisError):
            job.origin = job.origin or _origin(job)  # reading may have ended before it came to this field
        if job.origin == cls.works:  # it is not another queue's: its owner can be told
            if isinstance(fault, Unreadable):  # deleting comes first and needs no memory, which may be used up
                job.connection.unlink(job.key)
                job.connection.hset(job.key, mapping={"data": "", "origin": job.origin})
            pipeline = job.connection.pipeline()
            job.set_status(JobStatus.FAILED, pipeline=pipeline)
            pipeline.expire(job.key, _OWNER_MAY_READ_S)
            Result.create_failure(job, _OWNER_MAY_READ_S, why, pipeline=pipeline)
            pipeline.execute()

    @property
    def func(self) -> Callable[..., Any]:
        """The function; raises NotInTable."""
        if self.func_name is None or self.func_name not in self.functions:
            known = ", ".join(self.functions) or "nothing"
            raise NotInTable(f"{self.func_name!r} is no work of this process; it does: {known}")
        return self.functions[self.func_name]


def _origin(job: AllowlistedJob) -> str:
    """The queue that a job that cannot be read names, where that name is short; else none."""
    if job.connection.hstrlen(job.key, "origin") > _ORIGIN_LIMIT_BYTES:
        return ""
    name = job.connection.hget(job.key, "origin")
    return name.decode(errors="replace") if isinstance(name, bytes) else ""
