"""Redis as both sides use it: the connection that waits out a restart, the names of queues and keys, and live values:
the status of a process, the progress of a trial.

RQ carries work; what stands here under `overnight:` is a projection with a time to live and may vanish at any time.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self, cast

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry
from rq.serializers import JSONSerializer

from trainer.jobs.bounded import BoundedJob
from trainer.jobs.queue import JobQueue, open_queue

TRIALS = "trials"
REQUESTS = "requests"
RUN_TRIAL = "run_trial"
PROGRESS_TTL_S = 120
DOING_TTL_S = 30
_PATIENT_TRIES = 300


class BusError(Exception):
    """Redis cannot be used; the message says which server and what to do."""


class _Patience(Retry):
    """For a server that is away. One that refuses a password will do so again."""

    def call_with_retry(self, do: Any, fail: Any, *_: Any, **how: Any) -> Any:
        """As redis-py calls it."""
        how["is_retryable"] = lambda error: not isinstance(error, redis.AuthenticationError)
        return super().call_with_retry(do, fail, **how)


def connect(url: str, *, password: str | None = None, patient: bool = True, tries: int = _PATIENT_TRIES) -> redis.Redis:
    """A connection that outlives a ten-minute outage of the server; with `patient=False` it fails within two seconds.

    redis-py's own default gives up after about 5 s, and RQ's worker then ends in the middle of a trial.
    """
    retry = _Patience(ExponentialBackoff(cap=2, base=0.1), tries if patient else 2)
    return redis.Redis.from_url(
        url,
        password=password,
        retry=retry,
        health_check_interval=15,
        socket_keepalive=True,
        socket_connect_timeout=5,
    )


class StatusKind(StrEnum):
    """What a process can do: it works, an outage holds it until it is over, its run has ended, or it refuses to run."""

    WORKING = "working"
    HELD = "held"
    ENDED = "ended"
    REFUSED = "refused"


@dataclass(frozen=True)
class Status:
    """What a process says of itself. Code asks the kind; the message is for people."""

    kind: StatusKind
    message: str

    @classmethod
    def working(cls, message: str) -> Self:
        """The status of a process that does what the message says."""
        return cls(StatusKind.WORKING, message)

    @property
    def is_over(self) -> bool:
        """True when the process does nothing more until somebody starts it again."""
        return self.kind in (StatusKind.ENDED, StatusKind.REFUSED)

    def __str__(self) -> str:
        """Return the words for people: the message, after the kind of a process that does not work."""
        if self.kind is StatusKind.WORKING:
            return self.message
        return f"{self.kind}: {self.message}" if self.message else str(self.kind)

    def to_json(self) -> str:
        """Return the text that is stored in Redis."""
        return json.dumps({"kind": self.kind, "message": self.message})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote. Other text, as older versions wrote, is the message of a process that works."""
        try:
            values = json.loads(text)
            return cls(StatusKind(values["kind"]), str(values["message"]))
        except (ValueError, TypeError, KeyError):
            return cls.working(text)

    def to_fields(self) -> dict[str, str]:
        """Return the two fields of a worker's hash in Redis."""
        return {"kind": self.kind.value, "phase": self.message}

    @classmethod
    def from_fields(cls, values: Mapping[str, str]) -> Self:
        """Read what `to_fields` wrote. A worker without a known kind, as older versions showed, works."""
        known = {kind.value: kind for kind in StatusKind}
        return cls(known.get(values.get("kind", ""), StatusKind.WORKING), values["phase"])


@dataclass(frozen=True)
class Progress:
    """What the running trial is doing now. `progress` is 0..1 of the budget, `phase` one of
    starting, timed, scoring."""

    phase: str
    progress: float
    elapsed_s: float
    step: int | None = None
    loss: float | None = None


class WorkerRole(StrEnum):
    """The kinds of workers: a trainer runs trials, a checker runs checks."""

    TRAINER = "trainer"
    CHECKER = "checker"


def worker_key(role: WorkerRole, name: str) -> str:
    """Return the key that one worker writes and nobody else. It fades when the worker falls silent."""
    return f"overnight:worker:{role}:{name}"


