"""A fixed piece of work, timed: how fast the machine is just before and after a trial.

On a processor it is float32 products within the second cache, in processor seconds of the one thread, done by the
trainer itself. A loop over main memory was tried and left out: beside neighbours it doubled where training lost a
tenth; this one moves as training does. On a card it is done in the candidate's process before its script is there, in
wall seconds, and not again: afterwards that process cannot be trusted, and another costs seconds. It has not been run
on a card yet.
"""

from __future__ import annotations

import time

import numpy as np

_SIZE, _PRODUCTS = 192, 80
_CARD_SIZE, _CARD_PRODUCTS = 4096, 40


def processor_s() -> float:
    """A tenth of a second or two. `einsum` keeps to this thread, as BLAS would not."""
    ones = np.ones((_SIZE, _SIZE), dtype=np.float32)
    product = np.empty_like(ones)
    np.einsum("ij,jk->ik", ones, ones, out=product)
    began_s = time.thread_time()
    for _ in range(_PRODUCTS):
        np.einsum("ij,jk->ik", ones, ones, out=product)
    return time.thread_time() - began_s


def card_s() -> float:
    """A first round wakes the card up, the second counts; nothing of it stays in the card's memory."""
    import torch  # noqa: PLC0415 - the worker, which imports this module, has no torch

    ones = torch.ones(_CARD_SIZE, _CARD_SIZE, dtype=torch.float16, device="cuda")
    product = torch.empty_like(ones)
    for _ in range(2):
        torch.cuda.synchronize()
        began_s = time.monotonic()
        for _ in range(_CARD_PRODUCTS):
            torch.mm(ones, ones, out=product)
        torch.cuda.synchronize()
        took_s = time.monotonic() - began_s
    del ones, product
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return took_s
