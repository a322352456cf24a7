"""Requests: users' requests to the researcher, as RQ jobs that the researcher serves between steps.

Only listed functions run, arguments are JSON, and clients create the ids: a repeated request is done once. The journal
holds each request; a job that a killed researcher left unfinished is put back and answered from the journal. A flood of
requests costs the run a bounded time for each serving, and the server's memory is freed; requests beyond
`WAITING_LIMIT` are dropped. A client sends single commands only, and their duration does not depend on stored data:
many commands in one transaction would block the server.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import redis
from rq import Queue, SimpleWorker
from rq.exceptions import DuplicateJobError, NoSuchJobError
from rq.job import JobStatus
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from researcher.journal.records import CONFIRM
from trainer.jobs import REQUESTS, AllowlistedJob, JobQueue, RedisClient, is_id, result_of, results_key

logger = logging.getLogger(__name__)

RECEIVE = "receive"
KINDS = ("idea", "submit", CONFIRM, "pause", "resume", "stop")
BODY_LIMIT_CHARACTERS = 300_000
WAITING_LIMIT = 3_000
SERVED_AT_ONCE = 100
_KEPT_S = 24 * 3600
_TAKEN, _BY_WORKER, _BY_CLIENT = "taken", b"worker", b"withdrawn"
_CLEAR_ABOVE_SHARE = 0.5  # of the server's memory
_LOOKED_AT_ONCE = 1_000
_LIST_LIMIT_BYTES = 1024**2
_REQUEST_KEYS = "rq:job:[a-z]*-" + 12 * "[0-9a-f]"

Receiver = Callable[[str, str, str], str]


class RequestJob(AllowlistedJob):
    """A user's request.

    The table of functions is filled when the worker opens, because its journal provides the answers.
    """

    functions: ClassVar[dict[str, Receiver]] = {}
    works = REQUESTS

    @classmethod
    def fetch(cls, id: str, connection: redis.Redis | None = None, serializer: Any = None) -> Self:
        """Fetch a job and mark it as taken. Raises NoSuchJobError if it is already answered or cancelled.

        Worker and client race for the mark, so a request is either answered or cancelled.
        """
        job = super().fetch(id, connection=connection, serializer=serializer)
        is_first = job.connection.hsetnx(job.key, _TAKEN, _BY_WORKER)
        is_cancelled = not is_first and job.connection.hget(job.key, _TAKEN) == _BY_CLIENT
        if is_cancelled or job.get_status(refresh=False) in (JobStatus.FINISHED, JobStatus.FAILED):
            job.leave_list()
            job.connection.unlink(job.key)
            raise NoSuchJobError(f"{id} was {'cancelled' if is_cancelled else 'answered before'}")
        return job

    def restore(self, raw_data: Any) -> None:
        """Load a job, and ignore the client's own time limits."""
        super().restore(raw_data)
        self.timeout = self.ttl = None
        self.result_ttl = self.failure_ttl = _KEPT_S


class RequestWorker(SimpleWorker):
    """Serves waiting requests in the calling process, on demand."""

    @classmethod
    def open(cls, bus: RedisClient, receiver: Receiver) -> RequestWorker:
        """Open a worker that calls `receiver(id, kind, body) -> answer`.

        Requests left by a killed researcher come first.
        """
        RequestJob.functions[RECEIVE] = partial(_receive, receiver)
        queue = bus.queue(REQUESTS)
        request_worker = cls(
            [queue],
            connection=bus.connection,
            serializer=JSONSerializer,
            job_class=RequestJob,
            queue_class=JobQueue,
            log_job_description=False,
            name=f"researcher-{uuid.uuid4().hex[:8]}",
        )
        _clear(queue)
        _put_back(queue)
        return request_worker

    def serve(self) -> None:
        """Answer waiting requests, at most `SERVED_AT_ONCE`. An empty queue costs one round trip."""
        queue = self.queues[0]
        if queue.count > WAITING_LIMIT:
            _clear(queue)
        for _ in range(SERVED_AT_ONCE):
            if not queue.count:
                return
            waiting = self.dequeue_job_and_maintain_ttl(timeout=None)
            if waiting is None:
                return
            self.execute_job(*waiting)

    def procline(self, message: str) -> None:
        """Keep the process's title, because this process is the researcher."""


def _receive(receiver: Receiver, request: str, kind: str, body: str) -> str:
    """Validate a request again, because clients may write to the queue without `send`."""
    _require(kind, body)
    return receiver(request, kind, body)


