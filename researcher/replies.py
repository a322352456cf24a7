"""What a model wrote becomes a title, a hypothesis and edits; every oddity is refused with a reason it can act on.

The form asked for: `TITLE:` and `HYPOTHESIS:` lines, then search/replace blocks

    <<<<<<< SEARCH
    =======
    >>>>>>> REPLACE

or, without any block, a whole train.py in a fence (the longest fence counts). Thoughts are taken out before anything
else is read, so that an edit weighed there is never applied.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from researcher.errors import EditError, ModelFault, Rejected
from researcher.proposal import Edit, SearchReplace, WholeFile
from researcher.source import parse

TITLE_CHARACTERS = 100
HYPOTHESIS_CHARACTERS = 300

_THOUGHT = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)
_LINE_END = re.compile(r"\r\n|\r")
_SEARCH = re.compile(r"\s*<{5,9}\s*SEARCH\s*")
_MIDDLE = re.compile(r"={5,9}\s*")
_REPLACE = re.compile(r"\s*>{5,9}\s*REPLACE\s*")
_FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})\s*([\w.+/-]*)[^`]*")
_LABEL = re.compile(r"[\s*#_>-]*(TITLE|HYPOTHESIS)\s*\**\s*:(.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Reply:
    """A model's answer, read."""

    title: str
    hypothesis: str
    edits: tuple[Edit, ...]


def read_reply(text: str) -> Reply:
    """Raises ModelFault if there is no answer at all, Rejected (written for the model) if it is not of the form."""
    answer = without_thoughts(text).strip()
    if not answer:
        raise ModelFault("the answer is empty" + (" but for its thoughts" if text.strip() else ""))
    lines = _LINE_END.sub("\n", answer).split("\n")
    blocks, prose = _blocks(lines)
    edits: tuple[Edit, ...] = tuple(blocks)
    if not blocks:
        whole, prose = _longest_fence(lines)
        edits = (WholeFile(whole),)
    title, hypothesis = _labels(prose)
    return Reply(title, hypothesis, edits)


def without_thoughts(text: str) -> str:
    """`text` without its <think> parts; one that never ends takes the rest, one that never began all before it."""
    kept, depth, position = [], 0, 0
    for tag in _THOUGHT.finditer(text):
        if depth == 0:
            kept.append(text[position : tag.start()])
        if not tag.group(1):
            depth += 1
        elif depth:
            depth -= 1
        else:
            kept.clear()
        position = tag.end()
    return "".join(kept) + (text[position:] if depth == 0 else "")


def one_line(text: str, limit: int) -> str:
    """`text` fit for a table's cell: one line, no control or invisible characters, at most `limit` characters."""
    visible = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in text)
    words = " ".join(visible.split())
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def _blocks(lines: list[str]) -> tuple[list[SearchReplace], list[str]]:
    """The search/replace pairs, and the lines outside of them."""
    blocks: list[SearchReplace] = []
    prose = []
    position = 0
    while position < len(lines):
        if _SEARCH.fullmatch(lines[position]):
            end = _end_of_block(lines, position, len(blocks) + 1)
            blocks.append(_block(lines[position + 1 : end], len(blocks) + 1))
            position = end
        elif _REPLACE.fullmatch(lines[position]):
            raise Rejected("a line '>>>>>>> REPLACE' stands without its '<<<<<<< SEARCH'; write both around each edit")
        else:
            prose.append(lines[position])
        position += 1
    return blocks, prose


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
    """Without the fence that some models put inside a block."""
    inked = [position for position, line in enumerate(lines) if line.strip()]
    if len(inked) >= 2 and all(_FENCE.fullmatch(lines[position]) for position in (inked[0], inked[-1])):
        return lines[inked[0] + 1 : inked[-1]]
    return lines


def _text(lines: list[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _longest_fence(lines: list[str]) -> tuple[str, list[str]]:
    """The text of the longest fenced block, which must parse, and the lines outside of all of them."""
    longest: list[str] = []
    closed = True
    prose = []
    position = 0
    while position < len(lines):
        if opening := _FENCE.fullmatch(lines[position]):
            end = _end_of_fence(lines, position, opening.group(1))
            inside = lines[position + 1 : end]
            if sum(map(len, inside)) > sum(map(len, longest)):
                longest, closed = inside, end < len(lines)
            position = end
        else:
            prose.append(lines[position])
        position += 1
    if not longest:
        raise Rejected("the answer holds neither a '<<<<<<< SEARCH' block nor a fenced train.py")
    if not closed:
        raise Rejected("the fenced train.py is not closed; was the answer cut off? Use SEARCH/REPLACE blocks")
    text = _text(longest)
    try:
        parse(text)
    except EditError as error:
        raise Rejected(
            f"without SEARCH/REPLACE blocks the longest fence counts as the whole file, but {error}"
        ) from error
    return text, prose


def _end_of_fence(lines: list[str], start: int, mark: str) -> int:
    for position in range(start + 1, len(lines)):
        closing = lines[position].strip()
        if len(closing) >= len(mark) and set(closing) == {mark[0]}:
            return position
    return len(lines)


def _labels(prose: list[str]) -> tuple[str, str]:
    found: dict[str, str] = {}
    for line in prose:
        label = _LABEL.fullmatch(line)
        if label:
            found.setdefault(label.group(1).upper(), label.group(2).strip(" \t*_`"))
    hypothesis = one_line(found.get("HYPOTHESIS", ""), HYPOTHESIS_CHARACTERS)
    if not hypothesis:
        raise Rejected("the answer has no line 'HYPOTHESIS: why this should help'; begin with TITLE: and HYPOTHESIS:")
    return one_line(found.get("TITLE", ""), TITLE_CHARACTERS) or one_line(hypothesis, TITLE_CHARACTERS), hypothesis
