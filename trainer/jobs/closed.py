"""RQ jobs with a fixed table of functions. A job can run no other function.

RQ itself imports any function, callback or object that a job names, even with JSON, so any client that writes to Redis
could run code in every worker. A subclass of `AllowlistedJob` has a table and refuses all other jobs. A worker treats
a refused job as missing, so thousands of them cost neither a fork nor a log line each. A job that is too large to read
is deleted, so that it is met only once.
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

_LOG_EVERY_S = 60.0
_OWNER_MAY_READ_S = 24 * 3600
_ORIGIN_LIMIT_BYTES = 64
# RQ raises these for a hash that is no job or another program's. Redis may also forbid the read.
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
    """Raised when a job names a function that is not in the table."""


def unknown_jobs_text(refused: int, queue: str) -> str:
    """Return the message for users about refused jobs, with the next step."""
    return (
        f"{refused} jobs in the queue {queue} are not from this run and were refused. "
        "Next: find the other program that writes to this Redis, and give it a Redis of its own"
    )


class AllowlistedJob(BoundedJob):
    """A job that can name only the functions in `functions`. With `works` None, jobs are only inspected."""

    functions: ClassVar[Mapping[str, Callable[..., Any]]] = {}
    works: ClassVar[str | None] = None
    refused: ClassVar[int] = 0
    _logged_s: ClassVar[float | None] = None

    @classmethod
    def fetch(cls, id: str, connection: redis.Redis | None = None, serializer: Any = None) -> Self:
        """Read a job. Raise NoSuchJobError for a job that is refused, after it was marked as failed and unlisted."""
        if cls.works is None:
            return cast(Self, super().fetch(id, connection=connection, serializer=serializer))
        job = cls(id, connection=connection, serializer=serializer)
        try:
            job.refresh()
            _ = job.func
            if job.origin != cls.works:  # RQ would write the outcome to the queue of this name
                raise NotInTable(f"it says that it is of the queue {job.origin[:_ORIGIN_LIMIT_BYTES]!r}")
        except NoSuchJobError:
            job.leave_list()
            raise
        except _UNREADABLE as fault:
            cls._refuse(job, fault)
            raise NoSuchJobError(f"{id} is none of ours: {fault}") from fault
        except redis.ResponseError as fault:
            if not str(fault).startswith("WRONGTYPE"):
                raise  # an error of Redis, not of the job
            cls._refuse(job, fault)
            raise NoSuchJobError(f"{id} is none of ours: {fault}") from fault
        return job

    def leave_list(self) -> None:
        """Remove the id from the list of jobs that were taken but not started. RQ would never remove a refused job."""
        self.connection.lrem(f"rq:queue:{self.works}:intermediate", 1, self.id)

    @classmethod
    def _refuse(cls, job: Self, fault: Exception) -> None:
        why = str(fault) or type(fault).__name__
        cls.refused += 1
        if cls._logged_s is None or time.monotonic() - cls._logged_s > _LOG_EVERY_S:
            cls._logged_s = time.monotonic()
            log.warning("%s; the last: %s: %s", unknown_jobs_text(cls.refused, str(cls.works)), job.id, why[:200])
        job.leave_list()
        if not isinstance(fault, redis.RedisError):
            job.origin = job.origin or _origin(job)  # the read may have failed before this field
        if job.origin == cls.works:  # this queue's job, so its sender gets the failure
            if isinstance(fault, Unreadable):  # delete first, which works even if Redis is out of memory
                job.connection.unlink(job.key)
                job.connection.hset(job.key, mapping={"data": "", "origin": job.origin})
            pipeline = job.connection.pipeline()
            job.set_status(JobStatus.FAILED, pipeline=pipeline)
            pipeline.expire(job.key, _OWNER_MAY_READ_S)
            Result.create_failure(job, _OWNER_MAY_READ_S, why, pipeline=pipeline)
            pipeline.execute()

    @property
    def func(self) -> Callable[..., Any]:
        """The function that the job names. Raise NotInTable."""
        if self.func_name is None or self.func_name not in self.functions:
            known = ", ".join(self.functions) or "nothing"
            raise NotInTable(f"{self.func_name!r} is no work of this process; it does: {known}")
        return self.functions[self.func_name]


def _origin(job: AllowlistedJob) -> str:
    """Return the queue that an unreadable job names, or an empty text if the name is missing or long."""
    if job.connection.hstrlen(job.key, "origin") > _ORIGIN_LIMIT_BYTES:
        return ""
    name = job.connection.hget(job.key, "origin")
    return name.decode(errors="replace") if isinstance(name, bytes) else ""
