"""The use of Redis on both sides: connections that outlast a restart, names of queues and keys, and live values.

RQ carries jobs. The live values, which are statuses of processes and progress of trials, are under `overnight:`. They
are copies with a time to live and may vanish at any time.
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
    """Raised when Redis cannot be used. The message names the server and the next step."""


class _Patience(Retry):
    """Retries while Redis does not answer, but not after a refused password, which would be refused again."""

    def call_with_retry(self, do: Any, fail: Any, *_: Any, **how: Any) -> Any:
        """Call and retry as redis-py does, but raise AuthenticationError at once."""
        how["is_retryable"] = lambda error: not isinstance(error, redis.AuthenticationError)
        return super().call_with_retry(do, fail, **how)


def connect(url: str, *, password: str | None = None, patient: bool = True, tries: int = _PATIENT_TRIES) -> redis.Redis:
    """Return a connection that outlasts an outage of ten minutes, or with `patient=False` fails within two seconds.

    redis-py's default gives up after about 5 s, and RQ's worker would then end in the middle of a trial.
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
    """The state of a process: it works, an outage holds it, its run has ended, or it refuses to run."""

    WORKING = "working"
    HELD = "held"
    ENDED = "ended"
    REFUSED = "refused"


@dataclass(frozen=True)
class Status:
    """The status that a process publishes. Code reads the kind; the message is for users."""

    kind: StatusKind
    message: str

    @classmethod
    def working(cls, message: str) -> Self:
        """Return the status of a working process, with the message."""
        return cls(StatusKind.WORKING, message)

    @property
    def is_over(self) -> bool:
        """True if the process does nothing more until a user starts it again."""
        return self.kind in (StatusKind.ENDED, StatusKind.REFUSED)

    def __str__(self) -> str:
        """Return the text for users: the message, preceded by the kind if the process does not work."""
        if self.kind is StatusKind.WORKING:
            return self.message
        return f"{self.kind}: {self.message}" if self.message else str(self.kind)

    def to_json(self) -> str:
        """Return the text that is stored in Redis."""
        return json.dumps({"kind": self.kind, "message": self.message})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the text of `to_json`. Other text, as of older versions, is the message of a working process."""
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
        """Parse the fields of `to_fields`. A worker without a known kind, as of older versions, is working."""
        known = {kind.value: kind for kind in StatusKind}
        return cls(known.get(values.get("kind", ""), StatusKind.WORKING), values["phase"])


@dataclass(frozen=True)
class Progress:
    """The progress of a running trial. `progress` is 0..1 of the budget; `phase` is starting, timed or scoring."""

    phase: str
    progress: float
    elapsed_s: float
    step: int | None = None
    loss: float | None = None


class WorkerRole(StrEnum):
    """The kinds of workers: a trainer runs trials, a dry-run worker does dry runs."""

    TRAINER = "trainer"
    DRY_RUN_WORKER = "dry-run-worker"


def worker_key(role: WorkerRole, name: str) -> str:
    """Return the key that only this worker writes. It expires unless the worker writes it again."""
    return f"overnight:worker:{role}:{name}"


def worker_names_key(role: WorkerRole) -> str:
    """Return the key of the set of names under which workers of a role showed themselves."""
    return f"overnight:workers:{role}"


@dataclass(frozen=True)
class WorkerStatus:
    """The last published status of a worker. `profile` and `vram_cap_mib` are None if the worker has no such option.

    `refused` is the number of refused jobs. `no_user` is the reason why candidates of root run as root. `trial` is the
    id of the running trial, and `gpu` the UUID of the worker's GPU; each may be None.
    """

    role: WorkerRole
    worker: str
    status: Status
    profile: str | None
    vram_cap_mib: int | None
    refused: int = 0
    no_user: str | None = None
    trial: str | None = None
    gpu: str | None = None


class RedisClient:
    """Queues and live values on one connection. Publish progress on one that is not patient, so that no trial waits."""

    def __init__(self, connection: redis.Redis) -> None:
        self.connection = connection

    def queue(self, name: str) -> JobQueue:
        """Return an RQ queue that uses JSON, no Lua scripts, and bounded reads."""
        return open_queue(name, self.connection)

    def fetch(self, job_id: str) -> BoundedJob:
        """Read a job. Raise NoSuchJobError or Unreadable."""
        return cast(BoundedJob, BoundedJob.fetch(job_id, connection=self.connection, serializer=JSONSerializer))

    def publish_progress(self, trial: str, progress: Progress) -> None:
        """Publish the progress of a trial. If Redis does not answer, the progress is dropped."""
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
        """Return the published progress of a trial, or None."""
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
            gpu=values.get("gpu"),
        )

    def worker_names(self, role: WorkerRole) -> list[str]:
        """Return the names in the index of a role, sorted; some of them may have vanished."""
        return sorted(_text(name) for name in self.connection.smembers(worker_names_key(role)))

    def publish_status(self, source: str, status: Status) -> None:
        """Publish the status of the service `source`. It expires after DOING_TTL_S seconds unless published again."""
        with contextlib.suppress(redis.RedisError):
            self.connection.set(f"overnight:doing:{source}", status.to_json(), ex=DOING_TTL_S)

    def doing(self, source: str) -> Status | None:
        """Return the status that the service `source` published last, or None if it has expired."""
        shown = self.connection.get(f"overnight:doing:{source}")
        return None if shown is None else Status.from_json(_text(shown))

    def _hash(self, key: str) -> dict[str, str]:
        return {_text(name): _text(value) for name, value in self.connection.hgetall(key).items()}


def _progress_key(trial: str) -> str:
    return f"overnight:trial:{trial}"


def _text(raw: bytes | str) -> str:
    return raw.decode(errors="replace") if isinstance(raw, bytes) else raw
