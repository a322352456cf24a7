"""RQ jobs with a closed table of functions: what cannot be named cannot be run.

RQ itself would import any function, callback or object that a job's hash names, JSON or not; whoever can write to Redis
could then run code in every worker. A subclass of `ClosedJob` knows its table and drops the rest: to a worker a foreign
job does not exist, so that thousands of them cost neither a fork nor a line of log each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self, cast

import redis
from rq.exceptions import DeserializationError, NoSuchJobError, TimeoutFormatError
from rq.job import Job, JobStatus
from rq.results import Result

log = logging.getLogger(__name__)

_SAY_EVERY_S = 60.0
_OWNER_MAY_READ_S = 24 * 3600
# What RQ raises for a hash that is no job, or another program's; a server may also not let us read it.
_UNREADABLE = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    DeserializationError,
    TimeoutFormatError,
    redis.ResponseError,
)


class NotInTable(ValueError):
    """A job asked for a function that is no work of this process."""


def foreign(refused: int, queue: str) -> str:
    """What a person should know of them."""
    return (
        f"{refused} jobs in the queue {queue} were none of this night and were refused. "
        "Next: find who else writes to this Redis, and give one of you another"
    )


class ClosedJob(Job):
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
            job.refresh()  # type: ignore[no-untyped-call]
            _ = job.func
        except _UNREADABLE as fault:
            cls._refuse(job, str(fault) or type(fault).__name__)
            raise NoSuchJobError(f"{id} is none of ours: {fault}") from fault
        return job

    @classmethod
    def _refuse(cls, job: Self, why: str) -> None:
        cls.refused += 1
        if cls._said_s is None or time.monotonic() - cls._said_s > _SAY_EVERY_S:
            cls._said_s = time.monotonic()
            log.warning("%s; the last: %s: %s", foreign(cls.refused, str(cls.works)), job.id, why[:200])
        pipeline = job.connection.pipeline()
        pipeline.lrem(f"rq:queue:{cls.works}:intermediate", 1, job.id)
        if job.origin == cls.works:  # it could be read, and is not another queue's: its owner can be told
            job.set_status(JobStatus.FAILED, pipeline=pipeline)
            Result.create_failure(job, _OWNER_MAY_READ_S, why, pipeline=pipeline)
        pipeline.execute()

    @property
    def func(self) -> Callable[..., Any]:
        """The function; raises NotInTable."""
        if self.func_name is None or self.func_name not in self.functions:
            known = ", ".join(self.functions) or "nothing"
            raise NotInTable(f"{self.func_name!r} is no work of this process; it does: {known}")
        return self.functions[self.func_name]

    def restore(self, raw_data: Any) -> None:
        """Read the job, and drop everything in it that would run or call something else, or touch other jobs."""
        super().restore(raw_data)
        self._success_callback_name = self._failure_callback_name = self._stopped_callback_name = None
        self.webhooks = []
        self.retries_left = self.repeats_left = self.group_id = self.rate_limit_key = None

    def _deserialize_data(self) -> None:
        super()._deserialize_data()  # type: ignore[no-untyped-call]
        self._instance = None
