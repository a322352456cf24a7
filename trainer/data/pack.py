"""Packs token documents into rows of equal width, and writes them as one .npy file with bounded memory.

Each row starts with BOS; nothing is padded and packing loses no token. The method is best fit over a bounded number of
waiting documents. A document that does not fit is cut, and the rest continues after a BOS in a later row. Only the last
row of a split may be shorter, and the file omits it.

The file has a fixed shuffled order, because scoring reads only the first rows, and neighbouring rows come from one
document.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.durable import beside, commit_file

Tokens = NDArray[np.uint16]

WAITING = 1000
_DTYPE = np.dtype("<u2")
_ROWS_AT_ONCE = 4096
_ORDER_SEED = 42


def pack(documents: Iterable[Tokens], width: int, bos: int, waiting: int = WAITING) -> Iterator[Tokens]:
    """Yield rows of `width` tokens; the last one may be shorter.

    About `waiting` documents are held to choose from, and more only if they are too short to fill a row.
    """
    shelf = _Shelf()
    for document in documents:
        whole_rows = len(document) // (width - 1)
        cut = whole_rows * (width - 1)
        for start in range(0, cut, width - 1):
            yield _row([document[start : start + width - 1]], bos)
        shelf.add(document[cut:])
        while len(shelf) > waiting and shelf.places >= width:
            yield _fill(shelf, width, bos)
    while len(shelf):
        yield _fill(shelf, width, bos)


class _Shelf:
    """Waiting pieces, ordered by length and then by age. `places` is the number of their tokens plus a BOS each."""

    def __init__(self) -> None:
        self._order: list[tuple[int, int]] = []
        self._pieces: dict[int, Tokens] = {}
        self._serial = 0
        self.places = 0

    def __len__(self) -> int:
        return len(self._order)

    def add(self, piece: Tokens) -> None:
        if len(piece):
            self._pieces[self._serial] = piece
            insort(self._order, (len(piece), self._serial))
            self._serial += 1
            self.places += len(piece) + 1

    def take(self, space: int) -> Tokens:
        """Take the longest piece of at most `space` tokens, or the beginning of the longest if all are longer."""
        shorter = bisect_left(self._order, (space + 1, 0))
        place = bisect_left(self._order, (self._order[shorter - 1][0], 0)) if shorter else len(self._order) - 1
        _, serial = self._order.pop(place)
        piece = self._pieces.pop(serial)
        self.places -= len(piece) + 1
        self.add(piece[space:])
        return piece[:space]


def _fill(shelf: _Shelf, width: int, bos: int) -> Tokens:
    pieces: list[Tokens] = []
    space = width
    while space and len(shelf):
        # With one place left, the row ends with the BOS of a document that continues in another row.
        pieces.append(shelf.take(space - 1))
        space -= 1 + len(pieces[-1])
    return _row(pieces, bos)


def _row(pieces: list[Tokens], bos: int) -> Tokens:
    opening = np.array([bos], dtype=np.uint16)
    return np.concatenate([part for piece in pieces for part in (opening, piece)])


@dataclass(frozen=True)
class WrittenRows:
    """The number of rows in a split's file. `dropped_tokens` tokens of text, without BOS, did not fill a row."""

    rows: int
    dropped_tokens: int


def write_rows(rows: Iterator[Tokens], width: int, bos: int, target: Path, scratch: Path) -> WrittenRows:
    """Write all rows of `width` tokens to `target`. The file `scratch` takes as many bytes and is removed."""
    written = _append(rows, width, bos, scratch)
    if written.rows:
        _mix(scratch, (written.rows, width), target)
    scratch.unlink()
    return written


def mixed_order(count: int) -> NDArray[np.intp]:
    """Return a fixed permutation (count,), from the raw bits of the generator, which numpy promises never to change."""
    return np.argsort(np.random.PCG64(_ORDER_SEED).random_raw(count), kind="stable")


def _append(rows: Iterator[Tokens], width: int, bos: int, scratch: Path) -> WrittenRows:
    count = dropped = 0
    with scratch.open("wb") as file:
        for row in rows:
            if len(row) == width:
                file.write(row.astype(_DTYPE, copy=False).tobytes())
                count += 1
            else:
                dropped += int(np.count_nonzero(row != bos))
    return WrittenRows(count, dropped)


def _mix(scratch: Path, shape: tuple[int, int], target: Path) -> None:
    rows = np.memmap(scratch, dtype=_DTYPE, mode="r", shape=shape)
    order = mixed_order(shape[0])
    header = {"descr": _DTYPE.str, "fortran_order": False, "shape": shape}
    with beside(target).open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, shape[0], _ROWS_AT_ONCE):
            file.write(rows[order[start : start + _ROWS_AT_ONCE]].tobytes())
    commit_file(target)
