"""Writes the rows of a split as one .npy file, in an order mixed once and for all, with bounded memory.

Mixed because scoring reads the first rows only and neighbouring rows come from one document.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainer.data.durable import beside, settle
from trainer.data.pack import Tokens

_DTYPE = np.dtype("<u2")
_ROWS_AT_ONCE = 4096
_ORDER_SEED = 42


@dataclass(frozen=True)
class WrittenRows:
    """Rows of a split's file; `dropped_tokens` of text, BOS not counted, filled no row."""

    rows: int
    dropped_tokens: int


def write_rows(rows: Iterator[Tokens], width: int, bos: int, target: Path, scratch: Path) -> WrittenRows:
    """Write all rows of full width to `target`; `scratch` is used for as many bytes and removed."""
    written = _append(rows, width, bos, scratch)
    if written.rows:
        _mix(scratch, (written.rows, width), target)
    scratch.unlink()
    return written


def mixed_order(count: int) -> NDArray[np.intp]:
    """A fixed permutation; from the raw bits of the generator, which numpy promises never to change."""
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
    settle(target)
