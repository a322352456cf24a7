"""Facts about the machine that the kernel tells: the processor's name, the card's driver, its kills for memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trainer.jobs import Device

_DRIVER = re.compile(r"\b(\d{3}\.\d+(?:\.\d+)?)\b")


def kernel_oom_kills(root: Path = Path("/")) -> int:
    """How many processes the kernel has killed for memory: of our own control group, so in our container; where no
    group counts, on the whole machine. 0 where nothing says. Compare two calls.
    """
    for counter in (*_group_counters(root), root / "proc/vmstat"):
        for line in _text(counter).splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return 0


def _group_counters(root: Path) -> Iterator[Path]:
    """Of both versions of control groups. In a container the group's path is the host's and its folder is mounted at
    the top; elsewhere it is below."""
    mounted = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, own = line.split(":", 2)
        if number == "0":
            folder, counter = mounted, "memory.events"
        elif "memory" in controllers.split(","):
            folder, counter = mounted / "memory", "memory.oom_control"
        else:
            continue
        yield folder / own.lstrip("/") / counter
        yield folder / counter


def device(claim: str, threads: int | None, memory_mib: float) -> Device | None:
    """What a trial ran on, from the runner's `torch version|card` and this machine; None if the runner never said."""
    torch, _, card = claim.partition("|")
    if not torch:
        return None
    if card:
        driver = _DRIVER.search(_text(Path("/proc/driver/nvidia/version")))
        return Device(card, "cuda", int(memory_mib), torch, driver[1] if driver else None, threads)
    return Device(_processor(), "cpu", None, torch, None, threads)


def _processor() -> str:
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "unknown processor"


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
