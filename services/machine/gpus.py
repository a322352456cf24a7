"""The NVIDIA GPUs of this machine, and the profile and state folder that follow from the machine.

A broken driver is an error and never counts as "no GPU".
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
from trainer.trial.gpu import ask_driver

_NVML_S = 30.0
_MIB = 2**20
_CONTROL = Path("/dev/nvidiactl")  # there once the driver is loaded; in a container, where the engine hands in a GPU
_OF_THE_MACHINE = Path("/var/lib/overnight")


class GpuFault(OvernightError):
    """An NVIDIA driver is installed and does not work."""


class Gpu(NamedTuple):
    """A GPU: the name from its driver, and its memory in MiB."""

    name: str
    memory_mib: int


class InstalledGpu(NamedTuple):
    """A GPU with the engine's name for it and the version of its driver."""

    uuid: str
    driver: str
    gpu: Gpu


AUTO = "auto"  # the PROFILE that follows from the GPU


def detect_profile(gpus: Iterable[tuple[str, int]]) -> str:
    """Return the profile for the largest of the GPUs (name, memory in MiB); `cpu` if no profile fits one.

    The profile `fork` exists for comparison and is never detected.
    """
    largest_gib = max((memory_mib for _, memory_mib in gpus), default=0) / 1024
    fitting = [
        profile
        for profile in PROFILES.values()
        if profile.device == "cuda" and profile.name != "fork" and profile.gpu_gib <= largest_gib
    ]
    return max(fitting, key=lambda profile: profile.gpu_gib).name if fitting else "cpu"


def gpus() -> list[Gpu]:
    """Return the NVIDIA GPUs; none without a driver. Raises GpuFault."""
    return [installed.gpu for installed in installed_gpus()]


def installed_gpus() -> list[InstalledGpu]:
    """Return the NVIDIA GPUs with their UUIDs and driver versions. Raises GpuFault."""
    try:
        return ask_driver(_gpus, _NVML_S)
    except pynvml.NVMLError_LibraryNotFound as error:
        loading = str(error.__context__)
        if "No such file" in loading and not _CONTROL.exists():
            return []
        raise _fault(loading) from error
    except pynvml.NVMLError_NotSupported as error:
        raise _fault("it does not say how much memory the GPU has") from error
    except pynvml.NVMLError as error:
        raise _fault(str(error)) from error


def _gpus() -> list[InstalledGpu]:
    driver = pynvml.nvmlSystemGetDriverVersion()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return [InstalledGpu(pynvml.nvmlDeviceGetUUID(handle), driver, _gpu(handle)) for handle in handles]


def _gpu(handle: Any) -> Gpu:
    return Gpu(pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetMemoryInfo(handle).total // _MIB)


def _fault(what: str) -> GpuFault:
    return GpuFault(
        f"NVIDIA's driver fails: {what}", "repair the driver, or choose a profile by name, as in --profile cpu"
    )


def state_folder(environment: Mapping[str, str], otherwise: Path) -> Path:
    """Return the default folder of a run: OVERNIGHT_STATE, the user's state folder, or (without HOME) one below
    `otherwise`.

    Root's home is mostly closed to other users, so candidates could not be another user there. In this case the folder
    is /var/lib/overnight, unless a run was begun in root's home.
    """
    if named := environment.get("OVERNIGHT_STATE"):
        return Path(named).expanduser().absolute()
    base = Path(environment.get("XDG_STATE_HOME", ""))
    if base.is_absolute():  # the XDG standard ignores relative paths
        return base / "overnight"
    if home := environment.get("HOME"):
        own = Path(home).absolute() / ".local" / "state" / "overnight"
        return own if (own / "journal").exists() or not _is_roots_alone(Path(home)) else _OF_THE_MACHINE
    return otherwise.absolute() / ".overnight"


def _is_roots_alone(home: Path) -> bool:
    return os.geteuid() == 0 and home.exists() and not home.stat().st_mode & stat.S_IXOTH
