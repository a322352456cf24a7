"""Applies edits to a source, in their order: knob assignments, definitions, search/replace pairs and whole files.

A search must match exactly one place. First whole lines are compared without trailing blanks, then with another common
indentation, which the replacement gets too. A text that matches no line is searched inside the lines. Nothing is
guessed: an edit without a match is refused with the nearest real lines.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import assert_never

from researcher.errors import EditError
from researcher.source.definitions import definition_around, replace_definition
from researcher.source.knobs import read_knobs, set_knobs
from researcher.source.proposal import Edit, KnobLiteral, ReplaceFunction, SearchReplace, SetKnobs, WholeFile
from researcher.source.syntax import LINE_END, line_end

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_WORD = re.compile(r"\w")
_NEAREST_LINES = 12
_COMPARED_CHARACTERS = 200
_COMPARED_LINES = 40
_GUESSED_LINES = 3
TITLED_MOVES = 4


def apply_edits(source: str, edits: Iterable[Edit]) -> str:
    """Return `source` after all edits.

    Raises EditError, written for the proposer, for the first edit that does not fit.
    """
    for number, edit in enumerate(edits, start=1):
        match edit:
            case SetKnobs(knobs=values):
                source = set_knobs(source, values)
            case ReplaceFunction(name=name, definition=definition):
                source = replace_definition(source, name, definition, number)
            case SearchReplace(search=search, replace=replace):
                source = _replaced(source, search, replace, number)
            case WholeFile(text=text):
                source = LINE_END.sub(line_end(source), text if text.endswith("\n") else text + "\n")
            case _:
                assert_never(edit)
    return source


def title_of(source: str, edits: Sequence[Edit]) -> str:
    """Describe what edits change, from what to what: the moves of knobs, or the first lines that differ.

    Of edits that do not fit the source, the title says what they were to change.
    """
    if all(isinstance(edit, SetKnobs) for edit in edits):
        old = {name: knob.value for name, knob in read_knobs(source).items()}
        return title_of_moves(old, {name: value for edit in edits for name, value in _knobs(edit).items()})
    try:
        return _difference(source, apply_edits(source, edits))
    except EditError:
        return "; ".join(map(_intention, edits))


def title_of_moves(old: Mapping[str, KnobLiteral], moves: Mapping[str, KnobLiteral]) -> str:
    """Describe moves as text: each knob's old and new value, at most `TITLED_MOVES` of them."""
    changes = [f"{name} {old.get(name, 'unknown')} -> {value}" for name, value in moves.items()]
    more = f" and {len(changes) - TITLED_MOVES} more" if len(changes) > TITLED_MOVES else ""
    return ", ".join(changes[:TITLED_MOVES]) + more


