"""The machine of a trial: its device, and its speed in a short benchmark just before and after the trial.

The benchmark multiplies float32 matrices that fit into the second-level cache, and measures processor seconds of the
trainer's own thread. A loop over main memory was tried and rejected: beside busy neighbours its time doubled where
training lost a tenth. The time of these products changes as much as that of training. On a GPU,
`trainer.candidate.gpu_speed` does the same in the candidate's process.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer.jobs import Device
from trainer.sandbox.cgroup import kernel_text

_SIZE, _PRODUCTS = 192, 80
_BUSY_SHARE = 0.1
_DRIVER = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


def device(claim: str, threads: int | None, memory_mib: float) -> Device | None:
    """Return the device of a trial, or None if the runner reported none. `claim` is its `torch version|GPU`."""
    torch, _, gpu = claim.partition("|")
    if not torch:
        return None
    if gpu:
        driver = _DRIVER.search(kernel_text(Path("/proc/driver/nvidia/version")))
        return Device(gpu, "cuda", int(memory_mib), torch, driver[1] if driver else None, threads)
    return Device(_processor(), "cpu", None, torch, None, threads)


def _processor() -> str:
    for line in kernel_text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown processor"


@dataclass(frozen=True)
class ProcessorTime:
    """The seconds of all processors of the machine since its start, and those that were not idle."""

    passed_s: float
    used_s: float

    @classmethod
    def now(cls) -> ProcessorTime | None:
        """Read the kernel's counters; return None if it shows none. Time that a hypervisor took away is used time."""
        name, *ticks = kernel_text(Path("/proc/stat")).partition("\n")[0].split()[:9] or [""]
        if name != "cpu" or len(ticks) < 5 or not any(map(int, ticks)):
            return None
        per_s = os.sysconf("SC_CLK_TCK")
        passed, idle = sum(map(int, ticks)), int(ticks[3]) + int(ticks[4])
        return cls(passed / per_s, (passed - idle) / per_s)


def busy_text(before: ProcessorTime | None, now: ProcessorTime | None, own_s: float) -> str | None:
    """Describe for users how busy other programs kept the machine, or return None if they used less than a tenth of it.

    `own_s` are the processor seconds of the trial between both readings.
    """
    if before is None or now is None or now.passed_s <= before.passed_s:
        return None
    share = (now.used_s - before.used_s - own_s) / (now.passed_s - before.passed_s)
    return f"the machine was busy: other programs used {share:.0%} of its processors" if share >= _BUSY_SHARE else None


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
