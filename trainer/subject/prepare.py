"""The fixed half of the subject: data, tokenizer, loader, clock, evaluation. `train.py` is what gets edited.

`overnight prepare` makes the data folder (`$OVERNIGHT_DATA`, else `data` beside this file). In a trial the trainer puts
its own clock and its own evaluation in the place of `progress`, `evaluate_bpb` and `warm_evaluation`.
Outside of a trial, `OVERNIGHT_DATA=<folder> python train.py` uses those below. Not covered: making the data.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

MAX_SEQ_LEN = 2048
TIME_BUDGET = 300
VOCAB_SIZE = 8192

EVAL_ROWS = 2048  # by hand only; a trial's budget names its own
UNCOUNTED_STEPS = 10  # by hand, on a GPU: these cover compilation
DATA = Path(os.environ.get("OVERNIGHT_DATA", Path(__file__).parent / "data"))
SEED = int(os.environ.get("OVERNIGHT_SEED", "42"))
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")


class Tokenizer:
    """The byte-level BPE of the data folder. Only `encode` and `decode` need the package `tokenizers`."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads(_existing(folder / "manifest.json").read_text())
        if manifest["vocab_size"] > VOCAB_SIZE:
            raise ValueError(f"{folder} has {manifest['vocab_size']} tokens, VOCAB_SIZE of prepare.py is {VOCAB_SIZE}")
        self.vocab_size = int(manifest["vocab_size"])
        self.bos = int(manifest["bos"])
        self._folder = folder
        self._bpe = None

    @classmethod
    def from_directory(cls, folder: Path = DATA) -> Tokenizer:
        return cls(folder)

    def get_vocab_size(self) -> int:
        return self.vocab_size

    def get_bos_token_id(self) -> int:
        return self.bos

    def encode(self, text: str) -> list[int]:
        return self._loaded().encode(text).ids

    def decode(self, ids: list[int]) -> str:
        return self._loaded().decode(ids)

    def _loaded(self):
        if self._bpe is None:
            from tokenizers import Tokenizer as Bpe

            self._bpe = Bpe.from_file(str(_existing(self._folder / "tokenizer.json")))
        return self._bpe


def get_token_bytes(device: str | torch.device = "cpu") -> torch.Tensor:
    """UTF-8 length of each token, 0 for the special ones."""
    return torch.from_numpy(np.load(_existing(DATA / "token_bytes.npy"))).to(device)


def make_dataloader(
    tokenizer: Tokenizer, B: int, T: int, split: str = "train"
) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    """Endless `(inputs, targets, epoch)`, int64 of shape (B, T) on the device; every row begins with BOS.

    Each epoch shows every row once, in an order drawn from the seed. A T below the packed length cuts the rows.
    """
    rows = _packed_rows(split)
    packed = rows.shape[1] - 1
    if packed < T:
        raise ValueError(f"T = {T} is longer than the packed rows of {packed} tokens; use T <= MAX_SEQ_LEN")
    return _batches(rows, B, T)


def _batches(rows: np.ndarray, B: int, T: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
    epoch, order = 0, np.empty(0, dtype=np.int64)
    while True:
        while len(order) < B:
            epoch += 1
            order = np.concatenate([order, np.random.default_rng([SEED, epoch]).permutation(len(rows))])
        picked, order = order[:B], order[B:]
        _clock.start()
        batch = torch.from_numpy(rows[picked, : T + 1].astype(np.int64))
        if CUDA:
            batch = batch.pin_memory().to(DEVICE, non_blocking=True)
        yield batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), epoch


def progress() -> float:
    """Share of the time budget used, 0..1. Call it once before every optimiser step and stop at 1."""
    return _clock.progress()


def warm_evaluation(model: torch.nn.Module, batch_size: int) -> None:
    """Compile the evaluation of a model. Call it in the uncounted steps, in the context of the evaluation."""
    tokens = torch.zeros(batch_size, MAX_SEQ_LEN, dtype=torch.int64, device=DEVICE)
    model.eval()
    with torch.no_grad():
        model(tokens, tokens, reduction="none")
    model.train()


def evaluate_bpb(model: torch.nn.Module, tokenizer: Tokenizer, batch_size: int) -> float:
    """Bits per byte of the validation rows: nats over targets that have bytes, by those bytes. Lower is better."""
    rows = _packed_rows("val")[:EVAL_ROWS]
    token_bytes = get_token_bytes(DEVICE)
    nats = torch.zeros((), dtype=torch.float64, device=DEVICE)
    total = torch.zeros((), dtype=torch.int64, device=DEVICE)
    for start in range(0, len(rows), batch_size):
        chunk = rows[start : start + batch_size].astype(np.int64)
        count = len(chunk)
        padding = np.zeros((batch_size - count, rows.shape[1]), dtype=np.int64)  # one shape, so one compilation
        batch = torch.from_numpy(np.concatenate([chunk, padding])).to(DEVICE)
        with torch.no_grad():
            losses = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous(), reduction="none")
        lengths = token_bytes[batch[:count, 1:]]
        nats += (losses.view(batch_size, -1)[:count].double() * (lengths > 0)).sum()
        total += lengths.sum()
    return nats.item() / (math.log(2) * total.item())


class _Clock:
    """Seconds since the first batch: of the processor on a CPU, which neighbours share, of the wall on a GPU."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.calls = 0

    def now(self) -> float:
        return time.perf_counter() if CUDA else time.process_time()

    def start(self) -> None:
        if self.started is None:
            self.started = self.now()

    def progress(self) -> float:
        self.calls += 1
        if self.started is None:
            return 0.0
        if CUDA and self.calls <= UNCOUNTED_STEPS + 1:
            self.started = self.now()
        return min(1.0, (self.now() - self.started) / TIME_BUDGET)


_clock = _Clock()


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations per second that the maker states, or None for a card not listed."""
    stated = {"H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}
    return next((flops for name, flops in stated.items() if name in device_name), None)


def _packed_rows(split: str) -> np.ndarray:
    path = {"train": DATA / "train.npy", "val": DATA / "private" / "val.npy"}.get(split)
    if path is None:
        raise ValueError(f"split {split!r} is not known; use 'train' or 'val'")
    rows = np.load(_existing(path), mmap_mode="r")
    if len(rows) == 0:
        raise ValueError(f"{path} holds no rows; run `overnight prepare` with more text")
    return rows


def _existing(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; run `overnight prepare` or set OVERNIGHT_DATA to its folder")
    return path


def _keep_freed_memory() -> None:
    """Have glibc reuse large blocks. It hands them back to the kernel otherwise, and every step on a CPU faults in
    its activations anew, page by page."""
    if CUDA or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):  # other C libraries have none
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD, at its limit
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


_keep_freed_memory()
