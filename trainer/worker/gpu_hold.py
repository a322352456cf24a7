"""The trainer's side of the lease of a GPU: a trial acquires it, prolongs it in a thread, and releases it at its end.

Two locks: the lease in Redis keeps the LLM silent, and a lock of the host keeps any other trial off the GPU, also one
of a run with another Redis. The supervising fork and the guardian hold the host's lock, so it is free once the last of
them is dead. A candidate does not hold it. Promises: without both, no trial begins; one that loses the lease is ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import redis

from trainer.jobs import HOLD_S, Fenced, GpuTaken, GpuUse, LeasePhase, LeaseStore, Progress

log = logging.getLogger(__name__)

LOCKS = Path("/run/lock")  # open to all users, where the system has it
DRAIN_S = 90.0  # for the end of an answer, or of another trial
_BEAT_S = 1.0
_LOOK_AGAIN_S = 0.25


class GpuHold:
    """A trial's hold of a GPU. `lock_fd` is the descriptor of the host's lock, to be kept open by the guardian, and
    `llm_mib` the memory that the LLM holds at the start."""

    def __init__(self, store: LeaseStore, holder: str, lock_fd: int, llm_mib: int) -> None:
        self.lock_fd = lock_fd
        self.llm_mib = llm_mib
        self._store = store
        self._holder = holder
        self._phase = LeasePhase.STARTING
        self._held_s = time.monotonic()
        self._overlap_s = 0.0
        self._fenced = threading.Event()
        self._news = threading.Event()
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, name="gpu lease", daemon=True)
        self._beating.start()

    @property
    def is_fenced(self) -> bool:
        """True once the trial has lost the lease."""
        return self._fenced.is_set()

    def report(self, progress: Progress) -> None:
        """Take the phase of the trial from its progress, and return at once."""
        phase = LeasePhase(progress.phase)
        if phase is not self._phase:
            self._phase = phase
            self._news.set()

    def use(self) -> GpuUse:
        """Return how the LLM disturbed the trial, once its processes have ended.

        The time since the last beat counts as an overlap if the lease was lost meanwhile, or may have been.
        """
        self._stop_beating()
        try:
            self._beat_once()
        except redis.RedisError:
            since_s = time.monotonic() - self._held_s
            self._overlap_s += since_s if since_s > HOLD_S else 0.0
        return GpuUse(llm_overlap_s=self._overlap_s)

    def release(self) -> None:
        """Give the GPU back. If Redis does not answer, the lease ends by time."""
        self._stop_beating()
        with contextlib.suppress(redis.RedisError, Fenced):
            self._store.change(lambda lease, at: lease.released(self._holder, at))

    def _stop_beating(self) -> None:
        self._over.set()
        self._news.set()
        self._beating.join()

    def _beat(self) -> None:
        while not self._over.is_set() and not self.is_fenced:
            self._news.clear()
            try:
                self._beat_once()
            except redis.RedisError as fault:
                log.warning("the lease of GPU %s could not be prolonged: %s", self._store.gpu, fault)
            self._news.wait(_BEAT_S)

    def _beat_once(self) -> None:
        if self.is_fenced:
            return
        try:
            lease, at = self._store.change(lambda lease, at: lease.beaten(self._holder, self._phase, at))
        except Fenced as fault:
            self._overlap_s += time.monotonic() - self._held_s
            self._fenced.set()
            log.error("GPU %s: %s", self._store.gpu, fault)
            return
        self._held_s, self._overlap_s = time.monotonic(), lease.overlap_s(at)


@contextlib.contextmanager
def held_gpu(
    store: LeaseStore, trial: str, is_stopped: Callable[[], bool], locks: Path = LOCKS, drain_s: float | None = None
) -> Iterator[GpuHold]:
    """Hold the GPU for a trial until the block ends.

    Waits for the end of an answer or of another trial, DRAIN_S seconds by default, and then raises GpuTaken.
    """
    drain_s = DRAIN_S if drain_s is None else drain_s
    give_up_s = time.monotonic() + drain_s
    holder = f"{trial}-{secrets.token_hex(8)}"

    def wait(why: str) -> None:
        if is_stopped() or time.monotonic() > give_up_s:
            raise GpuTaken(f"the GPU {store.gpu} was not free within {drain_s:g} s: {why}")
        time.sleep(_LOOK_AGAIN_S)

    with _host_lock(store.gpu, locks, wait) as lock_fd:
        while (why := _why_not_acquired(store, holder)) is not None:
            wait(why)
        hold = GpuHold(store, holder, lock_fd, store.read().lease.llm_mib)
        try:
            yield hold
        finally:
            hold.release()


def _why_not_acquired(store: LeaseStore, holder: str) -> str | None:
    """Acquire the lease, or ask for the end of the answer in progress and return why it is not free."""
    try:
        store.change(lambda lease, at: lease.acquired(holder, at))
    except GpuTaken as taken:
        with contextlib.suppress(redis.RedisError):
            store.change(lambda lease, at: lease.wanted(at))
        return str(taken)
    except redis.RedisError as fault:
        return f"Redis does not answer ({fault})"
    return None


@contextlib.contextmanager
def _host_lock(gpu: str, locks: Path, wait: Callable[[str], None]) -> Iterator[int]:
    """Hold the host's lock of a GPU, and yield its descriptor."""
    folder = locks if os.access(locks, os.W_OK) else Path(tempfile.gettempdir())
    path = folder / f"overnight-{re.sub(r'[^A-Za-z0-9-]', '-', gpu)}.lock"
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644))
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while not _locked(fd):
            wait(f"another trial of this machine holds {path}")
        yield fd
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
