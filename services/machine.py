"""What this machine offers, in facts: GPUs, cores, memory, disk, load; and what follows: a profile, a state folder.

A driver that is there but broken is an error, never "no GPU". Limits of a container count as the machine's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainer.jobs import PROFILES

_SMI_TIMEOUT_S = 30
_SMI_NO_DEVICE = 6
_CGROUP = Path("/sys/fs/cgroup")


class GpuFault(Exception):
    """There is an NVIDIA driver here, and it does not work."""


class Gpu(NamedTuple):
    """A card as its driver names it."""

    name: str
    memory_mib: int


@dataclass(frozen=True)
class Machine:
    """`load` is the mean number of processes that wanted a core during the last minute."""

    cores: float
    memory_mib: int
    free_memory_mib: int
    free_disk_mib: int
    load: float
    gpus: tuple[Gpu, ...]

    def in_words(self) -> str:
        """One line for the start of a run."""
        cards = ", ".join(f"{gpu.name} ({gpu.memory_mib / 1024:.0f} GiB)" for gpu in self.gpus) or "no NVIDIA GPU"
        return (
            f"{cards}; {self.cores:g} cores at load {self.load:.1f}; "
            f"{self.free_memory_mib / 1024:.1f} of {self.memory_mib / 1024:.1f} GiB memory free; "
            f"{self.free_disk_mib / 1024:.0f} GiB disk free"
        )


def look_at_machine(state: Path) -> Machine:
    """The facts now; `state` names the disk in question. Raises GpuFault."""
    memory_mib, free_memory_mib = _memory_mib()
    return Machine(
        cores=_cores(),
        memory_mib=memory_mib,
        free_memory_mib=free_memory_mib,
        free_disk_mib=shutil.disk_usage(_existing(state)).free // 2**20,
        load=os.getloadavg()[0],
        gpus=tuple(gpus()),
    )


def detect_profile(cards: Iterable[tuple[str, int]]) -> str:
    """The profile for the largest of the cards (name, memory in MiB); `cpu` if there is none that a profile fits.

    `fork` exists to be compared with and must be asked for.
    """
    largest_gib = max((memory_mib for _, memory_mib in cards), default=0) / 1024
    fitting = [
        profile
        for profile in PROFILES.values()
        if profile.device == "cuda" and profile.name != "fork" and profile.card_gib <= largest_gib
    ]
    return max(fitting, key=lambda profile: profile.card_gib).name if fitting else "cpu"


def gpus() -> list[Gpu]:
    """The NVIDIA cards; none without a driver. Raises GpuFault."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _fault(program, str(error)) from error
    if answer.returncode == _SMI_NO_DEVICE:
        return []
    if answer.returncode != 0:
        raise _fault(program, f"exit code {answer.returncode}: {(answer.stdout + answer.stderr).strip()}")
    return [_card(program, line) for line in answer.stdout.splitlines() if line.strip()]


def state_folder(environment: Mapping[str, str], otherwise: Path) -> Path:
    """Where a night is kept unless told: OVERNIGHT_STATE, the user's state folder, or (no HOME) below `otherwise`."""
    if named := environment.get("OVERNIGHT_STATE"):
        return Path(named).expanduser().absolute()
    if (base := environment.get("XDG_STATE_HOME")) and Path(
        base
    ).is_absolute():  # relative ones are void, its standard says
        return Path(base) / "overnight"
    if home := environment.get("HOME"):
        return Path(home).absolute() / ".local" / "state" / "overnight"
    return otherwise.absolute() / ".overnight"


def _card(program: str, line: str) -> Gpu:
    name, _, memory = line.rpartition(",")
    if not name or not memory.strip().isdigit():
        raise _fault(program, f"it does not say how much memory the card has: {line.strip()!r}")
    return Gpu(name.strip(), int(memory))


def _fault(program: str, what: str) -> GpuFault:
    return GpuFault(f"{program} fails: {what}. Repair the driver, or choose a profile by name, as in --profile cpu")


def _cores() -> float:
    cores = float(len(os.sched_getaffinity(0)))
    quota, _, period_us = _limit("cpu.max").partition(" ")
    return min(cores, int(quota) / int(period_us)) if quota.isdigit() and period_us.isdigit() else cores


def _memory_mib() -> tuple[int, int]:
    """All of it, and what is left for new processes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    kib = {line[0].rstrip(":"): int(line[1]) for line in lines}
    total, free = kib["MemTotal"] // 1024, kib["MemAvailable"] // 1024
    limit, used = _limit("memory.max"), _limit("memory.current")
    if limit.isdigit() and used.isdigit():
        total = min(total, int(limit) // 2**20)
        free = min(free, max(int(limit) - int(used), 0) // 2**20)
    return total, free


def _limit(name: str) -> str:
    """A limit of the container we are in; empty where there is none (the root group has no such file)."""
    try:
        return (_CGROUP / name).read_text().strip()
    except (FileNotFoundError, PermissionError):
        return ""


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there already."""
    path = path.absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())
