"""Facts about the machine that procfs tells: the processor's name, the card's driver, the kernel's memory kills."""

from __future__ import annotations

import re
from pathlib import Path

from trainer.jobs import Device

_DRIVER = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


def kernel_oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started, 0 where it does not say."""
    for line in _text("/proc/vmstat").splitlines():
        name, _, count = line.partition(" ")
        if name == "oom_kill":
            return int(count)
    return 0


def device(claim: str, threads: int | None, memory_mib: float) -> Device | None:
    """What a trial ran on, from the runner's `torch version|card` and this machine; None if the runner never said."""
    torch, _, card = claim.partition("|")
    if not torch:
        return None
    if card:
        driver = _DRIVER.search(_text("/proc/driver/nvidia/version"))
        return Device(card, "cuda", int(memory_mib), torch, driver[1] if driver else None, threads)
    return Device(_processor(), "cpu", None, torch, None, threads)


def _processor() -> str:
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown processor"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
