"""Backups during a run: one after each decision, in a thread beside the loop, which waits for none of them.

Decisions that fall into one backup share the next. A backup that fails is reported on status, and tried again after the
next decision.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from researcher.decision.goal import moment_text
from researcher.errors import BackupError

logger = logging.getLogger(__name__)

END_S = 15.0  # for the last backup, at the end of the process


class Backups:
    """Calls `write` after requests, until `close`. `write` returns the backup's name, or raises BackupError."""

    def __init__(self, write: Callable[[], str]) -> None:
        self._write = write
        self._changed = threading.Condition()
        self._is_due = self._is_closed = False
        self._last = "no backup is there yet"
        self._fault = ""
        self._thread = threading.Thread(target=self._work, name="backups", daemon=True)
        self._thread.start()

    def request(self) -> None:
        """Ask for a backup, and return at once."""
        with self._changed:
            self._is_due = True
            self._changed.notify()

    def inspect(self) -> str:
        """Describe the failure of the newest backup as text; "" if it was written."""
        return self._fault

    def close(self) -> None:
        """Finish what was asked for, for at most END_S seconds."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(END_S)
        if self._thread.is_alive():
            logger.warning("the last backup is not finished after %.0f s and is given up; %s", END_S, self._last)

    def _work(self) -> None:
        while self._wait():
            try:
                name = self._write()
            except BackupError as error:
                self._fault = f"{error}. {self._last}; tried again after the next decision"
                logger.warning("no backup: %s", self._fault)
            else:
                self._fault, self._last = "", f"the last one is of {moment_text(time.time())}"
                logger.info("backup %s is written", name)

    def _wait(self) -> bool:
        """Wait for a request and return True, or return False at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_due or self._is_closed)
            was_due, self._is_due = self._is_due, False
            return was_due
