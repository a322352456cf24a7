"""What this machine offers: its NVIDIA GPUs, and what follows: a profile, a state folder.

A driver that is there but broken is an error, never "no GPU".
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pynvml

from researcher.errors import OvernightError
from trainer.jobs import PROFILES
from trainer.trial import nvml

_NVML_S = 30.0
_MIB = 2**20
_CONTROL = Path("/dev/nvidiactl")  # there once the driver is loaded; in a container, where the engine hands in a GPU
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
    return [card.gpu for card in cards()]


def cards() -> list[Card]:
    """The same, with what names them and what drives them."""
    try:
        return nvml.ask(_cards, _NVML_S)
    except pynvml.NVMLError_LibraryNotFound as error:
        loading = str(error.__context__)
        if "No such file" in loading and not _CONTROL.exists():
            return []
        raise _fault(loading) from error
    except pynvml.NVMLError_NotSupported as error:
        raise _fault("it does not say how much memory the GPU has") from error
    except pynvml.NVMLError as error:
        raise _fault(str(error)) from error


def _cards() -> list[Card]:
    driver = pynvml.nvmlSystemGetDriverVersion()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return [Card(pynvml.nvmlDeviceGetUUID(handle), driver, _gpu(handle)) for handle in handles]


def _gpu(handle: Any) -> Gpu:
    return Gpu(pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB)


def _fault(what: str) -> GpuFault:
    return GpuFault(
        f"NVIDIA's driver fails: {what}", "repair the driver, or choose a profile by name, as in --profile cpu"
    )


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
