"""How much known text a source could carry: what it adds to another one, by size and as compressed by LZMA.

Whoever knows the text that scores it could write it into train.py: in strings, numbers, names, comments, layout. What
LZMA cannot shorten, given the source before, bounds all of that alike, whatever the encoding: a source is one of at
most 2**(8 * bytes), so against a mixture of them it saves at most that many bits of the text that is scored.
"""

from __future__ import annotations

import ast
import lzma
from dataclasses import dataclass
from functools import lru_cache

from researcher.errors import Rejected
from researcher.source.proposal import ProposerName
from researcher.source.syntax import parse

# A window that holds two sources of the largest size; counts, not a file, so without a header and a check sum.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**20}]


@dataclass(frozen=True)
class Cap:
    """Bytes, compressed: of all that is new, and of the values among it."""

    added: int
    literal: int


# Of 704 edits of single modules in this repository's history the median adds 106 bytes, 99 in 100 no more than 988, the
# largest 2,138; of values 41, 462 and 801. A whole train.py of the field is 6,404, of which 1,585 are values.
EDIT = Cap(3072, 1024)  # one proposal of a model, against its parent
RUN = Cap(8192, 2048)  # all that models added, against the baseline or the last file of a person's
PERSON = Cap(16384, 4096)  # a person's file, against the baseline
MOST_GROWTH = 16_384  # characters of one proposal of a model, whatever they compress to; the largest edit has 4,214
KNOBS_SLACK = 512  # a run at its cap still moves knobs


def refuse_carried(source: str, before: str, cap: Cap, since: str) -> None:
    """Raises Rejected where `source` adds more to `before` than `cap`; `since` says what that is, for the proposer."""
    added = added_bytes(source, before)
    if added > cap.added:
        raise Rejected(
            f"train.py would have {added} bytes, compressed, that {since} has not; at most {cap.added} are tried: "
            "write less, or take out what does not help"
        )
    if added > cap.literal and (values := added_literal_bytes(source, before)) > cap.literal:
        raise Rejected(
            f"train.py would have {values} bytes of numbers and texts, compressed, that {since} has not; at most "
            f"{cap.literal} are tried: compute values instead of writing them down"
        )


def refuse_growth(source: str, before: str) -> None:
    """Raises Rejected where one proposal of a model makes a source longer than any edit does."""
    if len(source) - len(before) > MOST_GROWTH:
        raise Rejected(
            f"train.py would grow by {len(source) - len(before)} characters; at most {MOST_GROWTH} are tried at once"
        )


def cap_of(proposer: str) -> Cap:
    """For one proposal against its parent."""
    return PERSON if proposer == ProposerName.HUMAN else EDIT


def added_bytes(source: str, before: str) -> int:
    """What `source` has that `before` has not, compressed."""
    return 0 if source == before else _compressed(source, before)


def added_literal_bytes(source: str, before: str) -> int:
    """The same of the values in the two: texts, bytes, numbers. Raises EditError where one does not parse."""
    return _compressed(_literals(source), _literals(before))


def _compressed(text: str, known: str) -> int:
    """What `text` takes behind `known`. Two texts that are the same cost a few bytes; nothing that differs is free, the
    order of lines neither."""
    return max(0, _size(f"{known}\n{text}") - _size(known))


@lru_cache(maxsize=32)
def _size(text: str) -> int:
    return len(lzma.compress(text.encode(), lzma.FORMAT_RAW, filters=_FILTERS))


@lru_cache(maxsize=8)
def _literals(source: str) -> str:
    values = (node.value for node in ast.walk(parse(source)) if isinstance(node, ast.Constant))
    return "\n".join(hex(value) if isinstance(value, int) else ascii(value) for value in values)
