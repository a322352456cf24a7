"""Processor seconds to score a row of logits, as it is done and as it was done before, in turn.

A row has the shape of the GPU profiles: 2,048 tokens with 8,192 logits each, in the memory that a candidate writes. The
former way copied a whole batch, and made every number of it float64 on differences to the largest logit of its row. It
is the reference, too: no loss may be further than 1e-9 nats from its own. Limit: 0.02 processor seconds a row in half
precision, in which logits leave a GPU.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from tests.bench.beside import Mean
from trainer.candidate.protocol import Layout
from trainer.scoring.cross_entropy import Logits, Losses, Targets, nats
from trainer.scoring.exchange import Buffers

TOKENS, VOCAB = 2048, 8192
BAR_S, MOST_DIFFERENCE = 0.02, 1e-9
_FORMER_CHUNK_VALUES = 2**18
_SPREAD = 3.0  # of the logits


@dataclass(frozen=True)
class Measured:
    """Processor seconds a row before and after, and the largest difference of a loss in nats."""

    before_s: list[float]
    after_s: list[float]
    difference: float


def run(rounds: int) -> None:
    """Measure both ways in turn and print the table; exit 1 if a limit is missed."""
    if rounds < 2:
        sys.exit("two rounds at least: one has no interval")
    found = {"half": _measured(2, rounds), "single": _measured(4, rounds)}
    table = Table(
        title=f"processor seconds a row of {TOKENS} tokens x {VOCAB} logits, {rounds} rounds in turn, one thread, "
        f"95 % intervals; load {os.getloadavg()[0]:.1f}"
    )
    for name in ("precision", "before", "after", "times", "largest difference", "bar"):
        table.add_column(name, justify="left" if name == "precision" else "right")
    for name, each in found.items():
        before, after = Mean.of(each.before_s), Mean.of(each.after_s)
        bar = f"<= {BAR_S:g} s" if name == "half" else ""
        seconds = (f"{mean.value:.4f} ±{mean.reach:.4f}" for mean in (before, after))
        table.add_row(name, *seconds, f"{before.value / after.value:.1f}", f"{each.difference:.1e} nats", bar)
    Console(width=120).print(table)
    if missed := bars_missed(found["half"], found["single"]):
        print(*missed, sep="\n")
        sys.exit(1)


def bars_missed(half: Measured, single: Measured) -> list[str]:
    """Return a message for each missed limit."""
    missed = [
        f"missed: a loss is {each.difference:.1e} nats from the reference, bar {MOST_DIFFERENCE:g}"
        for each in (half, single)
        if not each.difference <= MOST_DIFFERENCE
    ]
    if (seconds := Mean.of(half.after_s).value) > BAR_S:
        missed.append(f"missed: {seconds:.4f} processor seconds a row in half precision, bar {BAR_S:g}")
    return missed


def _measured(itemsize: int, rounds: int) -> Measured:
    random = np.random.default_rng(0)
    buffers = Buffers(Layout(1, TOKENS, VOCAB))
    shared = buffers.logits(0, TOKENS, itemsize)
    shared[:] = random.standard_normal((TOKENS, VOCAB), dtype=np.float32) * _SPREAD
    targets = random.integers(0, VOCAB, TOKENS)
    before, after = [], []
    for _ in range(rounds):
        former_s, expected = _timed(lambda: former_nats(np.frombuffer(shared.tobytes(), shared.dtype), targets))
        now_s, losses = _timed(lambda: nats(shared, targets))
        before.append(former_s)
        after.append(now_s)
    buffers.close()
    return Measured(before, after, float(np.abs(losses - expected).max()))


def _timed(work: Callable[[], Losses]) -> tuple[float, Losses]:
    began = time.process_time()
    losses = work()
    return time.process_time() - began, losses


def former_nats(private: Logits, targets: Targets) -> Losses:
    """Return the losses (positions,) of logits in one private copy, as they were computed before."""
    logits = private.reshape(len(targets), -1)
    step = max(1, _FORMER_CHUNK_VALUES // logits.shape[1])
    losses: list[npt.NDArray[np.float64]] = []
    for at in range(0, len(targets), step):
        piece, wanted = logits[at : at + step], targets[at : at + step]
        largest = piece.max(axis=1).astype(np.float64)
        if not (np.isfinite(largest).all() and np.isfinite(piece.min())):
            raise ValueError("the logits are not all finite")
        below = piece.astype(np.float64)
        below -= largest[:, None]
        picked = below[np.arange(len(wanted)), wanted]
        np.exp(below, out=below)
        losses.append(np.log(below.sum(axis=1)) - picked)
    return np.concatenate(losses)
