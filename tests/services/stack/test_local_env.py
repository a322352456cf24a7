"""gpu.local.env from GPUs as a driver would name them; no GPU is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.machine.gpu_env import LOCAL, faults, read, settings
from services.machine.gpus import Gpu, InstalledGpu
from services.stack.local_env import write_local
from tests import ROOT

LARGE = InstalledGpu("GPU-aa", "580.1", Gpu("NVIDIA RTX A6000", 49140))
SMALL = InstalledGpu("GPU-bb", "580.1", Gpu("NVIDIA RTX 3060", 12288))
COMMITTED = read((ROOT / "gpu.env").read_text(), "gpu.env")
HELD = settings(COMMITTED, (), {})


def written(folder: Path) -> dict[str, str]:
    return read((folder / LOCAL).read_text(), LOCAL).values()


def test_first_start_writes_what_fits_the_gpu_and_the_doctor_finds_no_fault_with_it(tmp_path: Path) -> None:
    said = write_local(tmp_path, HELD, [LARGE, SMALL])

    assert "written for NVIDIA RTX A6000" in said
    assert written(tmp_path)["PROFILE"] == "48gb"
    assert set(written(tmp_path)) == {"PROFILE", "MODEL", "NUM_CTX", "TRAINER_CAP_MIB", "LLM_RESERVE_MIB"}
    assert "49140 total - " in (tmp_path / LOCAL).read_text()
    assert faults(COMMITTED, (read((tmp_path / LOCAL).read_text(), LOCAL),), {}) == []


@pytest.mark.parametrize(
    ("memory_mib", "changed", "cap_mib"),
    [
        (24564, {}, 24564 - 10240 - 2048),
        (32607, {}, 32607 - 10240 - 2048),
        (40960, {}, 40960 - 10240 - 2048),
        (40960, {"LLM": "none"}, 40960 - 2048),
        (40960, {"TRAINER_CAP_MIB": "9000"}, None),
        (24564, {"LLM_RESERVE_MIB": "22000"}, 10240),
    ],
    ids=["24 GB", "32 GB", "40 GB", "40 GB without an LLM", "a cap of one's own", "an LLM that does not fit"],
)
def test_a_candidate_gets_all_memory_that_the_llm_leaves(
    memory_mib: int, changed: dict[str, str], cap_mib: int | None, tmp_path: Path
) -> None:
    write_local(tmp_path, HELD | changed, [LARGE._replace(gpu=Gpu("NVIDIA", memory_mib))])

    assert written(tmp_path)["PROFILE"] == "24gb"
    assert written(tmp_path).get("TRAINER_CAP_MIB") == (None if cap_mib is None else str(cap_mib))


def test_a_file_that_is_there_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / LOCAL).write_text("PROFILE=fork # mine\n")

    said = write_local(tmp_path, HELD, [LARGE])

    assert said == "gpu.local.env is yours; left as it is"
    assert (tmp_path / LOCAL).read_text() == "PROFILE=fork # mine\n"


@pytest.mark.parametrize(
    ("changed", "installed_gpus", "wanted"),
    [
        ({"GPU_UUID": "GPU-bb"}, [LARGE, SMALL], {"PROFILE": "12gb", "MODEL": "qwen3.5:4b"}),
        ({"PROFILE": "24gb"}, [LARGE], {"PROFILE": None, "NUM_CTX": "16384"}),
        ({"MODEL": "mine:1b", "NUM_CTX": "4096"}, [LARGE], {"MODEL": None, "NUM_CTX": None, "PROFILE": "48gb"}),
        ({"LLM": "none"}, [LARGE], {"MODEL": None, "NUM_CTX": None, "LLM_RESERVE_MIB": None, "PROFILE": "48gb"}),
    ],
    ids=["the chosen GPU", "a profile by name", "a model of one's own", "no LLM"],
)
def test_what_gpu_env_decides_is_left_to_it(
    tmp_path: Path, changed: dict[str, str], installed_gpus: list[InstalledGpu], wanted: dict[str, str | None]
) -> None:
    write_local(tmp_path, HELD | changed, installed_gpus)

    assert {name: written(tmp_path).get(name) for name in wanted} == wanted


@pytest.mark.parametrize("changed", [{"GPU_UUID": "MIG-aa"}, {"PROFILE": "cpu"}], ids=["a slice", "no GPU wanted"])
def test_where_no_gpu_can_be_read_or_is_wanted_nothing_is_written(tmp_path: Path, changed: dict[str, str]) -> None:
    said = write_local(tmp_path, HELD | changed, [LARGE])

    assert "is not written" in said
    assert not (tmp_path / LOCAL).exists()


def test_where_the_gpu_shares_the_machines_memory_nothing_is_written(tmp_path: Path) -> None:
    shared = LARGE._replace(gpu=Gpu("NVIDIA GB10", None))

    assert "PROFILE in gpu.env decides" in write_local(tmp_path, HELD | {"PROFILE": "48gb"}, [shared])
    assert not (tmp_path / LOCAL).exists()