def _clear(queue: Queue) -> None:
    """Drop requests beyond the limit, and unlisted requests once half of the server's memory is used.

    Clients may leave hashes that belong to no list, until writes become impossible. Deleting is always possible.
    """
    connection = queue.connection
    if (dropped := queue.count - WAITING_LIMIT) > 0:
        logger.warning("%d requests wait; the newest %d are dropped", dropped + WAITING_LIMIT, dropped)
        connection.ltrim(queue.key, 0, WAITING_LIMIT - 1)
    if (connection.memory_usage(queue.key, samples=0) or 0) > _LIST_LIMIT_BYTES:
        logger.warning("what waits is too large to be ids of requests; all of it is dropped")
        connection.unlink(queue.key)
    memory = connection.info("memory")
    if memory["used_memory"] <= _CLEAR_ABOVE_SHARE * memory.get("maxmemory", 0) or not memory.get("maxmemory"):
        return
    known = {f"rq:job:{job_id}".encode() for job_id in _listed(queue)}
    deleted, cursor = 0, -1
    while cursor != 0:
        cursor, keys = connection.scan(max(cursor, 0), match=_REQUEST_KEYS, count=_LOOKED_AT_ONCE)
        unlisted = [key for key in keys if key not in known]
        deleted += connection.unlink(*unlisted) if unlisted else 0
    logger.warning("the server's memory was more than half used up; deleted %d requests that are in no list", deleted)


def _listed(queue: Queue) -> set[str]:
    """Return the ids of waiting and running requests. Answered requests have their answer elsewhere."""
    return _ids(queue, queue.key) | _under_way(queue)


def _under_way(queue: Queue) -> set[str]:
    started = StartedJobRegistry(queue=queue).get_job_ids(cleanup=False)
    return _ids(queue, queue.intermediate_queue.key) | set(started)


def _ids(queue: Queue, key: str) -> set[str]:
    """Return the valid ids in a list."""
    found: Any = queue.connection.lrange(key, 0, WAITING_LIMIT - 1)
    return {raw.decode() for raw in found if is_id(raw)}


def _put_back(queue: Queue) -> None:
    """Put running requests back. This process is the only reader, so a dead process has left them."""
    left = _under_way(queue)
    for job_id in sorted(left):
        logger.info("request %s was left half done; serving it again", job_id)
        queue.push_job_id(job_id, at_front=True)
    queue.connection.delete(StartedJobRegistry(queue=queue).key, queue.intermediate_queue.key)


def send(bus: RedisClient, kind: str, body: str = "", *, request: str | None = None) -> str:
    """Put a request on the queue and return its id. The same id means the same request.

    Users of our own server may only write ids that consist of a kind and twelve hexadecimal digits, like those made
    here.
    """
    _require(kind, body)
    name = request or f"{kind}-{uuid.uuid4().hex[:12]}"
    queue = bus.queue(REQUESTS)
    try:
        queue.put(queue.create_job(RECEIVE, args=(name, kind, body), job_id=name, description=name))
    except DuplicateJobError:
        logger.info("request %s was asked before", name)
    return name


def _require(kind: str, body: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is no kind of request; the kinds are {', '.join(KINDS)}")
    if not isinstance(body, str):
        raise TypeError(f"a request carries text, not {type(body).__name__}")
    if len(body) > BODY_LIMIT_CHARACTERS:
        raise ValueError(f"a request carries at most {BODY_LIMIT_CHARACTERS} characters; this one has {len(body)}")


def wait_reply(bus: RedisClient, request: str, wait_s: int) -> str | None:
    """Return the answer to a request, or None if no researcher served it within `wait_s` seconds."""
    key = results_key(request)
    if not bus.connection.xread({key: "0-0"}, count=1, block=wait_s * 1000):
        return None
    newest = bus.connection.xrevrange(key, count=1)
    if not newest:
        return None
    result = result_of(request, newest[0], bus.connection)
    if result.type is result.Type.FAILED:
        lines = (result.exc_string or "it failed").strip().splitlines()
        return f"refused: {lines[-1]}"
    return str(result.return_value)


def cancel(bus: RedisClient, request: str) -> bool:
    """Cancel a request. Return False if it is already being served. The worker deletes cancelled requests."""
    return bool(bus.connection.hsetnx(RequestJob.key_for(request), _TAKEN, _BY_CLIENT))
