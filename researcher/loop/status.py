"""What the researcher says in Redis, for whoever watches: what it does, where its LLM is, an alarm.

What is said fades, so it is repeated; nobody decides anything by it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from trainer.jobs import RedisClient, Status

logger = logging.getLogger(__name__)

RESEARCHER = "researcher"
SUBJECT = "subject"


class StatusPublisher:
    """Repeats itself every few seconds.

    `stall_check` is asked as often: an alarm is added to what the researcher does, and logged when it begins. So is
    `subject`, for what a person did there.
    """

    REPEAT_S = 10.0

    def __init__(
        self, bus: RedisClient, stall_check: Callable[[], str | None], subject: Callable[[], str] = str
    ) -> None:
        self._bus = bus
        self._stall_check = stall_check
        self._subject = subject
        self._worried = False
        self._words: dict[str, str] = {}
        self._said_at = 0.0

    def say(self, who: str, words: str) -> None:
        """Say it now."""
        self._words[who] = words
        self._bus.say(who, Status.working(words))

    def repeat(self) -> None:
        """Say everything again, if it was a while ago."""
        if time.monotonic() - self._said_at >= self.REPEAT_S:
            self._said_at = time.monotonic()
            self._words[SUBJECT] = self._subject()
            for who, words in list(self._words.items()):  # the drafting thread speaks as well
                self._bus.say(who, Status.working(words))
            stall_check = self._stall_check()
            if stall_check is not None:
                self._bus.say(RESEARCHER, Status.working(f"{self._words.get(RESEARCHER, '')}; ALARM: {stall_check}"))
                if not self._worried:
                    logger.error("ALARM: %s", stall_check)
            self._worried = stall_check is not None
