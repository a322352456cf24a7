"""Writes the rows of a split as one .npy file in a fixed shuffled order, with bounded memory.

The order is shuffled because scoring reads only the first rows, and neighbouring rows come from one document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.durable import beside, commit_file
from trainer.data.pack import Tokens

_DTYPE = np.dtype("<u2")
_ROWS_AT_ONCE = 4096
_ORDER_SEED = 42


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
