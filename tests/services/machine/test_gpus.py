"""Facts of the machine, with a driver's library that answers what the test says."""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path

import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from services import cli
from services.machine import gpus as module
from services.machine.gpus import (
    USUAL_BUILD,
    Gpu,
    GpuFault,
    InstalledGpu,
    TorchBuild,
    UnknownMemory,
    detect_profile,
    fitting_profile,
    installed_gpus,
    machine_profile,
    named_build,
    other_build,
    require_gpu,
    state_folder,
    torch_build,
    visible_gpus,
)
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

    assert installed_gpus() == []


def test_gpus_are_read_with_what_names_and_what_drives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [
        NvmlGpu("NVIDIA H100 80GB HBM3", 81559, "GPU-1"),
        NvmlGpu("NVIDIA GB10", None, "GPU-2", capability=(12, 1)),
        NvmlGpu("Orin", 0, "GPU-3", capability=None),
    ]
    library = NvmlLibrary(here, "580.95.05")
    install_nvml(monkeypatch, library)

    assert installed_gpus() == [
        InstalledGpu(each.uuid, "580.95.05", Gpu(each.name, each.memory_mib or None), each.capability) for each in here
    ]
    assert (library.sessions, library.open_sessions) == (1, 0)


def test_gpu_that_this_process_may_not_open_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    here = [NvmlGpu("NVIDIA A30", 24576, "GPU-1", hidden=True), NvmlGpu("NVIDIA A30", 24576, "GPU-2")]
    install_nvml(monkeypatch, NvmlLibrary(here))

    assert [each.uuid for each in installed_gpus()] == ["GPU-2"]


def test_driver_without_a_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NvmlLibrary())

    assert installed_gpus() == []


@pytest.mark.parametrize(
    ("library", "said"),
    [
        (NvmlLibrary(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), "Driver Not Loaded"),
        (NvmlLibrary(init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH), "version mismatch"),
        ("libnvidia-ml.so.1: invalid ELF header", "invalid ELF header"),
    ],
    ids=["not loaded", "mismatch", "library of another machine"],
)
def test_broken_driver_is_reported_with_the_next_step(
    library: NvmlLibrary | str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, library)

    with pytest.raises(GpuFault, match=f"{said}.*--profile cpu"):
        installed_gpus()


def test_loaded_driver_whose_library_is_missing_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_CONTROL", tmp_path)
    install_nvml(monkeypatch, NO_LIBRARY)

    with pytest.raises(GpuFault, match=r"NVIDIA's driver fails: libnvidia-ml\.so\.1"):
        installed_gpus()


H100 = InstalledGpu("GPU-1", "580.95.05", Gpu("H100", 81_559), (9, 0))
RTX3060 = InstalledGpu("GPU-22", "580.95.05", Gpu("RTX 3060", 12_288), (8, 6))
V100 = InstalledGpu("GPU-3", "580.95.05", Gpu("V100", 32_768), (7, 0))
GTX1060 = InstalledGpu("GPU-4", "580.95.05", Gpu("GTX 1060", 6_144), (6, 1))
GB10 = InstalledGpu("GPU-5", "580.126.09", Gpu("GB10", None), (12, 1))
OLD_DRIVER = H100._replace(driver="570.124.06")
CU126 = TorchBuild(525, (5, 0), (9, 0))


@pytest.mark.parametrize(
    ("visible", "left"),
    [
        (None, [H100, RTX3060]),
        ("", []),
        ("-1", []),
        ("0", [H100]),
        ("1,0", [RTX3060, H100]),
        (" 1 , -1, 0", [RTX3060]),
        ("GPU-22", [RTX3060]),
        ("GPU-2", [RTX3060]),
        ("7", []),
        ("none", []),
    ],
)
def test_gpus_that_the_environment_hides_are_not_seen(visible: str | None, left: list[InstalledGpu]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}

    assert visible_gpus([H100, RTX3060], environment) == left


def test_slice_of_a_gpu_does_not_say_its_memory() -> None:
    (found,) = visible_gpus([H100, RTX3060], {"CUDA_VISIBLE_DEVICES": "MIG-aa"})

    assert (found.uuid, found.gpu.memory_mib) == ("MIG-aa", None)
    assert "slice of H100" in found.gpu.name


@pytest.mark.parametrize(
    ("there", "build", "profile"),
    [
        ([], USUAL_BUILD, "cpu"),
        ([RTX3060, H100], USUAL_BUILD, "80gb"),
        ([V100, RTX3060], USUAL_BUILD, "12gb"),
        ([OLD_DRIVER._replace(gpu=Gpu("GT 1030", 2_048))], USUAL_BUILD, "cpu"),
        ([GTX1060], USUAL_BUILD, "cpu"),
        ([GB10, RTX3060], USUAL_BUILD, "12gb"),
        ([V100], CU126, "24gb"),
        ([OLD_DRIVER], CU126, "80gb"),
        ([H100._replace(capability=None)], USUAL_BUILD, "80gb"),
    ],
)
def test_profile_is_of_the_largest_gpu_that_torch_can_use(
    there: list[InstalledGpu], build: TorchBuild, profile: str
) -> None:
    assert fitting_profile(there, build) == profile


@pytest.mark.parametrize(
    ("there", "build", "says"),
    [
        ([V100, GTX1060], USUAL_BUILD, r"V100 is too old .* compute capability is 7\.0, the limit 7\.5"),
        ([GB10], CU126, r"GB10 is too new .* compute capability is 12\.1, the limit 9\.0"),
        ([OLD_DRIVER], USUAL_BUILD, r"the driver 570\.124\.06 of H100 is too old .* needs 580"),
    ],
)
def test_gpu_that_torch_cannot_use_is_told_and_is_not_the_processor(
    there: list[InstalledGpu], build: TorchBuild, says: str
) -> None:
    with pytest.raises(GpuFault, match=says) as refusal:
        fitting_profile(there, build)

    assert "--profile cpu" in refusal.value.next_step


