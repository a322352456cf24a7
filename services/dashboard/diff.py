"""The difference of two sources, as hunks of numbered lines. Bounded, because a candidate may be a megabyte long."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    opcodes = _opcodes(before, after)
    hunks: list[tuple[Line, ...]] = []
    left, left_out = MOST_LINES, 0
    for group in _grouped(opcodes):
        lines = [*_lines(group, before, after)]
        if left > 0:
            hunks.append(tuple(lines[:left]))
        left_out += max(0, len(lines) - max(0, left))
        left -= len(lines)
    changed = [code for code in opcodes if code[0] != "equal"]
    return Diff(
        hunks=tuple(hunks),
        added=sum(code[4] - code[3] for code in changed),
        removed=sum(code[2] - code[1] for code in changed),
        left_out=left_out,
    )


def _opcodes(before: Sequence[str], after: Sequence[str]) -> list[_Opcode]:
    """Return the steps between two lists of lines; the equal beginning and end are found first, which is cheap."""
    shorter = min(len(before), len(after))
    head = next((at for at in range(shorter) if before[at] != after[at]), shorter)
    tail = next((at for at in range(shorter - head) if before[-1 - at] != after[-1 - at]), shorter - head)
    old, new = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(old) * len(new) > MOST_COMPARED:
        middle: list[_Opcode] = [("replace", 0, len(old), 0, len(new))]
    else:
        middle = [*SequenceMatcher(None, old, new, autojunk=False).get_opcodes()]
    shifted = [(tag, a + head, b + head, c + head, d + head) for tag, a, b, c, d in middle]
    ends = len(before) - tail, len(after) - tail
    whole = [("equal", 0, head, 0, head), *shifted, ("equal", ends[0], len(before), ends[1], len(after))]
    return [code for code in whole if code[2] > code[1] or code[4] > code[3]]


def _grouped(opcodes: Sequence[_Opcode]) -> Iterator[list[_Opcode]]:
    """Yield the steps in groups, each with `CONTEXT` equal lines around it."""
    group: list[_Opcode] = []
    for at, (tag, a, b, c, d) in enumerate(opcodes):
        if tag != "equal":
            group.append((tag, a, b, c, d))
            continue
        is_last = at == len(opcodes) - 1
        if group and (is_last or b - a > 2 * CONTEXT):
            yield [*group, (tag, a, min(b, a + CONTEXT), c, min(d, c + CONTEXT))]
            group = []
        if not is_last:
            start = max(a, b - CONTEXT) if not group else a
            group.append((tag, start, b, d - (b - start), d))
    if any(code[0] != "equal" for code in group):
        yield group


def _lines(group: Sequence[_Opcode], before: Sequence[str], after: Sequence[str]) -> Iterator[Line]:
    for tag, a, b, c, d in group:
        if tag == "equal":
            yield from (Line(" ", a + at + 1, c + at + 1, _short(before[a + at])) for at in range(b - a))
        else:
            yield from (Line("-", at + 1, None, _short(before[at])) for at in range(a, b))
            yield from (Line("+", None, at + 1, _short(after[at])) for at in range(c, d))


def _short(line: str) -> str:
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]} … {len(line) - LONGEST_LINE} more characters"
