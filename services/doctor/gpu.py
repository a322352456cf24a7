"""The GPU: its driver, which GPU is used, and whether LLM and trainer fit into it together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from researcher.llm.backends import backend_named
from researcher.llm.gpu_memory_split import split_for
from services.doctor.environment import Environment, Mode
from services.doctor.finding import Finding, fail, ok, skip
from services.machine.gpus import AUTO, GpuFault, InstalledGpu, detect_profile
from services.redis.binary import parse_version
from trainer.jobs import profile_named

DRIVER = "580"  # torch 2.13's wheel depends on cuda-toolkit 13.0, and NVIDIA asks >= 580 for every CUDA 13.x
NEWER = f"install NVIDIA's driver {DRIVER} or newer (Ubuntu: sudo ubuntu-drivers install) and reboot"
_WITHOUT = {Mode.LOCAL: "overnight run --profile cpu", Mode.GPU: "scripts/up --cpu"}


def driver(mode: Mode, facts: Environment) -> tuple[Finding, list[InstalledGpu]]:
    """Test that a GPU with a new enough driver exists; also return the GPUs, none if it fails. Local mode needs no
    GPU."""
    wanted = f">= {DRIVER}"
    fix = f"{NEWER}; or without a GPU: {_WITHOUT[mode]}"
    try:
        installed_gpus = facts.installed_gpus()
    except GpuFault as error:
        return fail("driver", error.found, fix, wanted), []
    if not installed_gpus and mode is Mode.LOCAL:
        return ok("driver", "no NVIDIA GPU: the profile is cpu"), []
    if not installed_gpus:
        return fail("driver", "no NVIDIA GPU, or no driver", fix, wanted), []
    version = installed_gpus[0].driver
    if parse_version(version) < parse_version(DRIVER):
        return fail("driver", version, fix, wanted), []
    return ok("driver", version, wanted), installed_gpus


def chosen(installed_gpus: Sequence[InstalledGpu], uuid: str) -> tuple[Finding, InstalledGpu | None]:
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
    return ok("GPU", f"{installed.gpu.name}, {installed.gpu.memory_mib} MiB, {installed.uuid}"), installed


def split(installed: InstalledGpu, held: Mapping[str, str]) -> Finding:
    """Test that LLM, trainer and margin fit into the GPU; the finding contains the arithmetic."""
    name = held["PROFILE"]
    if name == AUTO:
        name = detect_profile([installed.gpu])
        if name == "cpu":
            return fail("split", f"no profile fits a GPU of {installed.gpu.memory_mib} MiB", "scripts/up --cpu")
    profile = profile_named(name)
    if profile.device == "cpu":
        return skip("split", "PROFILE=cpu leaves the GPU alone")
    reserve = "0" if not backend_named(held["LLM"]).holds_gpu else held.get("LLM_RESERVE_MIB")
    cap = held.get("TRAINER_CAP_MIB")
    arithmetic = split_for(
        profile,
        installed.gpu.memory_mib,
        reserve_mib=None if reserve is None else int(reserve),
        cap_mib=None if cap is None else int(cap),
    )
    found = f"profile {name}: {arithmetic.found}"
    if arithmetic.next_step is None:
        return ok("split", found)
    return fail("split", found, f"{arithmetic.next_step}, in gpu.env or gpu.local.env")
