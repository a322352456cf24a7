"""A change of knobs as JSON, for models that fail with the free form: the schema for the server, and the parser.

The form is `{"title": ..., "hypothesis": ..., "set": {KNOB: value, ...}}`. Servers follow a schema only approximately,
or not at all. So the parser accepts a fence and other text around the JSON, and refuses incomplete JSON and wrong types
with a reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from researcher.errors import EditError, Rejected
from researcher.source.knobs import Knob, read_knobs, read_literal
from researcher.source.proposal import KnobLiteral

_BEGINS = re.compile(r'^[ \t]*\{\s*"(?:title|hypothesis|set)"\s*:', re.IGNORECASE | re.MULTILINE)
_FORM = 'the form is {"title": "...", "hypothesis": "...", "set": {"KNOB": value}}'


@dataclass(frozen=True)
class KnobChange:
    """The requested values of knobs, with title and hypothesis as the model wrote them."""

    title: str
    hypothesis: str
    knobs: Mapping[str, KnobLiteral]


def schema_of(source: str) -> dict[str, Any] | None:
    """Return the JSON schema for a change of this source's knobs, or None if no knob has a range."""
    try:
        known = read_knobs(source)
    except EditError:
        return None
    values = {name: _values(knob) for name, knob in known.items() if knob.range is not None}
    if not values:
        return None
    words = {"type": "string"}
    knobs = {"type": "object", "properties": values, "additionalProperties": False}
    return {
        "type": "object",
        "properties": {"title": words, "hypothesis": words, "set": knobs},
        "required": ["title", "hypothesis", "set"],
        "additionalProperties": False,
    }


def is_move(answer: str) -> bool:
    """Return True if a line of the answer begins like a change of knobs in JSON."""
    return _BEGINS.search(answer) is not None


def read_move(answer: str) -> KnobChange:
    """Parse a change of knobs. Raises Rejected with a reason for the model."""
    begin = _BEGINS.search(answer)
    if begin is None:
        raise Rejected(f"the answer holds no JSON; {_FORM}")
    decoder = json.JSONDecoder(object_pairs_hook=_unequivocal, parse_constant=_refuse_constant)
    try:
        read, _ = decoder.raw_decode(answer, answer.index("{", begin.start()))
    except (ValueError, RecursionError) as error:
        raise Rejected(f"the JSON does not parse ({error}); was the answer cut off? {_FORM}") from error
    fields = {name.lower(): value for name, value in read.items()}
    knobs = fields.get("set")
    if not isinstance(knobs, dict) or not knobs:
        raise Rejected(f'"set" holds no knob; {_FORM}')
    return KnobChange(
        _words(fields, "title"), _words(fields, "hypothesis"), {n: _literal(n, v) for n, v in knobs.items()}
    )


def _values(knob: Knob) -> dict[str, Any]:
    """Return the part of a range that a grammar can express; the rest is validated when the knob is set."""
    held = knob.range
    assert held is not None
    match held.kind:
        case "choice":
            return {"enum": list(held.choices)}
        case "pow2":
            low, high = int(held.low).bit_length() - 1, int(held.high).bit_length() - 1
            return {"enum": [1 << power for power in range(low, high + 1)]}
        case "int":
            return {"type": "integer", "minimum": int(held.low), "maximum": int(held.high)}
        case "float":
            return {"type": "number"}


def _unequivocal(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in pairs:
        if name in read and read[name] != value:
            raise Rejected(f"{name} stands twice in the JSON, with two values; write it once")
        read[name] = value
    return read


def _refuse_constant(name: str) -> NoReturn:
    raise Rejected(f"{name} is no value; {_FORM}")


def _words(fields: Mapping[str, Any], name: str) -> str:
    words = fields.get(name, "")
    if not isinstance(words, str):
        raise Rejected(f'"{name}" is not a text; {_FORM}')
    return words


def _literal(name: str, value: object) -> KnobLiteral:
    """Convert a JSON value to a literal of a source."""
    literal = read_literal(repr(tuple(value) if isinstance(value, list) else value))
    texts = literal if isinstance(literal, tuple) else (literal,)
    if not name.isidentifier():
        raise Rejected(f"{ascii(name)[:60]} is not the name of a knob; {_FORM}")
    if literal is None or any(isinstance(text, str) and not text.isprintable() for text in texts):
        raise Rejected(f"{name} is not set to a number, a text or a list of them; {_FORM}")
    return literal
