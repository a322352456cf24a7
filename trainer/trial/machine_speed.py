"""A fixed piece of work on the processor, timed: how fast the machine is just before and after a trial.

It consists of float32 products within the second cache, measured in processor seconds of the trainer's own thread. A
loop over main memory was tried and left out: beside neighbours it doubled where training lost a tenth; this one moves
as training does. On a GPU, `trainer.candidate.gpu_speed` does the same in the candidate's process.
"""

from __future__ import annotations

import time

import numpy as np

_SIZE, _PRODUCTS = 192, 80


def processor_s() -> float:
    """A tenth of a second or two. `einsum` keeps to this thread, as BLAS would not."""
    ones = np.ones((_SIZE, _SIZE), dtype=np.float32)
    product = np.empty_like(ones)
    np.einsum("ij,jk->ik", ones, ones, out=product)
    began_s = time.thread_time()
    for _ in range(_PRODUCTS):
        np.einsum("ij,jk->ik", ones, ones, out=product)
    return time.thread_time() - began_s
