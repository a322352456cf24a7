"""Limits the known text that a source can contain: its additions to another source, by LZMA-compressed size.

A model that knows the validation text could write it into train.py: in strings, numbers, names, comments or layout. The
LZMA-compressed size, given the earlier source, limits all of these for any encoding: at most `2**(8*n)` sources
compress to n bytes, so against a mixture of them a source saves at most 8*n bits of the scored text.
"""

from __future__ import annotations

import ast
import lzma
from dataclasses import dataclass
from functools import lru_cache

from researcher.errors import Rejected
from researcher.source.proposal import ProposerName
from researcher.source.syntax import parse

# The window holds two sources of the largest size. Only the size counts, so there is no header and no checksum.
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 2**20}]


@dataclass(frozen=True)
class Cap:
    """Limits in compressed bytes: `added` for everything new, `literal` for the values in it."""

    added: int
    literal: int


# Of 704 edits of single modules in this repository's history the median adds 106 bytes, 99 in 100 at most 988, the
# largest 2,138; the values among them take 41, 462 and 801. A typical whole train.py has 6,404, with 1,585 for values.
EDIT = Cap(3072, 1024)  # one proposal of a model, against its parent
RUN = Cap(8192, 2048)  # all that models added, against the baseline or the latest file of a user
USER_CAP = Cap(16384, 4096)  # a user's file, against the baseline
MOST_GROWTH = 16_384  # characters added by one proposal of a model, uncompressed; the largest edit above has 4,214
KNOBS_SLACK = 512  # extra bytes for moving knobs at the limit of a run


def refuse_carried(source: str, before: str, cap: Cap, since: str) -> None:
    """Raise Rejected if `source` adds more to `before` than `cap`.

    `since` names `before` in the message to the proposer.
    """
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
    """Raise Rejected if one proposal of a model makes a source longer than any real edit."""
    if len(source) - len(before) > MOST_GROWTH:
        raise Rejected(
            f"train.py would grow by {len(source) - len(before)} characters; at most {MOST_GROWTH} are tried at once"
        )


def cap_of(proposer: str) -> Cap:
    """Return the limit for one proposal against its parent."""
    return USER_CAP if proposer == ProposerName.HUMAN else EDIT


def added_bytes(source: str, before: str) -> int:
    """Return the compressed size of the additions of `source` to `before`, in bytes."""
    return 0 if source == before else _compressed(source, before)


def added_literal_bytes(source: str, before: str) -> int:
    """Return the same for literal values: texts, bytes, numbers. Raises EditError if a source does not parse."""
    return _compressed(_literals(source), _literals(before))


def _compressed(text: str, known: str) -> int:
    """Return the compressed bytes that `text` takes after `known`.

    Equal texts cost a few bytes. Every difference has a cost, also another order of lines.
    """
    return max(0, _size(f"{known}\n{text}") - _size(known))


@lru_cache(maxsize=32)
def _size(text: str) -> int:
    return len(lzma.compress(text.encode(), lzma.FORMAT_RAW, filters=_FILTERS))


@lru_cache(maxsize=8)
def _literals(source: str) -> str:
    values = (node.value for node in ast.walk(parse(source)) if isinstance(node, ast.Constant))
    return "\n".join(hex(value) if isinstance(value, int) else ascii(value) for value in values)
