"""Parses a model's answer into a title, a hypothesis and edits. An invalid answer is refused with a reason.

The form: lines `TITLE: what` and `HYPOTHESIS: why`, then edits. Three kinds of edits have a heading. They may be mixed,
and are applied in their order, each to the result of the one before:

    SET KNOB = value

    FUNCTION Class.method
    ```python
    ```

    <<<<<<< SEARCH
    =======
    >>>>>>> REPLACE

Neighbouring SET lines are applied together. Edits before a later title were only considered. Without any of the three
kinds, a change of knobs as JSON counts, then fences: fences of nothing but `KNOB = value` set knobs, and a fence with
one definition replaces the only definition of that name; otherwise the longest fence is the whole train.py. Both labels
may be missing. Reasoning text is removed first, so that an edit inside it is never applied.

Models write reasoning between tags that their server did not remove. An edit inside the tags was only considered. If
the tags do not balance, the parser removes more text rather than less.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from researcher.errors import BadLlmResponse, EditError, ReasoningUsedUpOutput, Rejected
from researcher.prompting.chat_markers import whole
from researcher.prompting.code_fences import FENCE, Fence, Lines
from researcher.prompting.knob_json import JSON_FORM, is_move, read_move
from researcher.prompting.thoughts import REASONING, without_thoughts
from researcher.source.definitions import defined_name
from researcher.source.knobs import read_literal
from researcher.source.proposal import (
    Edit,
    EditFormat,
    KnobLiteral,
    ReplaceFunction,
    SearchReplace,
    SetKnobs,
    WholeFile,
)
from researcher.source.syntax import LINE_END
from trainer.jobs import TRAIN_LIMIT_BYTES

TITLE_CHARACTERS = 100
HYPOTHESIS_CHARACTERS = 300
LONGEST_CHARACTERS = 2 * TRAIN_LIMIT_BYTES  # one search and one replacement of the longest train.py
MOST_EDITS = 32  # each is applied to the whole source, so thousands would block the researcher for minutes

NO_EDIT = (
    "the answer holds no edit; an edit is for example the line 'SET KNOB = value' with one of the knobs and a new "
    "value, or a block from '<<<<<<< SEARCH' over '=======' to '>>>>>>> REPLACE'"
)

FORMS = {
    EditFormat.SET: "SET KNOB = value",
    EditFormat.FUNCTION: "FUNCTION Class.method\n```python\nthe whole new definition\n```",
    EditFormat.SEARCH: "<<<<<<< SEARCH\nlines copied from train.py\n=======\nthe lines that take their place\n"
    ">>>>>>> REPLACE",
    EditFormat.FILE: "```python\nthe whole new train.py\n```",
    EditFormat.JSON: JSON_FORM,
}

_SEARCH = re.compile(r"\s*<{5,9}\s*SEARCH\s*")
_MIDDLE = re.compile(r"={5,9}\s*")
_REPLACE = re.compile(r"\s*>{5,9}\s*REPLACE\s*")
# Possessive (`++`, `*+`) where two parts could match the same blanks: a repeating model writes long runs of them.
_SET = re.compile(r"[\s>*`-]*+SET\s++`?(?:([\w.]++)`?\s*+=(.*+)|[A-Z][A-Z0-9_]*+\b.*+)")
_ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]*+)\s*+=(?!=)(.*+)")
_FUNCTION = re.compile(r"[\s#>*`-]*+(?:FUNCTION|METHOD|CLASS)\b(?:\s*+:)?\s*+[`*]*+([\w.]++)(?:\(\))?[\s*`:]*+")
_HEADINGS = {EditFormat.SET: (_SET,), EditFormat.FUNCTION: (_FUNCTION,), EditFormat.SEARCH: (_SEARCH, _REPLACE)}
_THOUGHT_FENCE = re.compile(rf"\s*[`~]{{3,}}+\s*{REASONING}\s*")
_LABEL = re.compile(  # an unknown tag may stand before a label
    r"(?:\s{0,9}</?[\w:.|-]{1,40}>)?[\s*#_>-]*+(?:(?P<title>TITLE)|HYPOTHESIS)[\s*]*+:(?P<words>.*+)", re.IGNORECASE
)

_Setting = dict[str, KnobLiteral]


@dataclass(frozen=True)
class _Fenced:
    """A fenced text without a heading. `closed` is False if the answer ended inside the fence."""

    text: str
    closed: bool


@dataclass(frozen=True)
class Reply:
    """A parsed answer. The model's own title and hypothesis may be empty."""

    title: str
    hypothesis: str
    edits: tuple[Edit, ...]

    @property
    def words(self) -> str:
        """The model's words about its edits, as one text."""
        return one_line(": ".join(dict.fromkeys(filter(None, (self.title, self.hypothesis)))), HYPOTHESIS_CHARACTERS)


