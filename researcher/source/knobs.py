"""Knobs: reads and sets the module-level `ALL_CAPS = literal` lines of a subject without changing any other text.

The range is at the end of the comment on the knob's own line, after its last `;`: `range A..B`, `range A..B log`,
`range A..B pow2` (all powers of two) or `one of X Y Z`. The optimiser never moves a knob without a range. Names that
are assigned twice, or to an expression, are not knobs.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from researcher.errors import EditError
from researcher.source.proposal import KnobLiteral, KnobValue
from researcher.source.syntax import Bytes, parse, replace_spans

_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_COMMENT = re.compile(r"[\s)]*#(.*)")
_NUMBER = re.compile(r"-?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_POWER = re.compile(r"2\*\*(\d{1,2})")
_LARGEST_INT = 2**63 - 1
_END = r"(-?(?:2(?:\*\*|\^)\d{1,2}|(?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?))"
# What people write for a range: two numbers after a word that announces them, or with dots between them.
_TWO_ENDS = re.compile(
    rf"\branges?\b(?:\s+of\b)?[^\w.-]*{_END}\s*(?:\.{{2,3}}|…|to|and|-|–|,|;|:)\s*{_END}(?!\s*\.\.)"
    rf"|\b(?:from|between|sweep|search|tune)\s+{_END}\s+(?:to|and)\s+{_END}"
    rf"|\bmin(?:imum)?\b[\s:=]*{_END}\s*[,;]?\s*(?:and\s+)?max(?:imum)?\b[\s:=]*{_END}"
    rf"|\b(?:(?:with)?in|(?:log)?uniform)\s*[\[(]\s*{_END}\s*,\s*{_END}\s*[\])]"
    rf"|(?<![\w,]){_END}\s*(?:\.{{2,3}}|…)\s*{_END}(?!\w)",
    re.IGNORECASE,
)
_CHOICES = re.compile(r"\b(?:one[ -]?of|any of|either|choices?|options?|choose (?:from|between))\b(.*)", re.IGNORECASE)


@dataclass(frozen=True)
class Range:
    """The allowed values of a knob: from `low` to `high`, both included, or for the kind `choice` only `choices`."""

    kind: Literal["int", "float", "pow2", "choice"]
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[KnobValue, ...] = ()

    def holds(self, value: KnobValue) -> bool:
        """Return True if `value` has the range's type and is inside it."""
        if self.kind == "choice":
            alike = (choice for choice in self.choices if type(choice) in (type(value), float))
            return not isinstance(value, bool) and value in alike
        if isinstance(value, (str, bool)) or not self.low <= value <= self.high:
            return False
        return self.kind == "float" or (isinstance(value, int) and (self.kind == "int" or is_power_of_two(value)))

    def nearest(self, value: bool | KnobValue) -> bool | KnobValue:
        """Return the value inside the range that is nearest to a number, or a value of another kind as it is."""
        if self.kind == "choice" or isinstance(value, (str, bool)) or self.low <= value <= self.high:
            return value
        end = self.low if value < self.low else self.high
        return end if self.kind == "float" else int(end)

    def __str__(self) -> str:
        if self.kind == "choice":
            return "one of " + " ".join(str(choice) for choice in self.choices)
        if self.kind == "pow2":
            return f"{power_text(int(self.low))}..{power_text(int(self.high))} pow2"
        return f"{self.low!r}..{self.high!r}" + (" log" if self.log else "")


@dataclass(frozen=True)
class Knob:
    """A name, its value in the source, and its range (None without one)."""

    name: str
    value: KnobLiteral
    range: Range | None = None


def read_knobs(source: str) -> dict[str, Knob]:
    """Return the knobs in the order of the source.

    A broken range counts as none. Raises EditError if the source does not parse.
    """
    return {name: _knob(place)[0] for name, place in _places(source).items()}


def range_faults(source: str) -> dict[str, str]:
    """Return the fault of each range comment that is broken, only nearly right, or not beside a knob, by name.

    Each fault names the fix, as far as the comment shows what was meant.
    """
    found = {name: fault for name, place in _places(source).items() if (fault := _knob(place)[1])}
    return found | _ranges_without_a_knob(source)


def read_literal(text: str) -> KnobLiteral | None:
    """Return the value of a literal, with or without a comment, or None if no knob can have it."""
    try:
        tree = parse(text.strip())
    except EditError:
        return None
    match tree.body:
        case [ast.Expr(value=node)]:
            return _literal(node)
    return None


def set_knobs(source: str, values: Mapping[str, KnobLiteral]) -> str:
    """Return `source` with new values; only the literals' bytes change. Raises EditError if any value does not fit."""
    places = _places(source)
    spans = []
    for name, value in values.items():
        if name not in places:
            known = ", ".join(places) or "none"
            raise EditError(f"{name} is not a knob of this file; its knobs are: {known}")
        knob = _knob(places[name])[0]
        wanted = _fitting(knob, value)
        if type(wanted) is not type(knob.value) or wanted != knob.value:
            start, end = places[name].span
            spans.append((start, end, _rendered(wanted, places[name].text)))
    return replace_spans(source, spans)


