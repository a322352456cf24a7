"""No trial begins without its GPU, or beside the dead on it; the driver is a double, since here is no GPU."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading
from pathlib import Path

import pynvml
import pytest

from tests.doubles.nvml import NO_LIBRARY, NvmlGpu, NvmlLibrary, install_nvml
from tests.fixtures.trials import CAPS, MakeSpec, Run
from trainer.jobs import Outcome
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import gpu
from trainer.trial.trial import run_trial

ON_A_GPU = dataclasses.replace(CAPS, vram_mib=9000)


class ForgetfulDriver(NvmlLibrary):
    """Lists this living process always, and a dead one the first `times` it is asked."""

    def __init__(self, times: int) -> None:
        super().__init__()
        gone = subprocess.Popen(["true"])
        gone.wait(10)
        self.dead, self._times = gone.pid, times

    def nvmlInitWithFlags(self, flags: int) -> int:  # noqa: N802 NVML's name
        pids = (os.getpid(), self.dead)[: 1 if self.sessions >= self._times else 2]
        self.gpus = [NvmlGpu("NVIDIA GeForce RTX 3060", 12288, pids=pids)]
        return super().nvmlInitWithFlags(flags)


@pytest.fixture(autouse=True)
def first_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_FIRST_PID_NAMESPACE", os.readlink("/proc/self/ns/pid"))
    monkeypatch.setattr(gpu, "_LOOK_AGAIN_S", 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_dead_are_waited_for_and_the_living_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ForgetfulDriver(times=3)
    install_nvml(monkeypatch, driver)

    assert gpu.why_not_ready(ON_A_GPU) is None
    assert (driver.sessions, driver.open_sessions) == (4, 0)


def test_trial_is_not_begun_beside_one_that_stays_and_it_is_said_which(
    monkeypatch: pytest.MonkeyPatch, spec: MakeSpec, config: WorkerConfig
) -> None:
    driver = ForgetfulDriver(times=10**6)
    install_nvml(monkeypatch, driver)
    monkeypatch.setattr(gpu, "_PATIENCE_S", 0)

    result = run_trial(spec("tiny", caps=ON_A_GPU), config, lambda _: None, lambda: False)

    assert result.outcome is Outcome.LOST
    assert f"it was not begun: the GPU still holds processes that are gone ({driver.dead})" in result.reason


@pytest.mark.parametrize(
    ("visible", "ready"),
    [("0", True), ("GPU-1", True), ("1", False), ("GPU-1, GPU-2", False)],
)
def test_the_dead_on_another_gpu_are_none_of_ours(visible: str, ready: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = ForgetfulDriver(times=0).dead
    both = [NvmlGpu("NVIDIA A30", 24576, "GPU-1"), NvmlGpu("NVIDIA A30", 24576, "GPU-2", pids=[dead])]
    install_nvml(monkeypatch, NvmlLibrary(both))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(gpu, "_PATIENCE_S", 0)

    assert (gpu.why_not_ready(ON_A_GPU) is None) is ready


@pytest.mark.parametrize("why", ["no GPU", "a container"])
def test_where_the_list_means_nothing_nobody_is_asked(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ForgetfulDriver(times=10**6)
    install_nvml(monkeypatch, driver)
    if why == "a container":
        monkeypatch.setattr(gpu, "_FIRST_PID_NAMESPACE", "pid:[1]")

    assert gpu.why_not_ready(CAPS if why == "no GPU" else ON_A_GPU) is None
    assert driver.sessions == (0 if why == "no GPU" else 1), "a container is asked for its GPU alone"


def test_where_the_driver_cannot_tell_no_trial_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ForgetfulDriver(times=10**6)
    driver.init = pynvml.NVML_ERROR_UNKNOWN
    install_nvml(monkeypatch, driver)

    assert gpu.why_not_ready(ON_A_GPU) is None
    assert (driver.sessions, driver.open_sessions) == (2, 0)


def test_driver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NvmlLibrary())
    over = threading.Event()

    with pytest.raises(pynvml.NVMLError_Timeout):
        gpu.ask_driver(over.wait, 0)
    over.set()


A30 = NvmlGpu("NVIDIA A30", 24576)
WITHOUT_A_GPU: dict[str, tuple[NvmlLibrary | str, str | None, str]] = {
    "no driver": (NO_LIBRARY, None, "this machine has no GPU"),
    "no GPU": (NvmlLibrary(), None, "shows no GPU"),
    "not loaded": (NvmlLibrary(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), None, "Driver Not Loaded"),
    "mismatch": (NvmlLibrary(init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH), None, "version mismatch"),
    "off the bus": (NvmlLibrary(init=pynvml.NVML_ERROR_GPU_IS_LOST), None, "GPU is lost"),
    "hidden": (NvmlLibrary([A30]), "-1", "CUDA_VISIBLE_DEVICES=-1 hides every GPU"),
    "another": (NvmlLibrary([A30]), "GPU-9", "Not Found"),
}


@pytest.mark.parametrize(("library", "visible", "said"), WITHOUT_A_GPU.values(), ids=WITHOUT_A_GPU)
def test_trial_that_wants_a_gpu_is_not_begun_without_one_and_it_is_said_why(
    library: NvmlLibrary | str,
    visible: str | None,
    said: str,
    spec: MakeSpec,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "CONTROLS", ())
    install_nvml(monkeypatch, library)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    result = run(spec("tiny", caps=ON_A_GPU))

    assert result.outcome is Outcome.LOST
    assert result.reason.startswith("it was not begun: ")
    assert said in result.reason
    assert result.log is None, "no process was started"


def test_driver_without_nvml_is_left_to_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu, "CONTROLS", (tmp_path,))
    install_nvml(monkeypatch, NO_LIBRARY)

    assert gpu.why_not_ready(ON_A_GPU) is None


def test_gpu_that_torch_cannot_use_loses_the_trial_before_a_line_of_the_script_runs(
    spec: MakeSpec, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here torch is a build for processors, so it can use no GPU, whatever the driver's double shows."""
    install_nvml(monkeypatch, NvmlLibrary([A30]))

    result = run(spec("print('it trains on the processor', flush=True)\nraise SystemExit(3)\n", caps=ON_A_GPU))

    assert result.outcome is Outcome.LOST
    assert result.reason.startswith("it needs a GPU, and torch can use none: ")
    assert result.log is not None
    assert "it trains on the processor" not in result.log.tail
    assert result.timing is not None
    assert result.timing.start_s is None


def test_script_cannot_claim_that_its_gpu_was_missing(spec: MakeSpec, run: Run) -> None:
    claims = """
import gc
from trainer.candidate.protocol import Channel, ChannelMessage, MessageType
channel = next(each for each in gc.get_objects() if isinstance(each, Channel))
channel.send(ChannelMessage(MessageType.NO_GPU, text="gone"))
raise SystemExit(3)
"""

    assert run(spec(claims)).outcome is Outcome.CRASHED