def clamped(source: str, edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return the edits with each number outside of its knob's range moved to the nearest value inside."""
    ranges = {name: knob.range for name, knob in read_knobs(source).items() if knob.range is not None}

    def inside(name: str, value: KnobLiteral) -> KnobLiteral:
        return value if name not in ranges or isinstance(value, tuple) else ranges[name].nearest(value)

    return tuple(
        SetKnobs({name: inside(name, value) for name, value in edit.knobs.items()})
        if isinstance(edit, SetKnobs)
        else edit
        for edit in edits
    )


def _knobs(edit: Edit) -> Mapping[str, KnobLiteral]:
    return edit.knobs if isinstance(edit, SetKnobs) else {}


def _difference(before: str, after: str) -> str:
    """Describe the first line in which two sources differ, and say whether more follow."""
    old, new = ([line.strip() for line in _bare_lines(text)] for text in (before, after))
    shorter = min(len(old), len(new))
    first = next((number for number in range(shorter) if old[number] != new[number]), shorter)
    last = next((number for number in range(shorter - first) if old[-1 - number] != new[-1 - number]), shorter - first)
    removed, added = ([line for line in lines[first : len(lines) - last] if line] for lines in (old, new))
    if not removed and not added:
        return "only blanks"
    if removed and added:
        what = f"{removed[0]} -> {added[0]}"
    else:
        what = f"without {removed[0]}" if removed else f"new: {added[0]}"
    more = " and more" if max(len(removed), len(added)) > 1 else ""
    return f"{definition_around(before, first + 1) or f'line {first + 1}'}: {what}{more}"


def _intention(edit: Edit) -> str:
    match edit:
        case SetKnobs(knobs=values):
            return ", ".join(f"{name} = {value}" for name, value in values.items())
        case ReplaceFunction(name=name):
            return f"a new {name or 'definition'}"
        case SearchReplace(search=search, replace=replace):
            return f"{_first_line(search)} -> {_first_line(replace)}"
        case WholeFile():
            return "a new train.py"
        case _:
            assert_never(edit)


def _first_line(text: str) -> str:
    return next((line.strip() for line in _bare_lines(text) if line.strip()), "nothing")


def _replaced(source: str, search: str, replace: str, number: int) -> str:
    wanted, new = _without_outer_blanks(_bare_lines(search), _bare_lines(replace))
    if not wanted:
        raise EditError(f"SEARCH of edit {number} is empty; copy the lines of train.py that are to be replaced")
    lines = _LINE.findall(source)
    real, wanted = [line.rstrip() for line in lines], [line.rstrip() for line in wanted]
    places, more, less = _line_places(real, wanted), "", ""
    if not places:
        shifts = list(_shifted_places(real, wanted))
        places = [place for place, _, _ in shifts]
        if len(shifts) == 1:
            _, more, less = shifts[0]
    if len(places) > 1:
        raise _ambiguous(number, [place + 1 for place in places])
    if not places:
        return _replaced_inside_lines(source, "\n".join(wanted), "\n".join(new), number)
    start, end = places[0], places[0] + len(wanted)
    shifted = [_shifted(line, more, less, number) for line in new]
    return "".join([*lines[:start], *_with_line_ends(shifted, lines[end - 1], source), *lines[end:]])


def _replaced_inside_lines(source: str, search: str, replace: str, number: int) -> str:
    end = line_end(source)
    text = search.replace("\n", end)
    starts = list(_places_inside_lines(source, text))
    if len(starts) > 1:
        raise _ambiguous(number, [len(LINE_END.findall(source, 0, start)) + 1 for start in starts])
    if not starts:
        raise EditError(_not_found(source, search, replace, number))
    return source[: starts[0]] + replace.replace("\n", end) + source[starts[0] + len(text) :]


def _places_inside_lines(source: str, text: str) -> Iterator[int]:
    """Yield the places of a text, except where it begins or ends inside a name, because that is another name."""
    at = source.find(text)
    while at >= 0:
        end = at + len(text)
        begins_inside = _WORD.match(text[0]) and at > 0 and _WORD.match(source[at - 1])
        ends_inside = _WORD.match(text[-1]) and _WORD.match(source[end : end + 1])
        if not (begins_inside or ends_inside):
            yield at
        at = source.find(text, at + 1 if begins_inside or ends_inside else end)


def _bare_lines(text: str) -> list[str]:
    return [LINE_END.sub("", line) for line in _LINE.findall(text)]


def _without_outer_blanks(search: list[str], replace: list[str]) -> tuple[list[str], list[str]]:
    """Remove the blank lines at the ends of the search, and as many from the replacement if it has them."""
    first, of_replace = _leading_blanks(search), _leading_blanks(replace)
    search, replace = search[first:], replace[min(first, of_replace) :]
    last, of_replace = _leading_blanks(search[::-1]), _leading_blanks(replace[::-1])
    return search[: len(search) - last], replace[: len(replace) - min(last, of_replace)]


def _leading_blanks(lines: list[str]) -> int:
    return next((count for count, line in enumerate(lines) if line.strip()), len(lines))


def _line_places(lines: list[str], wanted: list[str]) -> list[int]:
    return [
        start
        for start in range(len(lines) - len(wanted) + 1)
        if lines[start] == wanted[0] and lines[start : start + len(wanted)] == wanted
    ]


def _shifted_places(lines: list[str], wanted: list[str]) -> Iterator[tuple[int, str, str]]:
    """Yield the places where all of `wanted` is indented by `more`, or less by `less`."""
    for start in _line_places([line.strip() for line in lines], [line.strip() for line in wanted]):
        pairs = [(line, lines[start + offset]) for offset, line in enumerate(wanted) if line]
        own, there = (line[: len(line) - len(line.lstrip())] for line in pairs[0])
        shared = min(len(own), len(there))
        more, less = there[: len(there) - shared], own[: len(own) - shared]
        if all(more + line == less + found for line, found in pairs):
            yield start, more, less


def _shifted(line: str, more: str, less: str, number: int) -> str:
    if line.strip() and not line.startswith(less):
        raise EditError(
            f"SEARCH of edit {number} is indented by {len(less)} more than train.py, but not so this line of its "
            f"replacement: {line.strip()[:_COMPARED_CHARACTERS]}; copy the lines exactly, with their indentation"
        )
    return more + line[len(less) :] if line.strip() else line


def _with_line_ends(new: list[str], last_replaced: str, source: str) -> list[str]:
    lines = [line + line_end(source) for line in new]
    if lines and not LINE_END.search(last_replaced):
        lines[-1] = new[-1]
    return lines


def _ambiguous(number: int, line_numbers: list[int]) -> EditError:
    shown = ", ".join(map(str, line_numbers[:_NEAREST_LINES])) + (", ..." if len(line_numbers) > _NEAREST_LINES else "")
    return EditError(
        f"SEARCH of edit {number} matches {len(line_numbers)} places in train.py (lines {shown}); "
        "add a line above or below it to make it unique"
    )


def _not_found(source: str, search: str, replace: str, number: int) -> str:
    lines = _bare_lines(source)
    start = _nearest(lines, search.split("\n"))
    message = f"SEARCH of edit {number} does not stand in train.py"
    if replace.strip() and replace in source:
        message += ", but its replacement does: the change is there already"
    if start is None:
        return f"{message}; copy the lines to replace exactly, with their indentation"
    shown = lines[start : start + min(search.count("\n") + 1, _NEAREST_LINES)]
    numbered = "\n".join(f"{start + offset + 1}: {line[:_COMPARED_CHARACTERS]}" for offset, line in enumerate(shown))
    return f"{message}. Copy the lines exactly, with their indentation; the nearest real lines are:\n{numbered}"


def _nearest(lines: list[str], wanted: list[str]) -> int | None:
    """Return the index of the first line of the place that resembles `wanted` most, or None."""
    stripped = [line.strip()[:_COMPARED_CHARACTERS] for line in lines]
    sought = [(offset, line.strip()[:_COMPARED_CHARACTERS]) for offset, line in enumerate(wanted) if line.strip()]
    alike: Counter[int] = Counter()
    for offset, line in sought[:_COMPARED_LINES]:
        alike.update(place - offset for place, text in enumerate(stripped) if text == line and place >= offset)
    if alike:
        return max(alike, key=lambda place: (alike[place], -place))
    for offset, line in sought[:_GUESSED_LINES]:
        close = difflib.get_close_matches(line, set(stripped), n=1, cutoff=0.6)
        if close:
            return max(0, stripped.index(close[0]) - offset)
    return None
