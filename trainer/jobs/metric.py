"""The metric of a run: its name, its direction and its unit.

Rules and the optimiser compare scores, and a lower score is always better. A score is the metric's value, with the
opposite sign where a higher value is better. Only this module converts between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

CLAIMED_BY = "claimed by the script"


class Degree(StrEnum):
    """The degree of trust in a score: printed by the script, or measured outside of it."""

    CLAIMED = "claimed"
    MEASURED = "measured"


class Direction(StrEnum):
    """The direction in which a metric improves."""

    LOWER = "lower"
    HIGHER = "higher"


@dataclass(frozen=True)
class Metric:
    """A metric. `unit` may be empty."""

    name: str
    direction: Direction = Direction.LOWER
    unit: str = ""

    def score_of(self, value: float) -> float:
        """Return the score of a value."""
        return self._turned(value)

    def value_of(self, score: float) -> float:
        """Return the value of a score."""
        return self._turned(score)

    def change(self, difference: float) -> float:
        """Return the change of the value that belongs to a difference of two scores."""
        return self._turned(difference)

    def text(self, score: float) -> str:
        """Return the value of a score with six decimals."""
        return f"{self.value_of(score):.6f}"

    def explained(self, degree: Degree = Degree.MEASURED) -> str:
        """Return unit, direction and degree as text for users: `bits per byte, lower is better`."""
        claimed = CLAIMED_BY if degree is Degree.CLAIMED else ""
        return ", ".join(filter(None, (self.unit, f"{self.direction} is better", claimed)))

    def _turned(self, number: float) -> float:
        return number if self.direction is Direction.LOWER else 0.0 - number  # 0.0 - 0.0 is not -0.0


BITS_PER_BYTE = Metric("val_bpb", Direction.LOWER, "bits per byte")


def share_of(gain: float, baseline: float) -> float | None:
    """Return a gain as a share of the baseline's score, or None for a baseline of 0."""
    return gain / abs(baseline) if baseline else None
