"""The wait between a failure and the next try, for pauses, the LLM's circuit breaker and the process supervisor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waits in seconds: the first, each later one `growth` times as long, and the longest."""

    first_s: float
    longest_s: float
    growth: float = 2.0

    def after(self, waited_s: float) -> float:
        """Return the wait that follows a wait of `waited_s` seconds, which is 0 before the first."""
        return min(max(self.first_s, waited_s * self.growth), self.longest_s)