def set_ranges(source: str, ranges: Mapping[str, str]) -> str:
    """Return `source` with other ranges in the comments.

    Raises EditError if a comment is missing or a new range is broken.
    """
    spans = []
    for name, text in ranges.items():
        place = _places(source).get(name)
        claim = "" if place is None else place.comment.rsplit(";", 1)[-1].strip()
        if place is None or not claim:
            raise EditError(f"{name} has no range comment in this file that could be replaced")
        line = Bytes(source).rest_of_line(place.span[1])
        start = place.span[1] + len(line[: line.rindex(claim)].encode())
        spans.append((start, start + len(claim.encode()), text))
    changed = replace_spans(source, spans)
    if faults := {name: fault for name, fault in range_faults(changed).items() if name in ranges}:
        raise EditError(f"ranges that do not fit: {faults}")
    return changed


def around_values(source: str) -> list[str]:
    """Return the texts before, between and after the values of knobs with a range."""
    raw, places = source.encode(), _places(source).values()
    cuts = [0, *(end for place in places if _knob(place)[0].range is not None for end in place.span), len(raw)]
    return [raw[start:end].decode() for start, end in zip(cuts[::2], cuts[1::2], strict=True)]


def is_power_of_two(value: int) -> bool:
    """Return True for 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0


def power_text(value: int) -> str:
    """Return `2**n` for a power of two."""
    return f"2**{value.bit_length() - 1}"


@dataclass(frozen=True)
class _Place:
    """The place of a knob's literal: its span in bytes, its text, its value, the comment after it, and the comment that
    fills the line above."""

    name: str
    value: KnobLiteral
    span: tuple[int, int]
    text: str
    comment: str
    above: str


@lru_cache(maxsize=8)  # the incumbent is read for every proposal
def _places(source: str) -> Mapping[str, _Place]:
    tree = parse(source)
    where = Bytes(source)
    places: dict[str, _Place] = {}
    seen: set[str] = set()
    for name, node in _assignments(tree):
        value = _literal(node)
        if value is None or name in seen:
            places.pop(name, None)
        else:
            start, end = where.span(node)
            comment = _COMMENT.match(where.rest_of_line(end))
            text = where.raw[start:end].decode()
            above = _COMMENT.fullmatch(where.line(node.lineno - 1))
            comments = (each.group(1).strip() if each else "" for each in (comment, above))
            places[name] = _Place(name, value, (start, end), text, *comments)
        seen.add(name)
    return places


def _assignments(tree: ast.Module) -> list[tuple[str, ast.expr]]:
    found = []
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _NAME.fullmatch(name):
                found.append((name, value))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value) if _NAME.fullmatch(name):
                found.append((name, value))
            case ast.AugAssign(target=ast.Name(id=name), value=value) if _NAME.fullmatch(name):
                found += [(name, value), (name, value)]  # assigned twice: not a knob
    return found


def _literal(node: ast.expr) -> KnobLiteral | None:
    match node:
        case ast.Constant(value=bool() | str() as value):
            return value
        case ast.Constant(value=int() | float() as value) if _is_plain(value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value if _is_plain(value) else None
        case ast.BinOp(left=ast.Constant(value=2), op=ast.Pow(), right=ast.Constant(value=int() as power)):
            return 1 << power if 0 <= power < 63 else None
        case ast.Tuple(elts=items):
            values = tuple(_literal(item) for item in items)
            plain = tuple(value for value in values if isinstance(value, (int, float, str)))
            return plain if len(plain) == len(values) else None
    return None


def _is_plain(value: float) -> bool:
    return abs(value) <= _LARGEST_INT if isinstance(value, int) else math.isfinite(value)


def _knob(place: _Place) -> tuple[Knob, str | None]:
    """Return the knob, and the fault of its range comment or None."""
    without = Knob(place.name, place.value)
    claim = place.comment.rsplit(";", 1)[-1].strip()
    is_claim = claim.startswith(("range ", "one of "))
    if isinstance(place.value, (tuple, bool)):
        return without, f"a {type(place.value).__name__} cannot have a range" if is_claim else None
    meant = _meant(place.comment, place.value) or _meant(place.above, place.value)
    if not is_claim:
        return without, None if meant is None else f"its comment gives no range; end the comment with '; {meant}'"
    found = _read(claim, place.value)
    if isinstance(found, Range):
        return Knob(place.name, place.value, found), None
    return without, f"{claim!r}: {found}" + ("" if meant is None else f"; write '{meant}'")


def _read(claim: str, value: KnobValue) -> Range | str:
    """Return the range, or its fault."""
    found = _choice(claim, value) if claim.startswith("one of ") else _span(claim, value)
    if isinstance(found, Range) and not found.holds(value):
        return f"the value {value!r} is outside of it"
    return found


def _meant(comment: str, value: KnobValue) -> str | None:
    """Return the range comment that was meant by one that is nearly right, or None if no valid one was."""
    claims = []
    if (ends := _TWO_ENDS.search(comment)) and not isinstance(value, str):
        low, high = (end.replace("^", "**") for end in ends.groups() if end is not None)
        scales = [scale for scale in (" log", " pow2") if re.search(rf"\b{scale[1:4]}", comment, re.IGNORECASE)]
        claims += [f"range {ends}{scale}" for scale in (*scales, "") for ends in (f"{low}..{high}", f"{high}..{low}")]
    if choices := _CHOICES.search(comment):
        words = [word for word in re.findall(r"[\w.+*-]+", choices.group(1)) if word not in ("or", "and")]
        claims.append(f"one of {' '.join(words)}")
    return next((claim for claim in claims if isinstance(_read(claim, value), Range)), None)


def _ranges_without_a_knob(source: str) -> dict[str, str]:
    """Return the fault of each range comment beside a module-level name that is no knob."""
    where, places, found = Bytes(source), _places(source), {}
    for statement in parse(source).body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ) if name not in places and (_NAME.fullmatch(name) or _literal(value) is not None):
                comment = _COMMENT.match(where.rest_of_line(where.span(statement)[1]))
                if comment and (claim := re.search(r"\brange\s+\S*\d\.\.\S*\d", comment.group(1))):
                    is_named = _NAME.fullmatch(name)
                    why = "give it one plain literal, and assign it once" if is_named else "write its name in capitals"
                    found[name] = f"{claim.group()!r} stands beside no knob; {why}"
    return found


def _choice(claim: str, value: KnobValue) -> Range | str:
    words = claim.removeprefix("one of ").split()
    choices: tuple[KnobValue | None, ...] = tuple(words) if isinstance(value, str) else tuple(map(_number, words))
    kept = tuple(choice for choice in choices if choice is not None)
    if len(kept) < len(choices) or len(set(kept)) < len(words) or len(words) < 2:
        return "wants two or more different values of the knob's type, separated by blanks"
    if isinstance(value, int) and not all(isinstance(choice, int) for choice in kept):
        return "a whole-numbered knob wants whole-numbered choices"
    return Range("choice", choices=tuple(map(float, kept)) if isinstance(value, float) else kept)


def _span(claim: str, value: KnobValue) -> Range | str:
    _, written, *words = claim.split()
    low, high = map(_number, written.partition("..")[::2] if "..." not in written else ("", ""))
    scale = " ".join(words)
    if low is None or high is None or scale not in ("", "log", "pow2"):
        return "is not 'range A..B', 'range A..B log' or 'range A..B pow2'"
    if isinstance(value, str):
        return "a text wants 'one of X Y Z'"
    if not low < high:
        return "the lower end must be below the upper end"
    if scale == "pow2":
        ends = [end for end in (low, high, value) if isinstance(end, int) and is_power_of_two(end)]
        return Range("pow2", low, high) if len(ends) == 3 else "both ends and the value must be powers of two"
    if scale == "log" and low <= 0:
        return "a logarithmic range must start above 0"
    whole = all(isinstance(end, int) for end in (low, high, value))
    return Range("int" if whole else "float", low, high, log=scale == "log")


def _number(text: str) -> int | float | None:
    if power := _POWER.fullmatch(text):
        return 1 << int(power.group(1))
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return int(text)
    except ValueError:
        pass  # not an integer: the pattern also allows floats and misplaced underscores
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _fitting(knob: Knob, value: KnobLiteral) -> KnobLiteral:
    """Convert `value` to the knob's own type."""
    if isinstance(value, tuple) and isinstance(knob.value, tuple) and len(value) == len(knob.value):
        return tuple(_fitting_one(Knob(knob.name, old), new) for old, new in zip(knob.value, value, strict=True))
    if isinstance(value, tuple) or isinstance(knob.value, tuple):
        items = f" of {len(knob.value)} items" if isinstance(knob.value, tuple) else ""
        raise EditError(
            f"{knob.name} = {value!r}: its value {knob.value!r} is of type {type(knob.value).__name__}{items}"
        )
    return _fitting_one(knob, value)


def _fitting_one(knob: Knob, value: KnobValue) -> KnobValue:
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        raise EditError(f"{knob.name}: the number has {value.bit_length()} bits; at most 63 are written")
    if knob.range is not None:
        if not knob.range.holds(value):
            raise EditError(f"{knob.name} = {value!r} is outside of its range {knob.range}")
        is_float = knob.range.kind == "float" or (knob.range.kind == "choice" and isinstance(knob.value, float))
        return float(value) if is_float and value != knob.value else value
    if isinstance(knob.value, float) and type(value) is int:
        return float(value)
    if type(value) is not type(knob.value):
        raise EditError(f"{knob.name} = {value!r}: its value {knob.value!r} is of type {type(knob.value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise EditError(f"{knob.name} = {value!r}: only a finite number can stand in a source")
    return value


def _rendered(value: KnobLiteral, old_text: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and "**" in old_text and is_power_of_two(value):
        return power_text(value)
    if isinstance(value, str):
        quoted = repr(value)
        return '"' + quoted[1:-1] + '"' if quoted.startswith("'") and '"' not in value else quoted
    return repr(value)
