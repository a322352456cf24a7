"""No trial begins beside the dead on a GPU; the driver's list is a double's, since here is no GPU."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import threading

import pynvml
import pytest

from tests.doubles.nvml import NvmlGpu, NvmlLibrary, install_nvml
from tests.fixtures.trials import CAPS, MakeSpec
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
    [("0", True), ("GPU-1", True), ("", True), ("-1", True), ("1", False), ("GPU-1, GPU-2", False)],
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
    assert driver.sessions == 0


def test_where_the_driver_cannot_tell_no_trial_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = ForgetfulDriver(times=10**6)
    driver.init = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    install_nvml(monkeypatch, driver)

    assert gpu.why_not_ready(ON_A_GPU) is None
    assert (driver.sessions, driver.open_sessions) == (1, 0)


def test_driver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NvmlLibrary())
    over = threading.Event()

    with pytest.raises(pynvml.NVMLError_Timeout):
        gpu.ask_driver(over.wait, 0)
    over.set()