def test_gpu_that_shares_the_machines_memory_wants_a_profile_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu("NVIDIA GB10", None, capability=(12, 1))]))

    with pytest.raises(UnknownMemory, match=r"NVIDIA GB10 .* shares the memory of the machine") as refusal:
        machine_profile({}, print)

    assert "driver" not in str(refusal.value)
    (named,) = re.findall(r"--profile (\w+)", refusal.value.next_step)
    require_gpu(PROFILES[named], {})


@pytest.mark.parametrize(
    ("memory_mib", "environment", "said"),
    [
        (81_559, {}, []),
        (81_559, {"CUDA_VISIBLE_DEVICES": ""}, ["the profile is cpu: CUDA_VISIBLE_DEVICES= hides every GPU"]),
        (None, {"CUDA_VISIBLE_DEVICES": "3"}, ["the profile is cpu: CUDA_VISIBLE_DEVICES=3 hides every GPU"]),
        (6_144, {}, ["the profile is cpu: no profile fits a GPU with 6144 MiB"]),
    ],
)
def test_gpu_that_is_left_out_is_told(
    memory_mib: int | None, environment: dict[str, str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu("a GPU", memory_mib)]))
    told: list[str] = []

    profile = machine_profile(environment, told.append)

    assert (told, profile == "cpu") == (said, bool(said))


@pytest.mark.parametrize(
    ("library", "environment", "says"),
    [
        (NvmlLibrary([NvmlGpu("V100", 32_768, capability=(7, 0))]), {}, "V100 is too old"),
        (NvmlLibrary([NvmlGpu("H100", 81_559)], driver="570.1"), {}, "driver 570.1 of H100 is too old"),
        (NvmlLibrary([NvmlGpu("H100", 81_559)]), {"CUDA_VISIBLE_DEVICES": "-1"}, "CUDA_VISIBLE_DEVICES=-1 hides"),
        (NO_LIBRARY, {}, "this machine has no GPU"),
    ],
    ids=["old", "old driver", "hidden", "none"],
)
def test_profile_by_name_without_a_gpu_for_it_is_refused(
    library: NvmlLibrary | str, environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_CONTROL", tmp_path / "nvidiactl")
    monkeypatch.setattr(module, "_OTHER_GPUS", ())
    install_nvml(monkeypatch, library)

    with pytest.raises(GpuFault, match=re.escape(says)):
        require_gpu(PROFILES["12gb"], environment)
    require_gpu(PROFILES["cpu"], environment)


@pytest.mark.parametrize("library", [NvmlLibrary(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), NO_LIBRARY])
def test_profile_by_name_is_the_way_on_where_nvml_knows_nothing(
    library: NvmlLibrary | str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_CONTROL", tmp_path / "nvidiactl")
    monkeypatch.setattr(module, "_OTHER_GPUS", (tmp_path,))
    install_nvml(monkeypatch, library)

    require_gpu(PROFILES["12gb"], {})


@pytest.mark.parametrize(
    ("torch", "build"),
    [("2.13.0", USUAL_BUILD), ("2.13.0+cu130", USUAL_BUILD), ("2.13.0+cpu", USUAL_BUILD), ("2.13.0+cu126", CU126)],
)
def test_needs_are_those_of_the_installed_torch(torch: str, build: TorchBuild) -> None:
    assert torch_build(lambda _: torch) == build


def test_needs_are_the_usual_ones_without_a_torch() -> None:
    assert torch_build(lambda _: version("no-such-package")) == USUAL_BUILD


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


@pytest.mark.parametrize("command", [["run"], ["prepare"], ["trial", "train.py"], ["pull"]], ids=" ".join)
def test_gpu_that_torch_cannot_use_is_told_before_anything_is_downloaded(
    command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu("Tesla V100", 32_768, capability=(7, 0))]))
    monkeypatch.setenv("OVERNIGHT_STATE", str(tmp_path / "state"))

    result = CliRunner().invoke(cli.app, command)

    assert isinstance(result.exception, GpuFault), result.exception
    assert not (tmp_path / "state" / "data").exists()


def test_trial_takes_a_profile_by_name_and_wants_a_gpu_for_it_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu("Tesla V100", 32_768, capability=(7, 0))]))
    monkeypatch.setenv("OVERNIGHT_STATE", str(tmp_path / "state"))

    result = CliRunner().invoke(cli.app, ["trial", "train.py", "--profile", "12gb"])

    assert isinstance(result.exception, GpuFault)
    assert result.exception.found.startswith("profile 12gb needs a GPU: Tesla V100 is too old")
    assert not (tmp_path / "state" / "data").exists()


@pytest.mark.parametrize(
    ("driver", "capability", "name"),
    [("550.54.14", (8, 6), "cu126"), ("570.124.06", (12, 0), "cu128"), ("470.256.02", (8, 6), None)],
)
def test_an_older_build_is_named_where_one_can_use_the_gpu(
    driver: str, capability: tuple[int, int], name: str | None
) -> None:
    installed = InstalledGpu("GPU-1", driver, Gpu("a GPU", 24576), capability)

    assert other_build(installed) == name
    assert USUAL_BUILD.lacks(installed) is not None
    assert named_build("") == named_build("cu130") == USUAL_BUILD
