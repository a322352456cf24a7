"""Decides when to ask an LLM again that could not be asked.

A poll costs milliseconds, so a missing server is polled every few seconds and asked as soon as it is back. Some faults
(a server that hangs, is busy, or does not fit) only show in a question, which may cost minutes, so the waits between
questions grow. If a hanging server is restarted between two polls, the restart is noticed only after the wait.
"""

from __future__ import annotations

from collections.abc import Callable

from researcher.backoff import Backoff
from researcher.errors import LlmServerFault, LlmTimeout, LlmUnavailable, ModelDoesNotFit, ModelNotUnloaded

LOOK_AGAIN_S = 2.0
LOOKS_SHARE = 0.05  # the highest share of time for polls; a poll takes seconds if packets are dropped


Fault = LlmUnavailable | LlmServerFault

BACKOFFS: dict[type[Fault], Backoff] = {  # the first matching type counts
    ModelDoesNotFit: Backoff(180, 180),  # a question loads the model
    ModelNotUnloaded: Backoff(180, 180),
    LlmTimeout: Backoff(LOOK_AGAIN_S, 1800, growth=4),  # a question takes as long as the allowed silence
    LlmUnavailable: Backoff(LOOK_AGAIN_S, 180, growth=4),
    LlmServerFault: Backoff(LOOK_AGAIN_S, 180, growth=4),
}


class CircuitBreaker:
    """Tracks the availability of one LLM. `away` is the last error, or None while the LLM is available."""

    def __init__(self, clock: Callable[[], float], looks_share: float = LOOKS_SHARE) -> None:
        """Create a breaker.

        `looks_share` limits the share of time for polls; 1 if the caller has nothing else to do.
        """
        self._clock = clock
        self._looks_share = looks_share
        self.away: Fault | None = None
        self._next_look = 0.0
        self._next_question = 0.0
        self._waited_s = 0.0

    def allows_question(self, check_available: Callable[[], object]) -> bool:
        """Return True if a question may be asked now.

        `check_available` is called every few seconds at most. It raises LlmUnavailable if the server is missing.
        """
        if self.away is None:
            return True
        began = self._clock()
        if began < self._next_look:
            return False
        try:
            check_available()
        except LlmUnavailable as error:
            self.away, self._next_question, self._waited_s = error, 0.0, 0.0
            return False
        finally:
            took_s = self._clock() - began
            self._next_look = self._clock() + max(LOOK_AGAIN_S, took_s / self._looks_share - took_s)
        return self._clock() >= self._next_question

    def record_failure(self, error: Fault) -> None:
        """Record that a question failed, and schedule the next one."""
        backoff = next(backoff for kind, backoff in BACKOFFS.items() if isinstance(error, kind))
        self._waited_s = backoff.after(self._waited_s)
        self.away = error
        self._next_look = self._clock() + LOOK_AGAIN_S
        self._next_question = self._clock() + self._waited_s

    def record_answer(self) -> None:
        """Record that the LLM answered."""
        self.away, self._waited_s = None, 0.0
