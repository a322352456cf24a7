"""Requests: what people ask the researcher for, as RQ jobs that the researcher itself works between steps.

A closed table of functions, JSON, ids made by the client: asked twice, done once. The journal holds what was asked;
a job that a killed researcher left half done is put back and answered from there.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from functools import partial
from typing import ClassVar

from rq import Queue, SimpleWorker
from rq.exceptions import DuplicateJobError
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.serializers import JSONSerializer

from researcher.experiment import CONFIRM
from trainer.jobs import REQUESTS, Bus, ClosedJob

logger = logging.getLogger(__name__)

RECEIVE = "researcher.desk.receive"
KINDS = ("idea", "submit", CONFIRM, "pause", "resume", "stop")
BODY_LIMIT_CHARACTERS = 300_000

Receiver = Callable[[str, str, str], str]


class RequestJob(ClosedJob):
    """Asks the researcher for something. The table is filled when the desk opens: the answers come from its journal."""

    functions: ClassVar[dict[str, Receiver]] = {}
    works = REQUESTS


class Desk(SimpleWorker):
    """Serves waiting requests in the calling process, when asked to."""

    @classmethod
    def open(cls, bus: Bus, receiver: Receiver) -> Desk:
        """Serve with `receiver(id, kind, body) -> answer`, first what a killed researcher left."""
        RequestJob.functions[RECEIVE] = partial(_receive, receiver)
        queue = bus.queue(REQUESTS)
        desk = cls(
            [queue],
            connection=bus.connection,
            serializer=JSONSerializer,
            job_class=RequestJob,
            name=f"researcher-{uuid.uuid4().hex[:8]}",
        )
        _put_back(queue)
        return desk

    def serve(self) -> None:
        """Answer everything that waits; one round trip when nothing does."""
        while self.queues[0].count:
            waiting = self.dequeue_job_and_maintain_ttl(timeout=None)
            if waiting is None:
                return
            self.execute_job(*waiting)

    def procline(self, message: str) -> None:
        """Leave the process's name alone: this is the researcher."""


def _receive(receiver: Receiver, request: str, kind: str, body: str) -> str:
    """Whoever may write into the queue may write anything: what `ask` refuses is refused here, too."""
    _require(kind, body)
    return receiver(request, kind, body)


def _put_back(queue: Queue) -> None:
    """This is the only reader, so whatever is under way belongs to the dead."""
    started = StartedJobRegistry(queue=queue)
    left = {*queue.intermediate_queue.get_job_ids(), *started.get_job_ids(cleanup=False)}
    queue.connection.delete(started.key, queue.intermediate_queue.key)
    for job_id in sorted(left):
        logger.info("request %s was left half done; serving it again", job_id)
        queue.push_job_id(job_id, at_front=True)


def ask(bus: Bus, kind: str, body: str = "", *, request: str | None = None) -> str:
    """Put a request on the queue and return its id; the same id again is the same request.

    Our own server's users may only write ids that are a kind and twelve hexadecimal digits, as those made here are.
    """
    _require(kind, body)
    name = request or f"{kind}-{uuid.uuid4().hex[:12]}"
    try:
        bus.queue(REQUESTS).enqueue_call(
            RECEIVE, args=(name, kind, body), job_id=name, unique=True, result_ttl=-1, failure_ttl=-1
        )
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


def answer(bus: Bus, request: str, wait_s: int) -> str | None:
    """The answer to a request, or None when no researcher served it within `wait_s`."""
    job = Job.fetch(request, connection=bus.connection, serializer=JSONSerializer)
    result = job.latest_result(timeout=wait_s)
    if result is None:
        return None
    if result.type is result.Type.FAILED:
        lines = (result.exc_string or "it failed").strip().splitlines()
        return f"refused: {lines[-1]}"
    return str(result.return_value)


def withdraw(bus: Bus, request: str) -> bool:
    """Take a request back. False when it is being served already."""
    queue = bus.queue(REQUESTS)
    if not queue.connection.lrem(queue.key, 1, request):
        return False
    Job.fetch(request, connection=bus.connection, serializer=JSONSerializer).delete()
    return True
