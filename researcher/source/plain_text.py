"""Refuses text that not all readers read alike: Python, the static checks, a diff in a terminal, and a user.

Python decodes a file by a cookie in its first lines, ends lines at a lone CR, and restarts a line's indentation at a
form feed. A terminal hides some characters and reverses others. A user may mistake a Cyrillic letter for a Latin one. A
line with such a difference is refused for every proposer, unless the earlier source already contains the line. Strings
lose nothing, because every character has an escape.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
import unicodedata

from researcher.errors import Rejected
from researcher.source.syntax import parse

_COOKIE = re.compile(r"[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
_COOKIE_LINES = 2
_PLAIN_CODECS = {"utf-8", "utf8"}
_HIDING_BLANKS = re.compile(r"\S[ \t]{100,}\S")
_VARIATIONS = "\ufe0e\ufe0f"  # after a symbol: shown as text or as a picture
# Unicode's Default_Ignorable_Code_Point, which Python's own tables cover only in part, and Braille's blank pattern.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_LOOK_LATIN = set("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧικνορυϲϳ")  # Greek letters that look like Latin ones
_ALPHABETS = ("LATIN", "GREEK")


def refuse_ambiguous(source: str, before: str) -> None:
    """Raise Rejected for a line of `source` that not all readers read alike and that `before` does not contain.

    `source` must parse.
    """
    if source == before:
        return
    known = set(before.split("\n"))
    for number, line in enumerate(source.split("\n"), start=1):
        if line not in known or number <= _COOKIE_LINES:
            _refuse_cookie(line, number, before)
        if line not in known and (fault := _fault_of(line.removesuffix("\r"))) is not None:
            raise Rejected(f"line {number} of train.py {fault}")
    if not source.isascii():
        _refuse_lookalikes(source, known)


def _refuse_cookie(line: str, number: int, before: str) -> None:
    found = _COOKIE.match(line) if number <= _COOKIE_LINES else None
    if found is None or found.group(1).lower().replace("_", "-") in _PLAIN_CODECS:
        return
    if line not in before.split("\n", _COOKIE_LINES)[:_COOKIE_LINES]:
        raise Rejected(f"line {number} of train.py declares the encoding {found.group(1)}; it is UTF-8, leave that out")


def _fault_of(line: str) -> str | None:
    """Return the fault of a line, as text that continues after its number, or None."""
    if line.isascii() and line.isprintable():
        return _hidden_far_right(line)
    for at, character in enumerate(line):
        category = unicodedata.category(character)
        if character == "\r":
            return "holds a carriage return that ends a line for Python and not for others; end lines with \\n"
        if (category == "Cc" and character != "\t") or category in ("Zl", "Zp"):
            return f"holds {_named(character)}; write its escape"
        if _INVISIBLE.match(character) and not _shapes_a_symbol(line, at):
            return f"holds {_named(character)}, which nobody sees; leave it out, or write its escape"
    return _hidden_far_right(line)


def _hidden_far_right(line: str) -> str | None:
    return "hides code behind a hundred blanks; write it on a line of its own" if _HIDING_BLANKS.search(line) else None


def _shapes_a_symbol(line: str, at: int) -> bool:
    return line[at] in _VARIATIONS and at > 0 and unicodedata.category(line[at - 1]) in ("So", "Sm", "Sk", "Nd", "Po")


def _named(character: str) -> str:
    name = unicodedata.name(character, "a control character")
    return f"U+{ord(character):04X} ({name})"


def _refuse_lookalikes(source: str, known: set[str]) -> None:
    """Refuse ambiguous non-ASCII names on new lines."""
    lines = source.split("\n")
    for name, number in _spelled(source):
        if name.isascii() or lines[number - 1] in known:
            continue
        if unicodedata.normalize("NFKC", name) != name:
            raise Rejected(f"line {number} of train.py: Python reads the name {name} otherwise than it is written")
        if (letter := _lookalike(name)) is not None:
            raise Rejected(
                f"line {number} of train.py: the name {name} holds {_named(letter)}; write names with Latin letters, "
                "or with Greek ones that cannot be taken for Latin"
            )


def _lookalike(name: str) -> str | None:
    beside_latin = any(character.isascii() and character.isalpha() for character in name)
    for character in name:
        if character.isascii() or not character.isalpha():
            continue
        if not unicodedata.name(character, "").startswith(_ALPHABETS):
            return character
        if beside_latin and character in _LOOK_LATIN:
            return character
    return None


def _spelled(source: str) -> list[tuple[str, int]]:
    """Return the names of a source with their lines, as written, and as Python reads those inside f-strings."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    except (tokenize.TokenError, SyntaxError) as error:
        raise Rejected(f"train.py parses, but cannot be split into its words: {error}") from error
    inside = [(node.id, node.lineno) for node in ast.walk(parse(source)) if isinstance(node, ast.Name)]
    return [(token.string, token.start[0]) for token in tokens if token.type == tokenize.NAME] + inside
