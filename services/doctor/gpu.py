"""The GPU: its driver, which GPU is used, and whether LLM and trainer fit into it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from researcher.llm.backends import backend_named
from researcher.llm.gpu_memory_split import split_for
from services.doctor.environment import Environment, Mode
from services.doctor.finding import Finding, fail, ok, skip, warn
from services.machine.gpus import (
    AUTO,
    GpuFault,
    InstalledGpu,
    UnknownMemory,
    detect_profile,
    fitting_profile,
    hidden_text,
    named_build,
    other_build,
    shared_profile,
    torch_build,
    visible_gpus,
)
from trainer.jobs import profile_named

NEWER = "install NVIDIA's driver {driver} or newer (Ubuntu: sudo ubuntu-drivers install) and reboot"
_WITHOUT = {Mode.LOCAL: "overnight run --profile cpu", Mode.GPU: "scripts/up --cpu"}


def driver(mode: Mode, facts: Environment, image_build: str = "") -> tuple[Finding, list[InstalledGpu]]:
    """Test that a GPU with a new enough driver exists; also return the visible GPUs, none if it fails. Local mode needs
    no GPU. `image_build` is the TORCH_BUILD of the trainer's image."""
    build = torch_build() if mode is Mode.LOCAL else named_build(image_build)
    wanted = f">= {build.driver}"
    without = f"; or without a GPU: {_WITHOUT[mode]}"
    fix = f"{NEWER.format(driver=build.driver)}{without}"
    try:
        installed_gpus = facts.installed_gpus()
    except GpuFault as error:
        return fail("driver", error.found, fix, wanted), []
    there = visible_gpus(installed_gpus, facts.environment) if mode is Mode.LOCAL else installed_gpus
    if not there and mode is Mode.LOCAL:
        why = hidden_text(facts.environment) if installed_gpus else "no NVIDIA GPU"
        return ok("driver", f"{why}: the profile is cpu"), []
    if not there:
        return fail("driver", "no NVIDIA GPU, or no driver", fix, wanted), []
    version = there[0].driver
    if not build.takes_driver(version):
        other = other_build(there[0])
        in_image, here = "TORCH_BUILD={} and TORCH_INDEX in gpu.env", "OVERNIGHT_TORCH_BUILD={} scripts/setup run"
        older = "" if other is None else f"; or {(in_image if mode is Mode.GPU else here).format(other)}"
        return fail("driver", version, f"{NEWER.format(driver=build.driver)}{older}{without}", wanted), []
    return ok("driver", version, wanted), there


def fitting(there: Sequence[InstalledGpu]) -> tuple[Finding, str]:
    """Test that a profile follows from the visible GPUs; also return the profile."""
    names = ", ".join(dict.fromkeys(each.gpu.name for each in there))
    try:
        profile = fitting_profile(there, torch_build())
    except UnknownMemory as error:
        profile = shared_profile()
        return warn("GPU", error.found, f"overnight run --profile {profile}"), profile
    except GpuFault as error:
        return fail("GPU", error.found, error.next_step), "cpu"
    return ok("GPU", f"{names}: the profile is {profile}"), profile


def chosen(
    installed_gpus: Sequence[InstalledGpu], uuid: str, image_build: str = ""
) -> tuple[Finding, InstalledGpu | None]:
    """Find the GPU that GPU_UUID names, or the first one, in the order of the engine; None if its memory is unknown."""
    if uuid.startswith("MIG-"):
        return skip("GPU", f"{uuid} is a slice; its memory is not read here"), None
    named = [installed for installed in installed_gpus if uuid in ("", installed.uuid)]
    if not named:
        there = ", ".join(installed.uuid for installed in installed_gpus)
        return fail(
            "GPU", f"GPU_UUID={uuid} is not in this machine", f"set GPU_UUID in gpu.env to one of {there}"
        ), None
    installed = named[0]
    if (fault := named_build(image_build).lacks(installed)) is not None:
        return fail("GPU", fault, _WITHOUT[Mode.GPU]), None
    memory = f"{installed.gpu.memory_mib} MiB" if installed.gpu.memory_mib else "shares the memory of the machine"
    return ok("GPU", f"{installed.gpu.name}, {memory}, {installed.uuid}"), installed


def split(installed: InstalledGpu, held: Mapping[str, str]) -> Finding:
    """Test that LLM, trainer and margin fit into the GPU; the finding contains the arithmetic."""
    name, memory_mib = held["PROFILE"], installed.gpu.memory_mib
    if memory_mib is None and name == AUTO:
        return fail("split", f"{installed.gpu.name} does not say its memory", f"PROFILE={shared_profile()} in gpu.env")
    if memory_mib is None:
        return skip("split", "the GPU shares the memory of the machine")
    if name == AUTO:
        name = detect_profile([installed.gpu])
        if name == "cpu":
            return fail("split", f"no profile fits a GPU of {memory_mib} MiB", "scripts/up --cpu")
    profile = profile_named(name)
    if profile.device == "cpu":
        return skip("split", "PROFILE=cpu leaves the GPU alone")
    reserve = "0" if not backend_named(held["LLM"]).holds_gpu else held.get("LLM_RESERVE_MIB")
    cap = held.get("TRAINER_CAP_MIB")
    arithmetic = split_for(
        profile,
        memory_mib,
        reserve_mib=None if reserve is None else int(reserve),
        cap_mib=None if cap is None else int(cap),
    )
    found = f"profile {name}: {arithmetic.found}"
    if arithmetic.next_step is None:
        return ok("split", found)
    return fail("split", found, f"{arithmetic.next_step}, in gpu.env or gpu.local.env")
