"""The NVIDIA GPUs of this machine, and the profile and state folder that follow from the machine.

A broken driver is an error and never counts as "no GPU".
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
    """An NVIDIA driver is installed and does not work."""


class Gpu(NamedTuple):
    """A GPU: the name from its driver, and its memory in MiB."""

    name: str
    memory_mib: int


class Card(NamedTuple):
    """A GPU with the engine's name for it and the version of its driver."""

    uuid: str
    driver: str
    gpu: Gpu


AUTO = "auto"  # the PROFILE that follows from the GPU


def detect_profile(cards: Iterable[tuple[str, int]]) -> str:
    """Return the profile for the largest of the GPUs (name, memory in MiB); `cpu` if no profile fits one.

    The profile `fork` exists for comparison and is never detected.
    """
    largest_gib = max((memory_mib for _, memory_mib in cards), default=0) / 1024
    fitting = [
        profile
        for profile in PROFILES.values()
        if profile.device == "cuda" and profile.name != "fork" and profile.card_gib <= largest_gib
    ]
    return max(fitting, key=lambda profile: profile.card_gib).name if fitting else "cpu"


def gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs; none without a driver. Raises GpuFault."""
    return [_gpu(line) for line in _asked("name,memory.total")]


def cards() -> list[Card]:
    """Return the NVIDIA GPUs with their UUIDs and driver versions. Raises GpuFault."""
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
    """Return the default folder of a run: OVERNIGHT_STATE, the user's state folder, or (without HOME) one below
    `otherwise`.

    Root's home is mostly closed to other users, so candidates could not be another user there. In this case the folder
    is /var/lib/overnight, unless a run was begun in root's home.
    """
    if named := environment.get("OVERNIGHT_STATE"):
        return Path(named).expanduser().absolute()
    if (base := environment.get("XDG_STATE_HOME")) and Path(
        base
    ).is_absolute():  # the XDG standard ignores relative paths
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
