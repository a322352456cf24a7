"""The one function that takes a number from a candidate: what it says is finite, within bounds, and a float; or None.

Everything that a candidate's process sends or prints goes through `within` before anybody calculates with it. Standard
library only, because both ends of the wire import it.
"""

from __future__ import annotations


def within(value: float | str | bytes, least: float, most: float) -> float | None:
    """The number if `least <= number <= most`, which are finite, so NaN and infinities never are; else None. Text is
    read as Python reads a float."""
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if least <= number <= most else None