def worker_names_key(role: WorkerRole) -> str:
    """Return the key of the set of names under which workers of a role showed themselves."""
    return f"overnight:workers:{role}"


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as it last showed itself; `profile` and `vram_cap_mib` are None where it was started without them.

    `refused` counts the foreign jobs that it met; `no_user` is what was found where root's candidates run as root;
    `trial` is the id of the trial that it runs, None while it runs none.
    """

    role: WorkerRole
    worker: str
    status: Status
    profile: str | None
    vram_cap_mib: int | None
    refused: int = 0
    no_user: str | None = None
    trial: str | None = None


class RedisClient:
    """Queues and live keys on one connection. Publish progress on an impatient one: a trial must not wait for Redis."""

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection

    def queue(self, name: str) -> JobQueue:
        """An RQ queue that speaks JSON, uses no script, and reads its jobs with bounds."""
        return open_queue(name, self.connection)

    def fetch(self, job_id: str) -> BoundedJob:
        """A job to look at. Raises NoSuchJobError and Unreadable."""
        return cast(BoundedJob, BoundedJob.fetch(job_id, connection=self.connection, serializer=JSONSerializer))

    def publish_progress(self, trial: str, progress: Progress) -> None:
        """Replace what is shown of `trial`. A server that is away loses the news, not the trial."""
        key = _progress_key(trial)
        values = {
            item.name: str(value) for item in fields(progress) if (value := getattr(progress, item.name)) is not None
        }
        with contextlib.suppress(redis.RedisError):
            pipeline = self.connection.pipeline()
            pipeline.delete(key)
            pipeline.hset(key, items=[text for item in values.items() for text in item])
            pipeline.expire(key, PROGRESS_TTL_S)
            pipeline.execute()

    def read_progress(self, trial: str) -> Progress | None:
        """What is known of a running trial, or None."""
        values = self._hash(_progress_key(trial))
        if not {"phase", "progress", "elapsed_s"} <= values.keys():
            return None
        return Progress(
            phase=values["phase"],
            progress=float(values["progress"]),
            elapsed_s=float(values["elapsed_s"]),
            step=int(values["step"]) if "step" in values else None,
            loss=float(values["loss"]) if "loss" in values else None,
        )

    def workers(self, role: WorkerRole) -> tuple[WorkerStatus, ...]:
        """Return the workers of a role that showed themselves within the last minute, by name."""
        seen = (self.worker(role, name) for name in self.worker_names(role))
        return tuple(worker for worker in seen if worker is not None)

    def worker(self, role: WorkerRole, name: str) -> WorkerStatus | None:
        """Return one worker, or None when it did not show itself within the last minute."""
        values = self._hash(worker_key(role, name))
        if "phase" not in values:
            return None
        cap = values.get("vram_cap_mib")
        return WorkerStatus(
            role=role,
            worker=name,
            status=Status.from_fields(values),
            profile=values.get("profile"),
            vram_cap_mib=None if cap is None else int(cap),
            refused=int(values.get("refused", 0)),
            no_user=values.get("no_user"),
            trial=values.get("trial"),
        )

    def worker_names(self, role: WorkerRole) -> list[str]:
        """Return the names in the index of a role, sorted; some of them may have vanished."""
        return sorted(_text(name) for name in self.connection.smembers(worker_names_key(role)))

    def say(self, who: str, status: Status) -> None:
        """Publish the status of a service, for whoever watches; it fades when the service falls silent."""
        with contextlib.suppress(redis.RedisError):
            self.connection.set(f"overnight:doing:{who}", status.to_json(), ex=DOING_TTL_S)

    def doing(self, who: str) -> Status | None:
        """Return the status that a service published last, or None when it is silent."""
        said = self.connection.get(f"overnight:doing:{who}")
        return None if said is None else Status.from_json(_text(said))

    def _hash(self, key: str) -> dict[str, str]:
        return {_text(name): _text(value) for name, value in self.connection.hgetall(key).items()}


def _progress_key(trial: str) -> str:
    return f"overnight:trial:{trial}"


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw
