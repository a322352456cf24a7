"""Runs the loop through outages: the run reports each outage, pauses, and starts again.

Recovery is the loop itself: after each outage the journal, git and Redis are reopened, and no earlier state is reused.
The process holds the locks of journal and subject throughout. It serves requests as far as the journal can be written,
and accepts a stop in any case. Errors that `researcher.loop.outages` cannot explain are raised to the caller.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Protocol

import redis

from researcher.config.settings import Settings
from researcher.errors import JournalError
from researcher.journal.database import SUBJECT_LOCK, WriterLock, damage
from researcher.journal.records import Pause, PauseCause
from researcher.journal.writer import Journal
from researcher.loop.clock import RunClock
from researcher.loop.context import PauseBackoffs, passed_limit
from researcher.loop.outages import OUTAGE_ERRORS, explain
from researcher.loop.request_handler import RequestHandler
from researcher.loop.status import RESEARCHER
from researcher.queues.requests import RequestWorker
from trainer.jobs import RedisClient, Status, StatusKind, connect

logger = logging.getLogger(__name__)

SERVE_AGAIN_S = 1.0


class Switch(Protocol):
    """Ends the run. A request turns the switch; `raise_if_stopped` raises once the switch is turned."""

    def turn(self, by: str) -> None:
        """Ask for a stop."""

    def raise_if_stopped(self) -> None:
        """Raise the exception that ends the process, if a stop was requested."""


def run_through_outages(settings: Settings, run: Callable[[PauseBackoffs], None], switch: Switch) -> None:
    """Call `run` until it returns, and again after each outage until the limit of the run. All calls get the same
    back-offs.

    Raises JournalError if another researcher holds a lock or the journal is damaged, and whatever the switch raises.
    """
    back_off = PauseBackoffs()
    with ExitStack() as at_the_end:
        locks: list[WriterLock] = []
        while True:
            try:
                for place, name in [(settings.journal_dir, "lock"), (settings.subject_dir, SUBJECT_LOCK)][len(locks) :]:
                    locks.append(WriterLock(place, name))
                    at_the_end.callback(locks[-1].release)
                for lock in locks:
                    lock.sign(os.getpid())
                run(back_off)
                return
            except OUTAGE_ERRORS as error:
                words = explain(error, (settings.journal_dir, settings.subject_dir), settings.redis_url)
                if words is None:
                    _refuse_damaged(error, settings.journal_dir)
                    raise
            if locks and _has_ended(settings):
                return
            held = _HeldRequests(settings, words, switch, may_write=bool(locks))
            _hold(held, back_off.next_s(PauseCause.OUTAGE))


def _has_ended(settings: Settings) -> bool:
    """Return True if a limit of the run passed during the outage, and record the end."""
    with suppress(*OUTAGE_ERRORS), closing(Journal(settings.journal_dir)) as journal:
        run, at = journal.run(), time.time()
        over = None if run is None else passed_limit(journal, run.goal, at)
        if run is not None and over is not None:
            journal.end(run, over, at)
            logger.info("the run has ended: %s", over)
            return True
    return False


def _refuse_damaged(error: Exception, folder: Path) -> None:
    words = damage(error, folder) if isinstance(error, sqlite3.DatabaseError) else None
    if words is not None:
        raise JournalError(words) from error


class _HeldRequests:
    """Publishes the outage and serves requests during a pause, as far as log, Redis and journal work."""

    def __init__(self, settings: Settings, words: str, switch: Switch, *, may_write: bool) -> None:
        self._settings = settings
        self.words = words
        self.switch = switch
        self._may_write = may_write
        self.go_on = False

    def write_down(self) -> None:
        """Record the outage as a pause that ends when the loop restarts. A user's own pause is left unchanged."""
        if not self._may_write:
            return
        with suppress(*OUTAGE_ERRORS), closing(Journal(self._settings.journal_dir)) as journal:
            run = journal.run()
            if run is not None and not run.paused_by_user:
                journal.pause(run, Pause(PauseCause.OUTAGE, self.words))

    def serve(self) -> None:
        """Publish the outage and answer waiting requests.

        The password is read again each time, because a user may fix it.
        """
        with suppress(OSError, redis.RedisError), closing(self._connect()) as server:
            bus = RedisClient(server)
            bus.publish_status(RESEARCHER, Status(StatusKind.HELD, self.words))
            RequestWorker.open(bus, self._receive).serve()

    def _connect(self) -> redis.Redis:
        return connect(self._settings.redis_url, password=self._settings.password(), patient=False)

    def _receive(self, request: str, kind: str, body: str) -> str:
        """Handle one request.

        A stop takes effect even if it cannot be recorded, since its job ends before this process does.
        """
        if self._may_write:
            with suppress(*OUTAGE_ERRORS), closing(Journal(self._settings.journal_dir)) as journal:
                clock = RunClock(journal.newest_time())
                reply = RequestHandler(journal, self.switch.turn, clock=clock).receive(request, kind, body)
                self.go_on = self.go_on or kind == "resume"
                return reply
        if kind != "stop":
            raise JournalError(f"it cannot be written down: {self.words}")
        self.switch.turn("a request")
        return f"stopping now, though it cannot be written down: {self.words}"


def _hold(held: _HeldRequests, for_s: float) -> None:
    """Wait until the next try or a resume request, and serve requests at least once."""
    logger.error("HELD for %.0f s: %s", for_s, held.words)
    until = time.monotonic() + for_s
    held.write_down()
    while True:
        held.serve()
        held.switch.raise_if_stopped()
        left_s = until - time.monotonic()
        if held.go_on or left_s <= 0:
            return
        time.sleep(min(SERVE_AGAIN_S, left_s))
