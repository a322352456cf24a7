"""The difference of two sources, as hunks of numbered lines. Bounded, because a candidate may be a megabyte long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

CONTEXT = 3
MOST_LINES = 1_500
LONGEST_LINE = 400
MOST_COMPARED = 4_000_000  # lines of one source times those of the other; more are shown as one replacement

_Opcode = tuple[str, int, int, int, int]


@dataclass(frozen=True)
class Line:
    """A line of a hunk. `mark` is + or - or a space; a line of one source has no number in the other."""

    mark: str
    old: int | None
    new: int | None
    text: str


@dataclass(frozen=True)
class Diff:
    """The hunks of a difference. `added` and `removed` count all changed lines, also those that are `left_out`."""

    hunks: tuple[tuple[Line, ...], ...]
    added: int
    removed: int
    left_out: int


def diff_of(old: str, new: str) -> Diff:
    """Return what changes the old source into the new one."""
    before, after = old.splitlines(), new.splitlines()
    hunks: list[tuple[Line, ...]] = []
    left, added, removed, left_out = MOST_LINES, 0, 0, 0
    for group in _groups(before, after):
        lines = [*_lines(group, before, after)]
        if left > 0:
            hunks.append(tuple(lines[:left]))
        left_out += max(0, len(lines) - max(0, left))
        left -= len(lines)
        added += sum(line.mark == "+" for line in lines)
        removed += sum(line.mark == "-" for line in lines)
    return Diff(hunks=tuple(hunks), added=added, removed=removed, left_out=left_out)


def _groups(before: Sequence[str], after: Sequence[str]) -> Iterator[list[_Opcode]]:
    """Yield the steps between two lists of lines in groups, each with `CONTEXT` equal lines around it.

    The equal beginning and end are found first, which is cheap, and only their context is compared again.
    """
    shorter = min(len(before), len(after))
    head = next((at for at in range(shorter) if before[at] != after[at]), shorter)
    tail = next((at for at in range(shorter - head) if before[-1 - at] != after[-1 - at]), shorter - head)
    leading, trailing = min(head, CONTEXT), min(tail, CONTEXT)
    first, end = head - leading, tail - trailing
    old, new = before[first : len(before) - end], after[first : len(after) - end]
    if len(old) * len(new) > MOST_COMPARED:
        ends = len(old) - trailing, len(new) - trailing
        replaced = ("replace", leading, ends[0], leading, ends[1])
        groups: Iterable[list[_Opcode]] = [
            [("equal", 0, leading, 0, leading), replaced, ("equal", ends[0], len(old), ends[1], len(new))]
        ]
    else:
        groups = SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(CONTEXT)
    for group in groups:
        yield [(tag, a + first, b + first, c + first, d + first) for tag, a, b, c, d in group]


def _lines(group: Sequence[_Opcode], before: Sequence[str], after: Sequence[str]) -> Iterator[Line]:
    for tag, a, b, c, d in group:
        if tag == "equal":
            yield from (Line(" ", a + at + 1, c + at + 1, _short(before[a + at])) for at in range(b - a))
        else:
            yield from (Line("-", at + 1, None, _short(before[at])) for at in range(a, b))
            yield from (Line("+", None, at + 1, _short(after[at])) for at in range(c, d))


def _short(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} … {len(line) - LONGEST_LINE} more characters"
