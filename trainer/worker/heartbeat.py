"""What a worker shows of itself in Redis: live progress of the trial, and its profile, phase and heartbeat.

Promises: publishing can never delay or end a trial. It happens on a thread of its own that keeps only the newest news,
at most twice a second; a server that is away costs the news, nothing else.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import redis
from redis.client import Pipeline

from trainer.jobs import Progress, RedisClient, Status, WorkerRole, worker_key, worker_names_key

TOKENS = "overnight:trainer:token"
IDLE = Status.working("idle")
TTL_S = 60
_EVERY_S = 0.5


@dataclass(frozen=True)
class Heartbeat:
    """A worker's own key in Redis, and its name in the index of its role. `token` grows with every trial, so a reader
    can tell an old holder from the current.

    `profile` and `vram_cap_mib` are what this trainer was started with, `no_user` why its candidates have no user of
    their own; None is not shown.
    `refused` counts foreign jobs.
    """

    connection: redis.Redis
    worker: str
    profile: str | None = None
    vram_cap_mib: int | None = None
    refused: Callable[[], int] = int
    no_user: str | None = None
    role: WorkerRole = WorkerRole.TRAINER

    def next_token(self) -> int | None:
        """A number larger than any before, or None if the server is away."""
        with contextlib.suppress(redis.RedisError):
            return int(self.connection.incr(TOKENS))
        return None

    def show(self, status: Status, trial: str = "", token: int | None = None) -> None:
        """Say what this worker does now; it fades after TTL_S without another word."""
        key, names = worker_key(self.role, self.worker), worker_names_key(self.role)
        every = status.to_fields() | {
            "trial": trial or None,
            "pid": os.getpid(),
            "profile": self.profile,
            "vram_cap_mib": self.vram_cap_mib,
            "refused": self.refused() or None,
            "no_user": self.no_user,
            "token": token,
        }
        values = {name: str(value) for name, value in every.items() if value is not None}
        with contextlib.suppress(redis.RedisError):
            pipeline = self.connection.pipeline()
            pipeline.delete(key)
            pipeline.hset(key, items=[text for item in values.items() for text in item])
            pipeline.expire(key, TTL_S)
            pipeline.sadd(names, self.worker)
            pipeline.expire(names, TTL_S)
            pipeline.execute()

    def fade(self) -> None:
        """This worker is going away."""
        with contextlib.suppress(redis.RedisError):
            pipeline = self.connection.pipeline()
            pipeline.delete(worker_key(self.role, self.worker))
            pipeline.srem(worker_names_key(self.role), self.worker)
            pipeline.execute()

    def forget_vanished(self) -> None:
        """Remove the names of workers that ended without `fade`, as a killed one does, from the index of this role."""
        with contextlib.suppress(redis.RedisError):
            for name in RedisClient(self.connection).worker_names(self.role):
                self.connection.transaction(partial(self._forget, name), worker_key(self.role, name))

    def _forget(self, name: str, pipeline: Pipeline) -> None:
        """Queue the removal, which comes to nothing if that worker shows itself meanwhile: its key is watched."""
        if not pipeline.exists(worker_key(self.role, name)):
            pipeline.multi()
            pipeline.srem(worker_names_key(self.role), name)


class Publisher:
    """Publishes a trial's progress from a thread; `report` only leaves the newest where the thread finds it."""

    def __init__(self, presence: Heartbeat, trial: str) -> None:
        self._bus = RedisClient(presence.connection)
        self._presence = presence
        self._trial = trial
        self._newest: Progress | None = None
        self._news = threading.Event()
        self._over = threading.Event()
        threading.Thread(target=self._publish, name="progress", daemon=True).start()

    def report(self, progress: Progress) -> None:
        """Take note and return at once."""
        self._newest = progress
        self._news.set()

    def close(self) -> None:
        """No more news; what is being sent may still arrive."""
        self._over.set()
        self._news.set()

    def _publish(self) -> None:
        token = self._presence.next_token()
        self._presence.show(Status.working("starting"), self._trial, token)
        while self._news.wait() and not self._over.is_set():
            self._news.clear()
            if (newest := self._newest) is not None:
                self._presence.show(Status.working(newest.phase), self._trial, token)
                self._bus.publish_progress(self._trial, newest)
            self._over.wait(_EVERY_S)
