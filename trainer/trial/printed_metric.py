"""Reads the value of a metric from the output of a command: the last `name: number`, or a JSON summary with the name.

The value is a claim of whoever printed the text. Nothing here says whether it is true.
"""

from __future__ import annotations

import json
import math
import re

_NUMBER = r"[-+]?(?:\d+(?:_\d+)*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)"
_MOST_CHARACTERS = 100_000  # of a JSON summary


def printed_value(text: str, name: str) -> float | None:
    """Return the value that the last line with the metric's name gives, perhaps not finite, or None without one."""
    plain = re.compile(rf"\s*{re.escape(name)}\s*[:=]\s*({_NUMBER})\s*", re.IGNORECASE)
    for line in reversed(text.splitlines()):
        if (found := plain.fullmatch(line)) is not None:
            return float(found[1])
        if line.lstrip().startswith("{") and (value := _in_summary(line, name)) is not None:
            return value
    return None


def _in_summary(line: str, name: str) -> float | None:
    try:
        summary = json.loads(line[:_MOST_CHARACTERS])
    except (ValueError, RecursionError):
        return None
    value = summary.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return math.inf