def read_reply(text: str) -> Reply:
    """Parse an answer.

    Raises BadLlmResponse if it is empty, and Rejected (written for the model) if its form is wrong.
    """
    if len(text) > LONGEST_CHARACTERS:
        raise Rejected(f"the answer has {len(text)} characters; write only what changes")
    answer = whole(without_thoughts(text).strip())  # marks are restored later, so a quoted one ends no reasoning
    if not answer and text.strip():
        raise ReasoningUsedUpOutput("the answer is empty but for its thoughts")
    if not answer:
        raise BadLlmResponse("the answer is empty")
    lines = LINE_END.sub("\n", answer).split("\n")
    if not _headed(lines) and is_move(answer):
        move = read_move(answer)
        return Reply(*_words(move.title, move.hypothesis), (SetKnobs(move.knobs),))
    edits, fences, prose = _read(lines)
    return Reply(*_labels(prose), tuple(edits or _unheaded(fences)))


def formats_in(text: str) -> tuple[EditFormat, ...]:
    """Return the edit formats in an answer, even if it cannot be parsed."""
    answer = without_thoughts(text)
    lines = LINE_END.sub("\n", answer).split("\n")
    if headed := _headed(lines):
        return headed
    if is_move(answer):
        return (EditFormat.SET,)
    return (EditFormat.FILE,) if any(map(FENCE.fullmatch, lines)) else ()


