"""The lines of an answer and its fences, indexed so that each query takes the same time for any length.

One pass from the end to the beginning finds the closing line of each opening fence. So an answer full of unclosed
fences is read as fast as any other of its length.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

# Possessive (`++`, `*+`), because a repeating model writes long runs.
FENCE = re.compile(r"\s{0,3}(`{3,}+|~{3,}+)[^`]*+")


@dataclass(frozen=True)
class Fence:
    """A fence between the lines `start` and `end`, both excluded. An unclosed fence reaches to the last line."""

    start: int
    end: int
    closed: bool


class Lines:
    """The lines of an answer. `is_mark` returns True for lines that begin or end an edit."""

    def __init__(self, lines: Sequence[str], is_mark: Callable[[str], bool]) -> None:
        self._lines = lines
        self._closed_by = _closings(lines)
        self._marks = [0, *accumulate(map(is_mark, lines))]
        self._inked = _inked(lines)

    def fence_at(self, position: int) -> Fence | None:
        """Return the fence that this line opens, or None."""
        if position not in self._closed_by:
            return None
        end = self._closed_by[position]
        return Fence(position, end, end < len(self._lines))

    def inked_from(self, position: int) -> int:
        """Return the first non-blank line from this one on, or the number of lines if there is none."""
        return self._inked[position]

    def first_inside(self, fence: Fence) -> str:
        """Return the first non-blank line of a fence, or an empty text."""
        first = self._inked[fence.start + 1]
        return self._lines[first] if first < fence.end else ""

    def has_mark(self, fence: Fence) -> bool:
        """Return True if an edit begins or ends inside the fence."""
        return self._marks[fence.end] > self._marks[fence.start + 1]

    def text(self, fence: Fence) -> str:
        """Return the text inside the fence."""
        return "".join(line + "\n" for line in self._lines[fence.start + 1 : fence.end])


def _closings(lines: Sequence[str]) -> dict[int, int]:
    """Map each line that opens a fence to the line that closes it: the next line with only its mark, at least as often.

    For each kind of mark, only those lines below are kept that no nearer and longer mark hides; so their lengths
    decrease towards the present line.
    """
    found: dict[int, int] = {}
    lengths: dict[str, list[int]] = {"`": [], "~": []}  # negative, so that they increase
    places: dict[str, list[int]] = {"`": [], "~": []}
    for position in range(len(lines) - 1, -1, -1):
        if opening := FENCE.fullmatch(lines[position]):
            mark, wanted = opening.group(1)[0], len(opening.group(1))
            at = bisect_right(lengths[mark], -wanted) - 1
            found[position] = places[mark][at] if at >= 0 else len(lines)
        closing = lines[position].strip()
        mark = closing[:1]
        if mark in lengths and closing == mark * len(closing):
            while lengths[mark] and lengths[mark][-1] >= -len(closing):
                lengths[mark].pop()
                places[mark].pop()
            lengths[mark].append(-len(closing))
            places[mark].append(position)
    return found


def _inked(lines: Sequence[str]) -> list[int]:
    """Return for each line, and for the end, the first non-blank line from there on."""
    found = [len(lines)] * (len(lines) + 1)
    for position in range(len(lines) - 1, -1, -1):
        found[position] = position if lines[position].strip() else found[position + 1]
    return found
