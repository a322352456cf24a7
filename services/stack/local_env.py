"""gpu.local.env: the values detected for this machine's GPU, written once and never changed afterwards.

The file contains only the keys that gpu.env leaves open, so that a value set there still counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from researcher.files import write_whole
from researcher.llm.backends import backend_named
from researcher.llm.gpu_memory_split import LEAST_CAP_MIB, placement_for, split_for
from services.doctor.gpu import chosen
from services.machine.gpu_env import KEYS, LOCAL, render_local
from services.machine.gpus import AUTO, InstalledGpu, detect_profile
from trainer.jobs import Profile, profile_named


def write_local(root: Path, held: Mapping[str, str], installed_gpus: list[InstalledGpu]) -> str:
    """Write the file unless it exists; return a sentence about it. `held` are the settings in force.

    A candidate gets all memory that the LLM and the margin leave, also on a GPU whose size is between two profiles.
    """
    path = root / LOCAL
    if path.exists():
        return f"{LOCAL} is yours; left as it is"
    _, installed = chosen(installed_gpus, held.get("GPU_UUID", ""), held.get("TORCH_BUILD", ""))
    if installed is None:
        return f"{LOCAL} is not written: the GPU's memory cannot be read here, the trainer will decide"
    if installed.gpu.memory_mib is None:
        return f"{LOCAL} is not written: the GPU shares the memory of the machine, so PROFILE in gpu.env decides"
    profile = profile_named(held["PROFILE"] if held["PROFILE"] != AUTO else detect_profile([installed.gpu]))
    if profile.device == "cpu":
        return f"{LOCAL} is not written: profile cpu leaves the GPU alone"
    values = detected(profile, held)
    both = dict(held) | values
    split = split_for(
        profile,
        installed.gpu.memory_mib,
        reserve_mib=int(both["LLM_RESERVE_MIB"]) if backend_named(both["LLM"]).holds_gpu else 0,
        cap_mib=int(both["TRAINER_CAP_MIB"]),
    )
    if "TRAINER_CAP_MIB" in values and split.largest_cap_mib >= LEAST_CAP_MIB:
        split = replace(split, cap_mib=split.largest_cap_mib)
        values["TRAINER_CAP_MIB"] = str(split.cap_mib)
    about = f"{installed.gpu.name} ({installed.gpu.memory_mib} MiB, {installed.uuid})"
    write_whole(path, render_local(values, about, split.text()).encode())
    return f"{LOCAL} written for {about}: profile {profile.name}. It is yours now"


def detected(profile: Profile, held: Mapping[str, str]) -> dict[str, str]:
    """Return the values to write for a GPU profile: of the keys that are empty, `auto`, or as they were committed."""
    placement = placement_for(profile.name)
    found = {"PROFILE": profile.name, "TRAINER_CAP_MIB": str(profile.caps.vram_mib)}
    if backend_named(held["LLM"]).holds_gpu:
        found |= {
            "MODEL": placement.model,
            "NUM_CTX": str(placement.num_ctx),
            "LLM_RESERVE_MIB": str(placement.reserve_mib),
        }
    untouched = {AUTO, KEYS["MODEL"].shipped, ""}
    return {name: value for name, value in found.items() if held.get(name, "") in untouched}
