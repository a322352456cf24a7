"""A change of knobs as JSON, for models that fail with the free form: the schema for the server, and the parser.

The form is `{"set": {KNOB: value, ...}, "hypothesis": ...}`; a title may stand beside it. Servers follow a schema only
approximately, or not at all. So the parser accepts a fence and other text around the JSON, and refuses incomplete JSON
and wrong types with a reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from researcher.errors import EditError, Rejected
from researcher.optimizer.constraints import without_idle
from researcher.optimizer.space import values_and_ranges
from researcher.source.knobs import Knob, Range, read_knobs, read_literal
from researcher.source.proposal import KnobLiteral, KnobValue

Move = tuple[str, KnobValue]  # a knob and its new value

_BEGINS = re.compile(r'^[ \t]*\{\s*"(?:title|hypothesis|set)"\s*:', re.IGNORECASE | re.MULTILINE)
JSON_FORM = '{"set": {"KNOB": value}, "hypothesis": "why it should improve the score"}'
ONE_KNOB_FORM = '{"set": {"KNOB": value}}'
_FORM = 'the form is {"set": {"KNOB": value}, "hypothesis": "..."}'
MOST_KNOBS = 3
LISTED_VALUES = 12  # of a range that holds more
HYPOTHESIS_CHARACTERS = 200


@dataclass(frozen=True)
class KnobChange:
    """The requested values of knobs, with title and hypothesis as the model wrote them."""

    title: str
    hypothesis: str
    knobs: Mapping[str, KnobLiteral]


def schema_of(source: str, *, one_knob: bool = False, closed: Collection[Move] = ()) -> dict[str, Any] | None:
    """Return the JSON schema for a change of this source's knobs, or None if nothing is left to move.

    With `one_knob` the schema lists every answer that is accepted: one knob, one of its other values without those in
    `closed`, and no words, because a small model may not end its words.
    """
    if one_knob:
        moves = other_values(source).items()
        listed = {name: left for name, values in moves if (left := [v for v in values if (name, v) not in closed])}
        choices = [_object({name: {"enum": values}}) for name, values in listed.items()]
        return _object({"set": {"anyOf": choices}}) if choices else None
    several = {knob.name: _values(knob) for knob in _ranged(source)}
    if not several:
        return None
    knobs = _object(several, required=()) | {"minProperties": 1, "maxProperties": MOST_KNOBS}
    return _object({"set": knobs, "hypothesis": {"type": "string", "maxLength": HYPOTHESIS_CHARACTERS}})


def other_values(source: str) -> dict[str, list[KnobValue]]:
    """Return values of each knob with a range, without those that leave the model as it is now."""
    ranged = _ranged(source)
    now = values_and_ranges(source)[0] if ranged else {}
    return {knob.name: _other_values(knob, now) for knob in ranged}


def _ranged(source: str) -> list[Knob]:
    try:
        return [knob for knob in read_knobs(source).values() if knob.range is not None]
    except EditError:
        return []


def _object(properties: Mapping[str, Any], required: Collection[str] | None = None) -> dict[str, Any]:
    names = list(properties if required is None else required)
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False}


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
    """Return the part of a range, without the present value, that a grammar can express. The rest is clamped."""
    held = knob.range
    assert held is not None
    if (values := _all_values(held)) is not None:
        return {"enum": [value for value in values if value != knob.value]}
    if held.kind == "int":
        return {"type": "integer", "minimum": int(held.low), "maximum": int(held.high)}
    return {"type": "number", "minimum": held.low, "maximum": held.high}


def _other_values(knob: Knob, now: Mapping[str, KnobValue]) -> list[KnobValue]:
    """Return values of a knob's range, without those that leave the model as it is now."""
    held = knob.range
    assert held is not None
    values = _all_values(held)
    if values is None:
        values = _steps(held)
    return [value for value in values if without_idle(now, {**now, knob.name: value}) != now]


def _all_values(held: Range) -> Sequence[KnobValue] | None:
    """Return every value of a range, or None if there are too many to list."""
    match held.kind:
        case "choice":
            return held.choices
        case "pow2":
            return [1 << power for power in range(int(held.low).bit_length() - 1, int(held.high).bit_length())]
        case "int" if held.high - held.low < LISTED_VALUES:
            return range(int(held.low), int(held.high) + 1)
    return None


def _steps(held: Range) -> list[KnobValue]:
    """Return values from end to end of a range of numbers, with no more digits than a user would write."""
    shares = [number / (LISTED_VALUES - 1) for number in range(LISTED_VALUES)]
    points = (
        held.low * (held.high / held.low) ** share if held.log else held.low + (held.high - held.low) * share
        for share in shares
    )
    if held.kind == "int":
        return [*dict.fromkeys(round(point) for point in points)]
    return [*dict.fromkeys(min(max(float(f"{point:.3g}"), held.low), held.high) for point in points)]


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
