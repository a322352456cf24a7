"""Runs a user's own prepare.py once in the sandbox, and exports its rows, byte lengths and vocabulary size.

The export consists of plain numbers, written to descriptors that the trusted side opened and verifies. Unusable data
are reported with one line and the exit code REFUSED. Does not cover the bounds that `trainer.data.foreign_prepare`
enforces from outside.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

REFUSED = 3
BATCH_ROWS = 16
MOST_TOKENS = 2**16


@dataclass(frozen=True)
class DumpOrders:
    """The program's argument, as JSON. `val_rows` and `train_rows` are maxima; the descriptors are inherited."""

    repository: str
    context: int
    val_rows: int
    train_rows: int
    val_fd: int
    train_fd: int
    table_fd: int
    about_fd: int


class Unusable(Exception):
    """Raised when the data of prepare.py do not suit a trial. The message says why."""


def main() -> None:
    """Run the prepare.py of the work folder in the user's repository, and export its data."""
    orders = DumpOrders(**json.loads(sys.argv[2]))
    text = Path("prepare.py").read_bytes()
    os.chdir(orders.repository)
    sys.path.insert(0, orders.repository)
    try:
        _dump(_loaded(text, os.path.join(orders.repository, "prepare.py")), orders)
    except Unusable as fault:
        print(fault, file=sys.stderr, flush=True)
        os._exit(REFUSED)
    sys.stdout.flush()
    os._exit(0)  # threads of the user's loader may still run


def _loaded(text: bytes, path: str) -> ModuleType:
    module = ModuleType("prepare")
    module.__file__ = path
    sys.modules["prepare"] = module
    exec(compile(text.decode(), path, "exec", dont_inherit=True), module.__dict__)
    return module


def _dump(prepare: ModuleType, orders: DumpOrders) -> None:
    import numpy as np  # noqa: PLC0415 - after prepare.py, which may set variables that numpy and torch read

    tokenizer = prepare.Tokenizer.from_directory()
    vocab = int(tokenizer.get_vocab_size())
    if not 0 < vocab <= MOST_TOKENS:
        raise Unusable(f"its tokenizer has {vocab} tokens; at most {MOST_TOKENS} are measured")
    table = prepare.get_token_bytes(**_on_processor(prepare.get_token_bytes)).cpu().numpy()
    with open(orders.table_fd, "wb") as file:
        file.write(table.astype("<i4").tobytes())
    first = None
    for split, most, fd in (("val", orders.val_rows, orders.val_fd), ("train", orders.train_rows, orders.train_fd)):
        with open(fd, "wb") as file:
            for rows in _rows(prepare, tokenizer, split, most, orders.context, vocab):
                first = int(rows[0, 0]) if first is None else first
                file.write(rows.astype(np.dtype("<u2")).tobytes())
    bos = tokenizer.get_bos_token_id() if hasattr(tokenizer, "get_bos_token_id") else first
    with open(orders.about_fd, "w", encoding="utf-8") as file:
        json.dump({"vocab_size": vocab, "bos": int(bos or 0)}, file)


def _rows(prepare: ModuleType, tokenizer: Any, split: str, most: int, context: int, vocab: int) -> Iterator[Any]:
    """Yield batches of rows (batch, context + 1) until there are `most` rows or the second epoch begins."""
    left, first_epoch = most, None
    on_processor = _on_processor(prepare.make_dataloader)
    for x, y, epoch in prepare.make_dataloader(tokenizer, BATCH_ROWS, context, split, **on_processor):
        first_epoch = epoch if first_epoch is None else first_epoch
        if epoch != first_epoch and left < most:
            return
        rows = _checked(x.cpu().numpy(), y.cpu().numpy(), context, vocab)[:left]
        yield rows
        left -= len(rows)
        if left <= 0 or epoch != first_epoch:
            return


def _on_processor(function: Any) -> dict[str, str]:
    """Return the argument that keeps a function off the GPU, if it has one for the device."""
    return {"device": "cpu"} if "device" in inspect.signature(function).parameters else {}


def _checked(x: Any, y: Any, context: int, vocab: int) -> Any:
    import numpy as np  # noqa: PLC0415

    if x.shape != (BATCH_ROWS, context) or y.shape != x.shape:
        raise Unusable(
            f"its make_dataloader gives inputs of shape {x.shape} and targets of shape {y.shape} "
            f"where {(BATCH_ROWS, context)} was asked for"
        )
    if (x[:, 1:] != y[:, :-1]).any():
        raise Unusable("the targets of its make_dataloader are not the inputs shifted by one token")
    rows = np.concatenate([x, y[:, -1:]], axis=1)
    if rows.min() < 0 or rows.max() >= vocab:
        raise Unusable(f"its make_dataloader gives a token {rows.max()}, its tokenizer has {vocab}")
    return rows


if __name__ == "__main__":
    main()
