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

import redis

from trainer.jobs import Progress, RedisClient, Status
from trainer.jobs.bus import TRAINER

TOKENS = "overnight:trainer:token"
IDLE = Status.working("idle")
TTL_S = 60
_EVERY_S = 0.5


@dataclass(frozen=True)
class Heartbeat:
    """A worker's own key, a trainer's or a checker's. `token` grows with every trial, so a reader can tell an old
    holder from the current.

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
    key: str = TRAINER

    def next_token(self) -> int | None:
        """A number larger than any before, or None if the server is away."""
        with contextlib.suppress(redis.RedisError):
            return int(self.connection.incr(TOKENS))
        return None

    def show(self, status: Status, trial: str = "", token: int | None = None) -> None:
        """Say what this worker does now; it fades after TTL_S without another word."""
        every = status.to_fields() | {
            "trial": trial,
            "pid": os.getpid(),
            "worker": self.worker,
            "profile": self.profile,
            "vram_cap_mib": self.vram_cap_mib,
            "refused": self.refused() or None,
            "no_user": self.no_user,
            "token": token,
        }
        values = {name: str(value) for name, value in every.items() if value is not None}
        with contextlib.suppress(redis.RedisError):
            pipeline = self.connection.pipeline()
            pipeline.delete(self.key)
            pipeline.hset(self.key, items=[text for item in values.items() for text in item])
            pipeline.expire(self.key, TTL_S)
            pipeline.execute()

    def fade(self) -> None:
        """This worker is going away."""
        with contextlib.suppress(redis.RedisError):
            self.connection.delete(self.key)


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
