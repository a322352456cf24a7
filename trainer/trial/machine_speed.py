"""A short benchmark of the processor, run just before and after a trial.

It multiplies float32 matrices that fit into the second-level cache, and measures processor seconds of the trainer's own
thread. A loop over main memory was tried and rejected: beside busy neighbours its time doubled where training lost a
tenth. The time of these products changes as much as that of training. On a GPU, `trainer.candidate.gpu_speed` does the
same in the candidate's process.
"""

from __future__ import annotations

import time

import numpy as np

_SIZE, _PRODUCTS = 192, 80


def processor_s() -> float:
    """Return the processor seconds of the benchmark, usually 0.1 to 0.2.

    `einsum` computes in this thread; BLAS would use others.
    """
    ones = np.ones((_SIZE, _SIZE), dtype=np.float32)
    product = np.empty_like(ones)
    np.einsum("ij,jk->ik", ones, ones, out=product)
    began_s = time.thread_time()
    for _ in range(_PRODUCTS):
        np.einsum("ij,jk->ik", ones, ones, out=product)
    return time.thread_time() - began_s
