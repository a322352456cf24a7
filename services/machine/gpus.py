"""The NVIDIA GPUs of this machine, and the profile and state folder that follow from the machine.

A broken driver is an error and never counts as "no GPU". The same holds for a GPU that torch cannot use.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import pynvml

from researcher.errors import OvernightError
from trainer.jobs import PROFILES, Profile
from trainer.trial.gpu import CONTROLS, ask_driver, visible_devices

_NVML_S = 30.0
_MIB = 2**20
_CONTROL = CONTROLS[0]  # there once the driver is loaded; in a container, where the engine hands in a GPU
_OTHER_GPUS = CONTROLS[1:]
_OF_THE_MACHINE = Path("/var/lib/overnight")


class GpuFault(OvernightError):
    """A GPU or its driver is there, and a run cannot use it."""


class UnknownMemory(GpuFault):
    """A GPU does not say how much memory it has, so that no profile follows from it."""


class Gpu(NamedTuple):
    """A GPU: the name from its driver, and its memory in MiB, None if it shares the memory of the machine."""

    name: str
    memory_mib: int | None


class InstalledGpu(NamedTuple):
    """A GPU with the engine's name for it, the version of its driver, and its compute capability if the driver says
    it."""

    uuid: str
    driver: str
    gpu: Gpu
    capability: tuple[int, int] | None = None


class TorchBuild(NamedTuple):
    """The needs of a build of torch: the oldest major version of the driver, and the range of compute capabilities."""

    driver: int
    oldest: tuple[int, int]
    newest: tuple[int, int] = (99, 9)

    def takes_driver(self, version: str) -> bool:
        """Return True if the driver is new enough."""
        return int(version.partition(".")[0]) >= self.driver

    def lacks(self, installed: InstalledGpu) -> str | None:
        """Return why this build cannot use a GPU, or None."""
        name, capability = installed.gpu.name, installed.capability
        if capability is not None and not self.oldest <= capability <= self.newest:
            age, limit = ("old", self.oldest) if capability < self.oldest else ("new", self.newest)
            found, bound = (".".join(map(str, each)) for each in (capability, limit))
            return f"{name} is too {age} for the installed torch: its compute capability is {found}, the limit {bound}"
        if not self.takes_driver(installed.driver):
            return (
                f"the driver {installed.driver} of {name} is too old for the installed torch, which needs {self.driver}"
            )
        return None


# The wheels of torch 2.13. NVIDIA asks for a driver >= 580 for every CUDA 13.x, and >= 525 for every CUDA 12.x.
USUAL_BUILD = TorchBuild(580, (7, 5))
OLDER_BUILDS = {
    "cu126": TorchBuild(525, (5, 0), (9, 0)),
    "cu128": TorchBuild(525, (7, 5)),
    "cu129": TorchBuild(525, (7, 5)),
}
AUTO = "auto"  # the PROFILE that follows from the GPU


def torch_build(installed: Callable[[str], str] = version) -> TorchBuild:
    """Return the needs of the installed torch; of the usual build where there is none."""
    try:
        return named_build(installed("torch").partition("+")[2])
    except PackageNotFoundError:
        return USUAL_BUILD


def named_build(name: str) -> TorchBuild:
    """Return the needs of a build by its name, such as cu126; of the usual build for another name."""
    return OLDER_BUILDS.get(name, USUAL_BUILD)


def other_build(installed: InstalledGpu) -> str | None:
    """Return the name of an older build that can use a GPU, or None."""
    return next((name for name, build in OLDER_BUILDS.items() if build.lacks(installed) is None), None)


def machine_profile(environment: Mapping[str, str], say: Callable[[str], object]) -> str:
    """Return the profile that follows from the GPUs that a process with this environment sees. Raises GpuFault.

    `say` gets the reason where the profile is cpu in spite of a GPU.
    """
    installed = installed_gpus()
    there = visible_gpus(installed, environment)
    profile = fitting_profile(there, torch_build())
    if profile == "cpu" and installed:
        small = ", ".join(f"{each.gpu.name} with {each.gpu.memory_mib} MiB" for each in there)
        say(f"the profile is cpu: {f'no profile fits {small}' if there else hidden_text(environment)}")
    return profile


def hidden_text(environment: Mapping[str, str]) -> str:
    """Return why no GPU is visible."""
    return f"CUDA_VISIBLE_DEVICES={environment.get('CUDA_VISIBLE_DEVICES')} hides every GPU"


def fitting_profile(there: Sequence[InstalledGpu], build: TorchBuild) -> str:
    """Return the profile of the largest GPU that torch can use, `cpu` if no profile fits one.

    Raises GpuFault if a profile would fit a GPU that torch cannot use, and UnknownMemory if no GPU says its memory.
    """
    usable = [each.gpu for each in there if build.lacks(each) is None]
    profile = detect_profile(usable)
    shared = next((gpu.name for gpu in usable if gpu.memory_mib is None), None)
    if profile != "cpu":
        return profile
    if shared is not None:
        raise UnknownMemory(
            f"{shared} does not say how much memory it has: it shares the memory of the machine, or is a slice",
            f"choose a profile by name: --profile {shared_profile()}, or in containers PROFILE in gpu.env",
        )
    for each in there:
        fault = build.lacks(each)
        if fault is not None and (each.gpu.memory_mib is None or detect_profile([each.gpu]) != "cpu"):
            raise GpuFault(fault, "install another driver or build of torch, or choose --profile cpu")
    return "cpu"


def shared_profile() -> str:
    """Return the profile for a GPU with half of the machine's memory; the other half is for all the rest."""
    return detect_profile([("", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB // 2)])


def require_gpu(profile: Profile, environment: Mapping[str, str]) -> None:
    """Raise GpuFault if the profile needs a GPU, and torch surely finds none that it can use here."""
    if profile.device == "cpu":
        return
    try:
        installed, build = installed_gpus(), torch_build()
    except GpuFault:
        return  # a profile by name is the way on where the driver cannot be asked
    there = visible_gpus(installed, environment)
    if any(build.lacks(each) is None for each in there) or (not installed and any(map(Path.exists, _OTHER_GPUS))):
        return
    lacks = build.lacks(there[0]) if there else None
    found = lacks or (hidden_text(environment) if installed else "this machine has no GPU")
    raise GpuFault(f"profile {profile.name} needs a GPU: {found}", "choose --profile cpu, or another GPU")


def detect_profile(found: Iterable[tuple[str, int | None]]) -> str:
    """Return the profile for the largest of the GPUs (name, memory in MiB); `cpu` if no profile fits one.

    The profile `fork` exists for comparison and is never detected.
    """
    largest_gib = max((memory_mib or 0 for _, memory_mib in found), default=0) / 1024
    fitting = [
        profile
        for profile in PROFILES.values()
        if profile.device == "cuda" and profile.name != "fork" and profile.gpu_gib <= largest_gib
    ]
    return max(fitting, key=lambda profile: profile.gpu_gib).name if fitting else "cpu"


def visible_gpus(installed: Sequence[InstalledGpu], environment: Mapping[str, str]) -> list[InstalledGpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves visible. A MIG slice does not say its memory."""
    named = visible_devices(environment)
    if named is None:
        return list(installed)
    found: list[InstalledGpu] = []
    for word in named:
        if word.startswith("MIG-"):
            found += [
                each._replace(uuid=word, gpu=Gpu(f"{word}, a slice of {each.gpu.name},", None))
                for each in installed[:1]
            ]
        else:
            found += [
                each for number, each in enumerate(installed) if word == str(number) or each.uuid.startswith(word)
            ]
    return found


def installed_gpus() -> list[InstalledGpu]:
    """Return the NVIDIA GPUs that this process may open; none without a driver. Raises GpuFault."""
    try:
        return ask_driver(_gpus, _NVML_S)
    except pynvml.NVMLError_LibraryNotFound as error:
        loading = str(error.__context__)
        if "No such file" in loading and not _CONTROL.exists():
            return []
        raise _fault(loading) from error
    except pynvml.NVMLError as error:
        raise _fault(str(error)) from error


def _gpus() -> list[InstalledGpu]:
    driver, found = pynvml.nvmlSystemGetDriverVersion(), []
    for number in range(pynvml.nvmlDeviceGetCount()):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
        except pynvml.NVMLError_NoPermission:
            continue  # another container's or job's
        name, uuid = pynvml.nvmlDeviceGetName(handle), pynvml.nvmlDeviceGetUUID(handle)
        capability = _supported(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
        memory = _supported(pynvml.nvmlDeviceGetMemoryInfo, handle)
        memory_mib = memory.total // _MIB if memory else None
        found.append(InstalledGpu(uuid, driver, Gpu(name, memory_mib or None), capability))
    return found


def _supported(question: Callable[[Any], Any], handle: Any) -> Any:
    """Return the driver's answer, or None if it does not support the question."""
    try:
        return question(handle)
    except pynvml.NVMLError_NotSupported:
        return None


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
