"""How long to wait after each failure in a row, before the next try: the one rule for LLM, faults and processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waits in seconds: the first, each later one `growth` times as long, and the longest."""

    first_s: float
    longest_s: float
    growth: float = 2.0

    def after(self, waited_s: float) -> float:
        """The wait that follows one of `waited_s`, which is 0 before the first."""
        return min(max(self.first_s, waited_s * self.growth), self.longest_s)
