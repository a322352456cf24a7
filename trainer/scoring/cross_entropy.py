"""Cross entropy of logits that an untrusted process computed.

Promises for every finite input of any magnitude: a loss is never negative, a row of equal logits costs ln V, and
exp(-loss) sums to 1 over the vocabulary. Logits that are too large to represent probabilities are refused.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

LARGEST_LOGIT = 1e6  # float32 values are 0.06 apart there, too coarse beyond. Masked logits may be lower.
_CHUNK_VALUES = 2**18


class Unscorable(Exception):
    """Raised when a candidate cannot be scored. The message is a sentence for users."""


def nats(
    logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], pool: ThreadPoolExecutor | None = None
) -> npt.NDArray[np.float64]:
    """Return the cross entropy (positions,) in nats of logits (positions, vocabulary) and targets (positions,).

    Computed in float64 on differences to the largest logit of each row, because `log(sum) + largest - picked` loses
    the logarithm if the largest logit is beyond 1e15. Raise Unscorable if a logit is not finite, or if the largest
    logit of a row is beyond LARGEST_LOGIT in absolute value.
    """
    step = max(1, _CHUNK_VALUES // logits.shape[1])
    pieces = [(logits[at : at + step], targets[at : at + step]) for at in range(0, len(targets), step)]
    losses = pool.map(_nats_of_piece, pieces) if pool is not None else map(_nats_of_piece, pieces)
    return np.concatenate(list(losses)) if pieces else np.zeros(0)


def _nats_of_piece(
    piece: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]],
) -> npt.NDArray[np.float64]:
    logits, targets = piece
    largest = logits.max(axis=1).astype(np.float64)
    if not (np.isfinite(largest).all() and np.isfinite(logits.min())):
        raise Unscorable("the logits are not all finite")
    if (np.abs(largest) > LARGEST_LOGIT).any():
        raise Unscorable(
            f"the largest logit of a row is {largest[np.abs(largest).argmax()]:.3g}; beyond {LARGEST_LOGIT:g} logits "
            "hold no probabilities"
        )
    below = logits.astype(np.float64)
    below -= largest[:, None]
    picked = below[np.arange(len(targets)), targets]
    np.exp(below, out=below)
    losses: npt.NDArray[np.float64] = np.log(below.sum(axis=1)) - picked
    return losses
