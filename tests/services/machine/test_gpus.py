"""Facts of the machine, with a driver's library that answers what the test says."""

from __future__ import annotations

import os
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.machine import gpus as module
from services.machine.gpus import Gpu, GpuFault, InstalledGpu, detect_profile, gpus, installed_gpus, state_folder
from tests.doubles.nvml import NO_LIBRARY, NvmlGpu, NvmlLibrary, install_nvml
from trainer.jobs import PROFILES


@pytest.mark.parametrize(
    ("gpus", "profile"),
    [
        ([], "cpu"),
        ([("GeForce GTX 1080", 8_192)], "cpu"),
        ([("GeForce RTX 3060", 12_288)], "12gb"),
        ([("GeForce RTX 4080", 16_376)], "16gb"),
        ([("GeForce RTX 4090", 24_564)], "24gb"),
        ([("A100-SXM4-40GB", 40_960)], "24gb"),
        ([("RTX A6000", 49_140)], "48gb"),
        ([("H100 80GB HBM3", 81_559)], "80gb"),
        ([("H200", 143_771)], "80gb"),
        ([("Tesla T4", 15_360), ("GeForce RTX 4090", 24_564)], "24gb"),
    ],
)
def test_largest_profile_that_fits_the_gpu_is_taken(gpus: list[tuple[str, int]], profile: str) -> None:
    assert detect_profile(gpus) == profile


@given(st.lists(st.tuples(st.text(), st.integers(0, 400_000))))
def test_detected_profile_always_fits_and_is_never_the_one_for_comparison(
    installed_gpus: list[tuple[str, int]],
) -> None:
    profile = PROFILES[detect_profile(installed_gpus)]

    assert profile.name != "fork"
    assert profile.gpu_gib * 1024 <= max((memory_mib for _, memory_mib in installed_gpus), default=0)


def test_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_CONTROL", tmp_path / "nvidiactl")
    install_nvml(monkeypatch, NO_LIBRARY)

    assert gpus() == []


def test_gpus_are_read_with_what_names_and_what_drives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [NvmlGpu("NVIDIA H100 80GB HBM3", 81559, "GPU-1"), NvmlGpu("NVIDIA GeForce RTX 4090", 24564, "GPU-2")]
    library = NvmlLibrary(here, "580.95.05")
    install_nvml(monkeypatch, library)

    assert installed_gpus() == [
        InstalledGpu(each.uuid, "580.95.05", Gpu(each.name, each.memory_mib or 0)) for each in here
    ]
    assert gpus() == [Gpu(each.name, each.memory_mib or 0) for each in here]
    assert (library.sessions, library.open_sessions) == (2, 0)


def test_driver_without_a_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NvmlLibrary())

    assert gpus() == []


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (NvmlLibrary(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), "Driver Not Loaded"),
        (NvmlLibrary(init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH), "version mismatch"),
        (NvmlLibrary([NvmlGpu("NVIDIA GB10", None)]), "how much memory"),
        ("libnvidia-ml.so.1: invalid ELF header", "invalid ELF header"),
    ],
    ids=["not loaded", "mismatch", "shared memory", "library of another machine"],
)
def test_broken_driver_is_reported_with_the_next_step(
    library: NvmlLibrary | str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, library)

    with pytest.raises(GpuFault, match=f"{said}.*--profile cpu"):
        gpus()


def test_loaded_driver_whose_library_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_CONTROL", tmp_path)
    install_nvml(monkeypatch, NO_LIBRARY)

    with pytest.raises(GpuFault, match=r"NVIDIA's driver fails: libnvidia-ml\.so\.1"):
        gpus()


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"OVERNIGHT_STATE": "/nights", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/nights"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/overnight"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/overnight"),
        ({"HOME": "/h"}, "/h/.local/state/overnight"),
        ({"HOME": ""}, "/clone/.overnight"),
        ({}, "/clone/.overnight"),
    ],
)
def test_state_folder_is_the_named_one_then_the_users_then_the_clones(environment: dict[str, str], folder: str) -> None:
    assert state_folder(environment, Path("/clone")) == Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others stay in their own home")
@pytest.mark.parametrize(
    ("mode", "begun", "folder"),
    [
        (0o700, False, "/var/lib/overnight"),
        (0o700, True, "{home}/.local/state/overnight"),
        (0o711, False, "{home}/.local/state/overnight"),
    ],
    ids=["closed", "closed, with a run in it", "open"],
)
def test_root_whose_home_is_closed_keeps_a_new_run_where_candidates_may_be_another_user(
    mode: int, begun: bool, folder: str, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    (home / ".local" / "state" / "overnight" / ("journal" if begun else "")).mkdir(parents=True)
    home.chmod(mode)

    assert str(state_folder({"HOME": str(home)}, Path("/clone"))) == folder.format(home=home)
