"""The device of a trial, as kernel and runner report it: the GPU and its driver, or the name of the processor."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.jobs import Device
from trainer.sandbox.cgroup import kernel_text

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
