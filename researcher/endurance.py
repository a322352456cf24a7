"""The night through bad days of its surroundings: said, held, and entered again.

Recovery is the loop: after each the journal, git and Redis are opened anew and nothing is trusted that was open before.
Holds the journal's lock all the while. What `researcher.badday` has no words for goes on to the caller.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path

from researcher.badday import BAD_DAYS, explain
from researcher.errors import JournalError
from researcher.experiment import ASKED_TO_PAUSE
from researcher.journal import Journal
from researcher.lab import BackOff, Held
from researcher.settings import Settings
from researcher.store import WriterLock, damage
from researcher.voice import RESEARCHER
from trainer.jobs import HELD, Bus, connect

logger = logging.getLogger(__name__)

SAY_AGAIN_S = 5.0


def endure(settings: Settings, night: Callable[[BackOff], None]) -> None:
    """Call `night` until it returns, after each bad day once more; it is given the one back-off of this process.

    Raises JournalError where another researcher is at work, or where the journal is damaged.
    """
    back_off = BackOff()
    with ExitStack() as at_the_end:
        lock: WriterLock | None = None
        while True:
            try:
                if lock is None:
                    lock = WriterLock(settings.journal_dir)
                    at_the_end.callback(lock.release)
                lock.sign(os.getpid())
                night(back_off)
                return
            except BAD_DAYS as error:
                words = explain(error, (settings.journal_dir, settings.subject_dir), settings.redis_url)
                if words is None:
                    _refuse_damaged(error, settings.journal_dir)
                    raise
            _hold(settings, words, back_off.next_s(Held.SURROUNDINGS), may_write=lock is not None)


def _refuse_damaged(error: Exception, folder: Path) -> None:
    words = damage(error, folder) if isinstance(error, sqlite3.DatabaseError) else None
    if words is not None:
        raise JournalError(words) from error


def _hold(settings: Settings, words: str, for_s: float, *, may_write: bool) -> None:
    """Say it in the log, in Redis and in the journal: one of them will be there to be read."""
    until = time.monotonic() + for_s
    logger.error("HELD for %.0f s: %s", for_s, words)
    if may_write:
        _write_down(settings.journal_dir, words)
    while (left_s := until - time.monotonic()) > 0:
        _say(settings, words)
        time.sleep(min(SAY_AGAIN_S, left_s))


def _write_down(folder: Path, words: str) -> None:
    """As the reason of a pause, which ends when the loop is entered again; a person's own pause is left as it is."""
    with suppress(*BAD_DAYS), closing(Journal(folder)) as journal:
        run = journal.run()
        if run is not None and run.paused != ASKED_TO_PAUSE:
            journal.pause(run, words)


def _say(settings: Settings, words: str) -> None:
    """The password is read anew each time: it may be what is being mended."""
    with suppress(OSError), closing(connect(settings.redis_url, password=settings.password(), patient=False)) as server:
        Bus(server).say(RESEARCHER, f"{HELD}: {words}")
