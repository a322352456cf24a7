"""Would a candidate run out of memory? Only where it is as large in everything that counts as two that did.

Nothing is estimated. Two sources are compared only if they differ in nothing but sizes, and in knobs that take no
memory; what the incumbent is as large as did not fail for its size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from researcher.source.fingerprint import read_facts

ENOUGH = 2  # a single failure may have been the machine's
_KNOB = re.compile(
    r"Assign\(targets=\[Name\(id='([A-Z][A-Z0-9_]*)', ctx=Store\(\)\)\], value=Constant\(value=([\d.e+-]+)\)\)"
)
_SIZES = {"DEPTH", "ASPECT_RATIO", "DEVICE_BATCH_SIZE", "WIDTH", "N_LAYER", "N_EMBD"}  # the more, the more memory
_NO_MEMORY = re.compile(r"TOTAL_BATCH_SIZE|(?:.*_)?(?:LR|DECAY|BETA\d?|MOMENTUM|WARMUP|WARMDOWN|FRAC|SEED)(?:_.*)?")


@dataclass(frozen=True)
class _Size:
    """The knobs that take memory, and everything else that could."""

    knobs: dict[str, float]
    rest: tuple[str, ...]

    def holds(self, other: _Size) -> bool:
        """True when it is comparable with `other`, and nowhere smaller."""
        return (
            self.rest == other.rest
            and self.knobs.keys() == other.knobs.keys()
            and all(self.knobs[name] >= value for name, value in other.knobs.items())
        )


def too_large(source: str, incumbent: str, ran_out: Sequence[tuple[int, str]]) -> str | None:
    """What is against `source`, in words, or None; `ran_out` are numbers and sources of experiments without memory."""
    if len(ran_out) < ENOUGH:
        return None
    ours, runs = _size(source), _size(incumbent)
    smaller = [(number, size) for number, text in ran_out if ours.holds(size := _size(text)) and not runs.holds(size)]
    if len(smaller) < ENOUGH:
        return None
    (one, size), (other, _) = smaller[-2:]
    sizes = ", ".join(f"{name} {value:g}" for name, value in size.knobs.items())
    return f"experiments {one} and {other} ran out of memory ({one} with {sizes}), and this is nowhere smaller"


@lru_cache(maxsize=64)
def _size(source: str) -> _Size:
    knobs: dict[str, float] = {}
    rest: list[str] = []
    for statement in read_facts(source).statements:
        knob = _KNOB.fullmatch(statement)
        if knob is not None and knob[1] in _SIZES:
            knobs[knob[1]] = float(knob[2])
        elif knob is None or not _NO_MEMORY.fullmatch(knob[1]):
            rest.append(statement)
    return _Size(knobs, tuple(rest))
