"""Publishes the researcher's status in Redis for the live views: its activity, its LLM, and an alarm.

A status expires in Redis, so it is repeated. No decision depends on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from trainer.jobs import RedisClient, Status

logger = logging.getLogger(__name__)

RESEARCHER = "researcher"
SUBJECT = "subject"
BACKUP = "backup"


class StatusPublisher:
    """Repeats the current status every few seconds.

    Each repeat calls `stall_check`, `subject` and `backup`. An alarm is appended to the researcher's status, and logged
    when it begins. `subject` describes what a user did in the subject's repository, `backup` the failure of a backup.
    """

    REPEAT_S = 10.0

    def __init__(
        self,
        bus: RedisClient,
        stall_check: Callable[[], str | None],
        subject: Callable[[], str] = str,
        backup: Callable[[], str] = str,
    ) -> None:
        self._bus = bus
        self._stall_check = stall_check
        self._subject = subject
        self._backup = backup
        self._alarmed = False
        self._messages: dict[str, str] = {}
        self._published_at = 0.0

    def publish_status(self, source: str, message: str) -> None:
        """Publish a message of `source` now."""
        self._messages[source] = message
        self._bus.publish_status(source, Status.working(message))

    def repeat(self) -> None:
        """Publish all messages again if the last repeat is at least `REPEAT_S` seconds old."""
        if time.monotonic() - self._published_at >= self.REPEAT_S:
            self._published_at = time.monotonic()
            self._messages |= {SUBJECT: self._subject(), BACKUP: self._backup()}
            for source, message in list(self._messages.items()):  # the prefetch thread publishes as well
                self._bus.publish_status(source, Status.working(message))
            alarm = self._stall_check()
            if alarm is not None:
                self._bus.publish_status(
                    RESEARCHER, Status.working(f"{self._messages.get(RESEARCHER, '')}; ALARM: {alarm}")
                )
                if not self._alarmed:
                    logger.error("ALARM: %s", alarm)
            self._alarmed = alarm is not None
