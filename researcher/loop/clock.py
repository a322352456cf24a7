"""The run's clock: seconds since the epoch that never decrease, even if the machine's clock is set back.

The order of events follows from the times in the journal, so the clock starts no earlier than the latest of them. If
the machine's clock is set forward, this clock follows; if it is set back, this clock continues from its last time.
Clocks of other machines are not covered.
"""

from __future__ import annotations

import logging
import time

logger = logging.getLogger(__name__)

JUMP_S = 60.0
LEASES_RENEWED_S = 15.0  # a trainer renews the lease of its trial every five seconds


class RunClock:
    """Returns the time when called.

    `jumps` counts how often the machine's clock was set, as far as calls noticed it.
    """

    def __init__(self, last: float) -> None:
        """Start the clock. `last` is the latest time in the journal."""
        self._at = max(last, time.time())
        self._behind = self._at - time.time() > JUMP_S
        self._steady_s = time.monotonic()
        self._jumped_s: float | None = None
        self.jumps = 0

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        steady_s, wall = time.monotonic(), time.time()
        expected = self._at + steady_s - self._steady_s
        behind = expected - wall > JUMP_S
        if wall - expected > JUMP_S or (behind and not self._behind):
            self._note(wall - expected)
        self._at, self._steady_s, self._behind = max(expected, wall), steady_s, behind
        return self._at

    def leases_count(self) -> bool:
        """Return False for some seconds after a jump, while every lease may seem to have expired."""
        self()
        return self._jumped_s is None or time.monotonic() - self._jumped_s > LEASES_RENEWED_S

    def _note(self, by_s: float) -> None:
        self.jumps += 1
        self._jumped_s = time.monotonic()
        way = "went forward" if by_s > 0 else "was set back"
        logger.warning("the machine's clock %s by %.0f minutes; nothing is decided by that", way, abs(by_s) / 60)
