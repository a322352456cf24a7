"""A short benchmark of the GPU, run in the candidate's process before its script begins.

It does not run after the trial: then that process cannot be trusted, and starting another one takes seconds. No GPU has
run it yet.
"""

from __future__ import annotations

import time

import torch

_GPU_SIZE, _GPU_PRODUCTS = 4096, 40


def gpu_s() -> float:
    """Return the wall seconds of the benchmark. The first of two rounds only warms up the GPU.

    Afterwards the benchmark holds no memory of the GPU.
    """

    ones = torch.ones(_GPU_SIZE, _GPU_SIZE, dtype=torch.float16, device="cuda")
    product = torch.empty_like(ones)
    for _ in range(2):
        torch.cuda.synchronize()
        began_s = time.monotonic()
        for _ in range(_GPU_PRODUCTS):
            torch.mm(ones, ones, out=product)
        torch.cuda.synchronize()
        took_s = time.monotonic() - began_s
    del ones, product
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return took_s
