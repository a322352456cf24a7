"""The run's clock: seconds since the epoch that never go back, whatever is done to the machine's clock.

What came first follows from the times in the journal, so the clock begins no earlier than the last of them. Set forward
it follows; set back it goes on from where it was. Does not cover the clocks of other machines.
"""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)

JUMP_S = 60.0
LEASES_RENEWED_S = 15.0  # a trainer renews the lease of its trial every five seconds


class RunClock:
    """Call it for the time. `jumps` counts how often the machine's clock was set, as far as this clock was asked."""

    def __init__(self, last: float) -> None:
        """`last` is the newest time that is written down."""
        self._at = max(last, time.time())
        self._behind = self._at - time.time() > JUMP_S
        self._steady_s = time.monotonic()
        self._jumped_s: float | None = None
        self.jumps = 0

    def __call__(self) -> float:
        """Now."""
        steady_s, wall = time.monotonic(), time.time()
        expected = self._at + steady_s - self._steady_s
        behind = expected - wall > JUMP_S
        if wall - expected > JUMP_S or (behind and not self._behind):
            self._note(wall - expected)
        self._at, self._steady_s, self._behind = max(expected, wall), steady_s, behind
        return self._at

    def leases_count(self) -> bool:
        """False for the seconds after a jump in which every lease may look as if it had ended."""
        self()
        return self._jumped_s is None or time.monotonic() - self._jumped_s > LEASES_RENEWED_S

    def _note(self, by_s: float) -> None:
        self.jumps += 1
        self._jumped_s = time.monotonic()
        way = "went forward" if by_s > 0 else "was set back"
        logger.warning("the machine's clock %s by %.0f minutes; nothing is decided by that", way, abs(by_s) / 60)
