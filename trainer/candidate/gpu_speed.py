"""A fixed piece of work on the GPU, timed before a candidate's script begins.

It runs in the candidate's process and only there: afterwards that process cannot be trusted, and another one costs
seconds. It has not been run on a GPU yet.
"""

from __future__ import annotations

import time

import torch

_CARD_SIZE, _CARD_PRODUCTS = 4096, 40


def card_s() -> float:
    """A first round wakes the GPU up, the second counts; nothing of it stays in the GPU's memory."""

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
