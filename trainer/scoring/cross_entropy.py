"""Cross entropy of logits that an untrusted process computed, and may still change.

Promises for every finite input of any magnitude: a loss is never negative, a row of equal logits costs ln V, and
exp(-loss) sums to 1 over the vocabulary. Logits that are too large to represent probabilities are refused. Each logit
is read once, into private memory of the size of a core's cache.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

LARGEST_LOGIT = 1e6  # float32 values are 0.06 apart there, too coarse beyond. Masked logits may be lower.
_TASK_VALUES = 2**21  # for one thread, whose private memory serves all blocks of the task
_BLOCK_VALUES = 2**17
_NOT_FINITE = "the logits are not all finite"
_LEAST_SUM, _MOST_SUM = 1e-130, 1e130  # between these, log(sum) - logit is exact to 1e-13

_HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float64)
with np.errstate(over="ignore"):
    _EXPS_OF_HALVES = np.where(np.isfinite(_HALVES), np.exp(_HALVES), np.nan)

Losses = npt.NDArray[np.float64]
Logits = npt.NDArray[np.floating]
Targets = npt.NDArray[np.integer]


class Unscorable(Exception):
    """Raised when a candidate cannot be scored. The message is a sentence for users."""


def nats(logits: Logits, targets: Targets, pool: ThreadPoolExecutor | None = None) -> Losses:
    """Return the cross entropy (positions,) in nats of logits (positions, vocabulary) and targets (positions,).

    Exact to 1e-9 against sums of float64 exponentials on differences to the largest logit of each row. Raise Unscorable
    if a logit is not finite, or if the largest logit of a row is beyond LARGEST_LOGIT in absolute value.
    """
    step = max(1, _TASK_VALUES // logits.shape[1])
    tasks = [(logits[at : at + step], targets[at : at + step]) for at in range(0, len(targets), step)]
    losses = pool.map(_nats_of_task, tasks) if pool is not None else map(_nats_of_task, tasks)
    return np.concatenate(list(losses)) if tasks else np.zeros(0)


def _nats_of_task(task: tuple[Logits, Targets]) -> Losses:
    logits, targets = task
    vocab = logits.shape[1]
    block = max(1, _BLOCK_VALUES // vocab)
    private = np.empty((block, vocab), dtype=np.intp if logits.dtype == np.float16 else np.float64)
    exps = np.empty((block, vocab))
    losses = np.empty(len(targets))
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        for at in range(0, len(targets), block):
            rows, wanted = logits[at : at + block], targets[at : at + block]
            losses[at : at + block] = _nats_of_block(rows, wanted, private[: len(rows)], exps[: len(rows)])
    return losses


def _nats_of_block(logits: Logits, targets: Targets, private: npt.NDArray[Any], exps: Losses) -> Losses:
    """Return the losses (rows,). `private` and `exps` (rows, vocabulary) are memory that is overwritten.

    A row is computed on differences only if the sum of its exponentials is NaN or far from 1.
    """
    half = logits.dtype == np.float16
    if half:
        np.copyto(private, logits.view(np.uint16))
        np.take(_EXPS_OF_HALVES, private, out=exps, mode="wrap")
    else:
        np.copyto(private, logits)
        if private.min() == -np.inf:
            raise Unscorable(_NOT_FINITE)
        np.exp(private, out=exps)
    sums = np.einsum("ij->i", exps)
    picked = private[np.arange(len(targets)), targets]
    losses: Losses = np.log(sums) - (_HALVES[picked] if half else picked)
    extreme = ~((sums > _LEAST_SUM) & (sums < _MOST_SUM))
    if extreme.any():
        values = _HALVES[private[extreme]] if half else private[extreme]
        losses[extreme] = _nats_on_differences(values, targets[extreme])
    return np.maximum(losses, 0.0, out=losses)


def _nats_on_differences(values: Losses, targets: Targets) -> Losses:
    """Return the losses (rows,) of logits (rows, vocabulary) of any magnitude, and overwrite the logits.

    `log(sum) + largest - picked` would lose the logarithm if the largest logit is beyond 1e15.
    """
    largest = values.max(axis=1)
    if not (np.isfinite(largest).all() and np.isfinite(values.min())):
        raise Unscorable(_NOT_FINITE)
    if (np.abs(largest) > LARGEST_LOGIT).any():
        raise Unscorable(
            f"the largest logit of a row is {largest[np.abs(largest).argmax()]:.3g}; beyond {LARGEST_LOGIT:g} logits "
            "hold no probabilities"
        )
    values -= largest[:, None]
    losses: Losses = np.log(np.exp(values).sum(axis=1)) - values[np.arange(len(targets)), targets]
    return losses
