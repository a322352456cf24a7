"""When an LLM that could not be asked is asked again.

A look costs milliseconds, so one that is gone is looked for every few seconds and asked as soon as it is back. What a
look cannot see (it hangs, it is busy, it does not fit) shows only in a question, which may cost minutes: those wait
longer each time. Of a server that hangs and is restarted between two looks nothing is noticed before that wait ends.
"""

from __future__ import annotations

from collections.abc import Callable

from researcher.backoff import Backoff
from researcher.errors import LlmTimeout, LlmUnavailable, ModelDoesNotFit, ModelNotUnloaded

LOOK_AGAIN_S = 2.0
LOOKS_SHARE = 0.05  # of others' time at most: where packets vanish, a look takes seconds


BACKOFFS: dict[type[LlmUnavailable], Backoff] = {  # the first that fits
    ModelDoesNotFit: Backoff(180, 180),  # a try loads the model
    ModelNotUnloaded: Backoff(180, 180),
    LlmTimeout: Backoff(LOOK_AGAIN_S, 1800, growth=4),  # a try takes as long as the silence that is allowed
    LlmUnavailable: Backoff(LOOK_AGAIN_S, 180, growth=4),
}


class CircuitBreaker:
    """Of one LLM. `away` is why it could not be asked last time; None while it can."""

    def __init__(self, clock: Callable[[], float], looks_share: float = LOOKS_SHARE) -> None:
        """Looks take `looks_share` of the time at most; 1 where nothing else is to be done."""
        self._clock = clock
        self._looks_share = looks_share
        self.away: LlmUnavailable | None = None
        self._next_look = 0.0
        self._next_question = 0.0
        self._waited_s = 0.0

    def is_over(self, look: Callable[[], object]) -> bool:
        """Whether to ask now. `look` is called every few seconds at most; it raises LlmUnavailable where nobody is
        there."""
        if self.away is None:
            return True
        began = self._clock()
        if began < self._next_look:
            return False
        try:
            look()
        except LlmUnavailable as error:
            self.away, self._next_question, self._waited_s = error, 0.0, 0.0
            return False
        finally:
            took_s = self._clock() - began
            self._next_look = self._clock() + max(LOOK_AGAIN_S, took_s / self._looks_share - took_s)
        return self._clock() >= self._next_question

    def begins(self, error: LlmUnavailable) -> None:
        """A question found it away, or found it so again."""
        backoff = next(backoff for kind, backoff in BACKOFFS.items() if isinstance(error, kind))
        self._waited_s = backoff.after(self._waited_s)
        self.away = error
        self._next_look = self._clock() + LOOK_AGAIN_S
        self._next_question = self._clock() + self._waited_s

    def ends(self) -> None:
        """It answered."""
        self.away, self._waited_s = None, 0.0