def one_line(text: str, limit: int) -> str:
    """Return `text` for a table's cell: one line, no control or invisible characters, at most `limit` characters."""
    visible = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
    words = " ".join(visible.split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def _headed(lines: list[str]) -> tuple[EditFormat, ...]:
    """Return the edit formats with a heading in the lines."""
    return tuple(
        edit_format
        for edit_format, forms in _HEADINGS.items()
        if any(form.fullmatch(line) for form in forms for line in lines)
    )


def _read(lines: list[str]) -> tuple[list[Edit], list[_Fenced], list[str]]:
    """Return the edits with a heading, the fences without one, and the lines outside of both.

    An answer begins with its title, so a later title drops all before it, if edits follow.
    """
    page = Lines(lines, _is_mark)
    edits, fences, prose = list[Edit | _Setting](), list[_Fenced](), list[str]()
    before = (edits, fences, prose)
    around: set[int] = set()
    position = 0
    while position < len(lines):
        line = lines[position]
        if _SEARCH.fullmatch(line):
            end = _end_of_block(lines, position, len(edits) + 1)
            edits.append(_block(lines[position + 1 : end], len(edits) + 1))
            position = end
        elif _REPLACE.fullmatch(line):
            raise Rejected("a line '>>>>>>> REPLACE' stands without its '<<<<<<< SEARCH'; write both around each edit")
        elif setting := _SET.fullmatch(line):
            _set(edits, setting)
        elif heading := _FUNCTION.fullmatch(line):
            fence = _fence_below(page, position, heading.group(1))
            edits.append(_definition(page.text(fence), heading.group(1)))
            position = fence.end
        elif position not in around and (found := page.fence_at(position)):
            position = _take_fence(page, found, line, fences, around)
        elif (edits or fences) and (label := _LABEL.fullmatch(line)) and label["title"]:
            before = (edits, fences, prose) if edits or not before[0] else before
            edits, fences, prose = [], [], [line]
        else:
            prose.append(line)
        if len(edits) > MOST_EDITS:
            raise Rejected(f"the answer holds more than {MOST_EDITS} edits; write the ones that matter")
        position += 1
    if not edits and (before[0] or not fences):
        edits, fences, prose = before[0], before[1], [*before[2], *prose]
    return [SetKnobs(edit) if isinstance(edit, dict) else edit for edit in edits], fences, prose


def _take_fence(page: Lines, fence: Fence, opening: str, fences: list[_Fenced], around: set[int]) -> int:
    """Add a fence to `fences`, or its end to `around` if it is around edits; return the last line that was read."""
    if _THOUGHT_FENCE.fullmatch(opening):
        return fence.end
    if _is_around_edits(page, fence):
        around.add(fence.end)
        return fence.start
    fences.append(_Fenced(page.text(fence), fence.closed))
    return fence.end


def _set(edits: list[Edit | _Setting], line: re.Match[str]) -> None:
    """Add the assignment to the last edit if that is a SetKnobs, so that neighbouring lines are applied together."""
    name, text = line.group(1), line.group(2)
    value = None if text is None else read_literal(text.strip(" \t*`"))
    if value is None:
        raise Rejected(
            f"the line '{one_line(line.group(), TITLE_CHARACTERS)}' is not 'SET KNOB = value'; the value is a number, "
            'a "text", True, False or a (tuple) of them, and nothing follows it'
        )
    last = edits[-1] if edits else None
    neighbours = last if isinstance(last, dict) else {}
    if neighbours.get(name, value) != value:
        raise Rejected(
            f"{name} is set twice, to {neighbours[name]!r} and to {value!r}; write one SET line for each knob"
        )
    if not neighbours:
        edits.append(neighbours)
    neighbours[name] = value


def _fence_below(page: Lines, heading: int, name: str) -> Fence:
    fence = page.fence_at(page.inked_from(heading + 1))
    if fence is None:
        raise Rejected(f"FUNCTION {name} is not followed by a fence (```python) with its whole new definition")
    if not fence.closed:
        raise Rejected(f"the fence after FUNCTION {name} is not closed; was the answer cut off?")
    return fence


def _definition(text: str, name: str) -> ReplaceFunction:
    try:
        own = defined_name(text)
    except EditError as error:
        raise Rejected(f"FUNCTION {name}: {error}") from error
    if own is None:
        raise Rejected(f"the fence after FUNCTION {name} wants one whole def or class, and nothing else")
    if own != name.rpartition(".")[2]:
        raise Rejected(f"the fence after FUNCTION {name} defines {own}; it wants the whole new {name}")
    return ReplaceFunction(name, text)


def _is_around_edits(page: Lines, fence: Fence) -> bool:
    """Return True for a fence around edits. Some models put the whole answer, or all their edits, into one fence."""
    first = page.first_inside(fence)
    begins = any(form.fullmatch(first) for form in (_SET, _FUNCTION, _LABEL)) and not first.lstrip().startswith("#")
    return begins or page.has_mark(fence)


def _is_mark(line: str) -> bool:
    return bool(_SEARCH.fullmatch(line) or _REPLACE.fullmatch(line))


def _end_of_block(lines: list[str], start: int, number: int) -> int:
    for position in range(start + 1, len(lines)):
        if _REPLACE.fullmatch(lines[position]):
            return position
        if _SEARCH.fullmatch(lines[position]):
            break
    raise Rejected(f"edit {number} does not end with a line '>>>>>>> REPLACE'; was the answer cut off?")


def _block(inside: list[str], number: int) -> SearchReplace:
    middles = [position for position, line in enumerate(inside) if _MIDDLE.fullmatch(line)]
    if len(middles) != 1:
        count = "no line" if not middles else f"{len(middles)} lines"
        raise Rejected(f"edit {number} has {count} '=======' between SEARCH and REPLACE; write exactly one")
    search, replace = _unfenced(inside[: middles[0]]), _unfenced(inside[middles[0] + 1 :])
    if not any(line.strip() for line in search):
        raise Rejected(f"edit {number} searches for nothing; copy the lines of train.py that are to be replaced")
    return SearchReplace(_text(search), _text(replace))


def _unfenced(lines: list[str]) -> list[str]:
    """Remove the fence that some models put inside a block."""
    inked = [position for position, line in enumerate(lines) if line.strip()]
    if len(inked) >= 2 and all(FENCE.fullmatch(lines[position]) for position in (inked[0], inked[-1])):
        return lines[inked[0] + 1 : inked[-1]]
    return lines


def _text(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _unheaded(fences: list[_Fenced]) -> list[Edit]:
    """Return the definitions, each for the one of its name, or the longest fence as the whole file."""
    longest = max(fences, key=lambda fence: len(fence.text), default=None)
    if longest is None or not longest.text.strip():
        raise Rejected(NO_EDIT)
    if not longest.closed:
        raise Rejected("the longest fence is not closed; was the answer cut off? Write only what changes")
    if (moves := _assignments(fences)) is not None:
        return [SetKnobs(moves)]
    try:
        is_definition = defined_name(longest.text) is not None
    except EditError as error:
        raise Rejected(
            f"without SET, FUNCTION or SEARCH the longest fence counts as the whole file: {error}"
        ) from error
    return _definitions(fences) if is_definition else [WholeFile(longest.text)]


def _assignments(fences: list[_Fenced]) -> _Setting | None:
    """Return the knobs that fences of nothing but `KNOB = value` set, or None for other fences."""
    lines = [line for fence in fences for line in fence.text.split("\n") if line.strip()]
    found = [_ASSIGNMENT.fullmatch(line) for line in lines]
    edits: list[Edit | _Setting] = []
    for assignment in found:
        if assignment is None or read_literal(assignment.group(2).strip()) is None:
            return None
        _set(edits, assignment)
    return edits[0] if edits and isinstance(edits[0], dict) else None


def _definitions(fences: list[_Fenced]) -> list[Edit]:
    edits: dict[str | None, Edit] = {}
    for fence in fences:
        try:
            name = defined_name(fence.text)
        except EditError:
            name = None
        if name is None or name in edits:
            raise Rejected(
                "of several fences it is not clear what each replaces; write a line 'FUNCTION name' before each new "
                "definition, and no other fence"
            )
        edits[name] = ReplaceFunction(None, fence.text)
    return list(edits.values())


def _labels(prose: list[str]) -> tuple[str, str]:
    found: dict[bool, str] = {}
    for label in filter(None, map(_LABEL.fullmatch, prose)):
        found.setdefault(bool(label["title"]), label["words"].strip(" \t*_`"))
    return _words(found.get(True, ""), found.get(False, ""))


def _words(title: str, why: str) -> tuple[str, str]:
    return one_line(title, TITLE_CHARACTERS), one_line(why, HYPOTHESIS_CHARACTERS)
