"""The lines of an answer, and its fences: what is asked of a stretch of lines takes no longer where that is long.

One pass from the end to the beginning finds for every line that opens a fence the line that closes it, so an answer
full of fences that nobody closes is read in the same time as any other of its length.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

# Possessive (`++`, `*+`): a model that repeats itself writes long runs.
FENCE = re.compile(r"\s{0,3}(`{3,}+|~{3,}+)[^`]*+")


@dataclass(frozen=True)
class Fence:
    """A fence between the lines `start` and `end`, both excluded; one that is cut off reaches to the last line."""

    start: int
    end: int
    closed: bool


class Lines:
    """The lines of an answer; `is_mark` says which of them begin or end an edit."""

    def __init__(self, lines: Sequence[str], is_mark: Callable[[str], bool]) -> None:
        self._lines = lines
        self._closed_by = _closings(lines)
        self._marks = [0, *accumulate(map(is_mark, lines))]
        self._inked = _inked(lines)

    def fence_at(self, position: int) -> Fence | None:
        """The fence that this line opens."""
        if position not in self._closed_by:
            return None
        end = self._closed_by[position]
        return Fence(position, end, end < len(self._lines))

    def inked_from(self, position: int) -> int:
        """The first line from this one on that is not blank; the number of lines where there is none."""
        return self._inked[position]

    def first_inside(self, fence: Fence) -> str:
        """The first line of a fence that is not blank; empty where there is none."""
        first = self._inked[fence.start + 1]
        return self._lines[first] if first < fence.end else ""

    def has_mark(self, fence: Fence) -> bool:
        """Whether an edit begins or ends inside."""
        return self._marks[fence.end] > self._marks[fence.start + 1]

    def text(self, fence: Fence) -> str:
        """What stands inside."""
        return "".join(line + "\n" for line in self._lines[fence.start + 1 : fence.end])


def _closings(lines: Sequence[str]) -> dict[int, int]:
    """For each line that opens a fence the line that closes it: the next one of nothing but as many of its marks.

    Of each mark the lines below are kept that no nearer and longer one hides: their lengths fall as they come nearer.
    """
    found: dict[int, int] = {}
    lengths: dict[str, list[int]] = {"`": [], "~": []}  # negative, so that they rise
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
    """For each line, and for the end, the first one from there on that is not blank."""
    found = [len(lines)] * (len(lines) + 1)
    for position in range(len(lines) - 1, -1, -1):
        found[position] = position if lines[position].strip() else found[position + 1]
    return found
