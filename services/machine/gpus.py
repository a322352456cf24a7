"""What this machine offers: its NVIDIA GPUs, and what follows: a profile, a state folder.

A driver that is there but broken is an error, never "no GPU".
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from researcher.errors import OvernightError
from trainer.jobs import PROFILES

_SMI_TIMEOUT_S = 30
_SMI_NO_DEVICE = 6
_OF_THE_MACHINE = Path("/var/lib/overnight")


class GpuFault(OvernightError):
    """There is an NVIDIA driver here, and it does not work."""


class Gpu(NamedTuple):
    """A GPU as its driver names it."""

    name: str
    memory_mib: int


class Card(NamedTuple):
    """A GPU, what the engine calls it, and the version of its driver."""

    uuid: str
    driver: str
    gpu: Gpu


AUTO = "auto"  # the PROFILE that means: by the GPU


def detect_profile(cards: Iterable[tuple[str, int]]) -> str:
    """The profile for the largest of the GPUs (name, memory in MiB); `cpu` if there is none that a profile fits.

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
    """The NVIDIA GPUs; none without a driver. Raises GpuFault."""
    return [_gpu(line) for line in _asked("name,memory.total")]


def cards() -> list[Card]:
    """The same, with what names them and what drives them."""
    return [_card(line) for line in _asked("uuid,driver_version,name,memory.total")]


def _asked(fields: str) -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _fault(program, str(error)) from error
    if answer.returncode == _SMI_NO_DEVICE:
        return []
    if answer.returncode != 0:
        raise _fault(program, f"exit code {answer.returncode}: {(answer.stdout + answer.stderr).strip()}")
    return [line for line in answer.stdout.splitlines() if line.strip()]


def state_folder(environment: Mapping[str, str], otherwise: Path) -> Path:
    """Where a run is kept unless told: OVERNIGHT_STATE, the user's state folder, or (no HOME) below `otherwise`.

    Root's home is mostly closed to others, and there candidates could not be another user: where no run was begun in
    one, it is the machine's state folder.
    """
    if named := environment.get("OVERNIGHT_STATE"):
        return Path(named).expanduser().absolute()
    if (base := environment.get("XDG_STATE_HOME")) and Path(
        base
    ).is_absolute():  # relative ones are void, its standard says
        return Path(base) / "overnight"
    if home := environment.get("HOME"):
        own = Path(home).absolute() / ".local" / "state" / "overnight"
        return own if (own / "journal").exists() or not _is_roots_alone(Path(home)) else _OF_THE_MACHINE
    return otherwise.absolute() / ".overnight"


def _is_roots_alone(home: Path) -> bool:
    return os.geteuid() == 0 and home.exists() and not home.stat().st_mode & stat.S_IXOTH


def _card(line: str) -> Card:
    uuid, _, rest = line.partition(", ")
    driver, _, rest = rest.partition(", ")
    return Card(uuid, driver, _gpu(rest))


def _gpu(line: str) -> Gpu:
    name, _, memory = line.rpartition(",")
    if not name or not memory.strip().isdigit():
        raise _fault("nvidia-smi", f"it does not say how much memory the GPU has: {line.strip()!r}")
    return Gpu(name.strip(), int(memory))


def _fault(program: str, what: str) -> GpuFault:
    return GpuFault(f"{program} fails: {what}", "repair the driver, or choose a profile by name, as in --profile cpu")
