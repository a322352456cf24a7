"""Outlines a long train.py: lines that show its structure, and some parts complete, in rotation.

The outline consists of whole lines of the source, so that edits can search for them; a comment replaces each omitted
stretch. The same source, room, names and turn give the same outline. This module does not read the run.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from researcher.errors import Rejected
from researcher.prompting.context_budget import tokens
from researcher.source.proposal import Edit, ReplaceFunction, SearchReplace, WholeFile
from researcher.source.syntax import LINE_END, parse

KNOB_LINES = 4  # fewer neighbouring lines are not worth a comment in their place
LINE_TOKENS = 200  # longest line to show
KNOBS_SHARE = 1 / 2  # for the lines of knobs, which come before anything else
SKELETON_SHARE = 1 / 3
PINNED_SHARE = 1 / 2  # of the room after the skeleton
MARK_TOKENS = 16
SHORT_LINES = 6  # the longest statement to show completely

_MARK = re.compile(r"#\s*\[lines? \d+(?:-\d+)? (?:is|are) (?:not shown|shown below)\]")
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Part:
    """Lines `first` to `last`, counted from 1, with the comments above. `name` is None for other statements."""

    name: str | None
    first: int
    last: int


def outline(source: str, room: int, named: Sequence[str], turn: int) -> str | None:
    """Return at most `room` tokens of `source`: the parts `named` first, then other parts, which rotate with `turn`.

    Returns None if the room is too small for anything. Raises EditError if the source does not parse.
    """
    view = _View(source)
    for share in (1.0, 0.8, 0.6, 0.4):
        text = view.text(view.lines_within(int(share * room), named, turn))
        if tokens(text) <= room:
            return text
    return None


def part_names(source: str) -> list[str]:
    """Return the names of functions and methods, in their order. Raises EditError if the source does not parse."""
    return [part.name for part in _View(source).parts if part.name is not None]


def short_parts(source: str, longest: int) -> list[str]:
    """Return the names of functions and methods of at most `longest` tokens. Raises EditError."""
    view = _View(source)
    return [part.name for part in view.parts if part.name is not None and view.tokens_of(part) <= longest]


def excerpt(source: str, name: str) -> str:
    """Return the knobs, the first line of each definition, and the function `name` whole. Raises EditError."""
    view = _View(source)
    return view.text(view.lines_around(name))


def knobs_apart(source: str) -> tuple[str, str]:
    """Return the source with a comment in place of its blocks of knobs, and these blocks, which change most often.

    The second text is empty if there is no such block. Raises EditError if the source does not parse.
    """
    lines = LINE_END.sub("\n", source).split("\n")
    blocks = [*_knob_blocks(parse(source).body)]
    for block in reversed(blocks):
        lines[block.start - 1 : block.stop - 1] = [f"# [lines {block.start}-{block.stop - 1} are shown below]"]
    whole = LINE_END.sub("\n", source).split("\n")
    return "\n".join(lines), "\n".join(whole[number - 1] for block in blocks for number in block)


def _knob_blocks(body: Sequence[ast.stmt]) -> Iterator[range]:
    """Yield the lines of neighbouring knobs, with the comments between them, unless other code is on these lines."""
    runs = [(is_knob, [*run]) for is_knob, run in groupby(body, _is_knob)]
    taken = Counter(line for _, run in runs for line in {run[0].lineno, run[-1].end_lineno})
    for is_knob, run in runs:
        first, last = run[0].lineno, run[-1].end_lineno or run[-1].lineno
        if is_knob and last - first + 1 >= KNOB_LINES and taken[first] == taken[last] == 1:
            yield range(first, last + 1)


def refuse_marks(edits: Iterable[Edit]) -> None:
    """Raise Rejected (written for the model) for an edit that copies a comment of the outline as code."""
    for edit in edits:
        match edit:
            case WholeFile(text) | ReplaceFunction(_, text) | SearchReplace(text, _):
                found = _MARK.search(text)
            case _:
                found = None
        if found:
            raise Rejected(
                f"the answer copies '{found.group()}', which stands for lines of train.py that you cannot see"
            )


class _View:
    def __init__(self, source: str) -> None:
        self._lines = LINE_END.sub("\n", source).split("\n")
        self._costs = [tokens(line) + 1 for line in self._lines]
        self.parts: list[Part] = []
        self._knobs: list[range] = []
        self._tiers: list[list[range]] = [[], [], [], []]  # values and imports; definitions; statements; docstrings
        self._read(parse(source).body, "", 0)

    def lines_within(self, room: int, named: Sequence[str], turn: int) -> set[int]:
        """Return the numbers of the lines to show."""
        shown: set[int] = set()
        spent = 0
        for lines in self._knobs:
            spent = self._add(shown, lines, spent, int(KNOBS_SHARE * room))
        skeleton = int(SKELETON_SHARE * (room - spent))
        small, whole = spent + skeleton // 2, spent + skeleton
        values, definitions, statements, docstrings = self._tiers
        for tier, limit in (
            (values, small),
            (definitions, whole),
            (values, whole),
            (statements, whole),
            (docstrings, whole),
        ):
            for lines in tier:
                spent = self._add(shown, lines, spent, limit)
        pinned = spent + int(PINNED_SHARE * (room - spent))
        for part in self._found(named):
            spent = self._add(shown, range(part.first, part.last + 1), spent, pinned)
        pages = [*self._pages(shown, room - spent)]
        return shown.union(pages[turn % len(pages)]) if pages else shown

    def lines_around(self, name: str) -> set[int]:
        """Return the lines of the knobs, of the part `name`, and the first lines of all definitions."""
        part = next(self._found([name]))
        ranges = [*self._knobs, *self._tiers[1], range(part.first, part.last + 1)]
        return {line for lines in ranges for line in lines}

    def tokens_of(self, part: Part) -> int:
        """Return the tokens of a part."""
        return sum(self._costs[part.first - 1 : part.last])

    def text(self, shown: set[int]) -> str:
        """Return the shown lines, with a comment for each stretch between them."""
        made: list[str] = []
        hidden: list[int] = []
        for number, line in enumerate(self._lines, start=1):
            if number not in shown and (line.strip() or hidden):
                hidden.append(number)
                continue
            made += [*self._mark(hidden), line]
            hidden = []
        return "\n".join([*made, *self._mark(hidden)])

    def _mark(self, hidden: list[int]) -> list[str]:
        lines = [self._lines[number - 1] for number in hidden]
        if sum(1 for line in lines if line.strip()) <= 1 and sum(self._costs[n - 1] for n in hidden) <= MARK_TOKENS:
            return lines
        while not self._lines[hidden[-1] - 1].strip():
            hidden.pop()
        line = lines[0]
        indentation = line[: len(line) - len(line.lstrip())][:40]
        what = f"lines {hidden[0]}-{hidden[-1]} are" if len(hidden) > 1 else f"line {hidden[0]} is"
        return [f"{indentation}# [{what} not shown]"]

    def _read(self, body: Sequence[ast.stmt], prefix: str, above: int) -> None:
        """Collect the parts of a body. `above` is the last line before the body."""
        for node in body:
            end = node.end_lineno or node.lineno
            if isinstance(node, _Definition):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                self._tiers[1].append(range(first, max(first, node.body[0].lineno - 1, node.lineno) + 1))
                self._tiers[3] += _docstring(node)
            if isinstance(node, ast.ClassDef):
                self._read(node.body, f"{prefix}{node.name}.", above)
            elif isinstance(node, _Definition):
                self.parts.append(Part(prefix + node.name, above + 1, end))
            else:
                is_whole = end - node.lineno < SHORT_LINES
                plain = isinstance(node, ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign)
                tier = self._knobs if not prefix and _is_knob(node) else self._tiers[0 if plain else 2]
                tier.append(range(node.lineno, (end if is_whole else node.lineno) + 1))
                self.parts.append(Part(None, above + 1, end))
            above = end

    def _found(self, named: Sequence[str]) -> Iterator[Part]:
        for name in named:
            for part in self.parts:
                if part.name is not None and name in (part.name, part.name.rpartition(".")[2]):
                    yield part

    def _pages(self, shown: set[int], room: int) -> Iterator[set[int]]:
        """Yield pages that cover all remaining lines of all parts. A part that fits a page is not split."""
        page: set[int] = set()
        spent = 0
        for part in self.parts:
            lines = [line for line in range(part.first, part.last + 1) if line not in shown and self._fits(line)]
            if spent + sum(self._costs[line - 1] for line in lines) + MARK_TOKENS > room and page:
                yield page
                page, spent = set(), 0
            for line in lines:
                if spent + self._costs[line - 1] > room and page:
                    yield page
                    page, spent = set(), 0
                page.add(line)
                spent += self._costs[line - 1]
            spent += MARK_TOKENS if lines else 0
        if page:
            yield page

    def _add(self, shown: set[int], lines: range, spent: int, room: int) -> int:
        """Show these lines if they fit, and return the tokens spent so far."""
        wanted = [line for line in lines if line not in shown and self._fits(line)]
        follows = lines.start - 1 in shown  # no comment stands between them
        cost = sum(self._costs[line - 1] for line in wanted) + (0 if follows else MARK_TOKENS)
        if not wanted or spent + cost > room:
            return spent
        shown.update(wanted)
        return spent + cost

    def _fits(self, line: int) -> bool:
        return self._costs[line - 1] <= LINE_TOKENS


def _is_knob(node: ast.stmt) -> bool:
    """Return True for an assignment to a name in capitals."""
    match node:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name.isupper()
    return False


def _docstring(node: _Definition) -> list[range]:
    first = node.body[0]
    is_text = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return [range(first.lineno, first.lineno + 1)] if is_text else []
