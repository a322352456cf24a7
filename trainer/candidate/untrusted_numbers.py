"""Checks numbers from a candidate: every number that its process sends or prints passes `within` before it is used.

Standard library only, because both ends of the protocol import this module.
"""

from __future__ import annotations


def within(value: float | str | bytes, least: float, most: float) -> float | None:
    """Return the number as a float if `least <= number <= most`, otherwise None. Text is parsed like a Python float.

    The bounds are finite, so NaN and infinities give None.
    """
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if least <= number <= most else None
