"""A worker's heartbeat in Redis and in a file: its status and profile, and the live progress of its trial.

Promises: publishing never delays or ends a trial. A thread of its own publishes only the newest progress, at most twice
a second. While Redis does not answer, progress is dropped and the trial continues.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis
from redis.client import Pipeline

from trainer.jobs import Progress, RedisClient, Status, WorkerRole, worker_key, worker_names_key

TOKENS = "overnight:trainer:token"
IDLE = Status.working("idle")
TTL_S = 60
_EVERY_S = 0.5


@dataclass(frozen=True)
class Heartbeat:
    """The hash in Redis in which one worker shows its state, and its name in the index of its role.

    `profile` and `vram_cap_mib` are options of this worker, and `gpu` is the UUID of its GPU. `no_user` is the reason
    why candidates have no user of their own. None is not shown. `refused` returns the number of refused jobs. `file` is
    written at each beat, for the health check of a container; None writes no file.
    """

    connection: redis.Redis
    worker: str
    profile: str | None = None
    vram_cap_mib: int | None = None
    refused: Callable[[], int] = int
    no_user: str | None = None
    role: WorkerRole = WorkerRole.TRAINER
    file: Path | None = None
    gpu: str | None = None

    def beat(self, status: Status) -> None:
        """Replace the heartbeat file by the status in one step. The age of the file shows that the worker lives."""
        if self.file is None:
            return
        partial_file = self.file.with_name(f"{self.file.name}.partial")
        with contextlib.suppress(OSError):  # the old file then shows the fault
            partial_file.write_text(str(status), encoding="utf-8")
            partial_file.replace(self.file)

    def next_token(self) -> int | None:
        """Return a number larger than all earlier ones, or None if Redis does not answer.

        Each trial has one, so a reader can tell the current worker's status from an old one.
        """
        with contextlib.suppress(redis.RedisError):
            return int(self.connection.incr(TOKENS))
        return None

    def show(self, status: Status, trial: str | None = None, token: int | None = None) -> None:
        """Publish the worker's status. It expires after TTL_S seconds unless it is published again."""
        key, names = worker_key(self.role, self.worker), worker_names_key(self.role)
        every = status.to_fields() | {
            "trial": trial,
            "pid": os.getpid(),
            "profile": self.profile,
            "vram_cap_mib": self.vram_cap_mib,
            "refused": self.refused() or None,
            "no_user": self.no_user,
            "gpu": self.gpu,
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
        """Delete the worker's status."""
        with contextlib.suppress(redis.RedisError):
            pipeline = self.connection.pipeline()
            pipeline.delete(worker_key(self.role, self.worker))
            pipeline.srem(worker_names_key(self.role), self.worker)
            pipeline.execute()

    def forget_vanished(self) -> None:
        """Remove the names of workers that were killed, and so never called `fade`, from the index of this role."""
        with contextlib.suppress(redis.RedisError):
            for name in RedisClient(self.connection).worker_names(self.role):
                self.connection.transaction(partial(self._forget, name), worker_key(self.role, name))

    def _forget(self, name: str, pipeline: Pipeline) -> None:
        """Queue the removal. It has no effect if the worker shows itself meanwhile, because its key is watched."""
        if not pipeline.exists(worker_key(self.role, name)):
            pipeline.multi()
            pipeline.srem(worker_names_key(self.role), name)


class Publisher:
    """Publishes a trial's progress from a thread of its own."""

    def __init__(self, heartbeat: Heartbeat, trial: str) -> None:
        self._bus = RedisClient(heartbeat.connection)
        self._heartbeat = heartbeat
        self._trial = trial
        self._newest: Progress | None = None
        self._news = threading.Event()
        self._over = threading.Event()
        threading.Thread(target=self._publish, name="progress", daemon=True).start()

    def report(self, progress: Progress) -> None:
        """Hand the newest progress to the thread, and return at once."""
        self._newest = progress
        self._news.set()

    def close(self) -> None:
        """Stop publishing. A message that is being sent may still arrive."""
        self._over.set()
        self._news.set()

    def _publish(self) -> None:
        token = self._heartbeat.next_token()
        self._heartbeat.show(Status.working("starting"), self._trial, token)
        while self._news.wait() and not self._over.is_set():
            self._news.clear()
            if (newest := self._newest) is not None:
                self._heartbeat.show(Status.working(newest.phase), self._trial, token)
                self._bus.publish_progress(self._trial, newest)
            self._over.wait(_EVERY_S)
