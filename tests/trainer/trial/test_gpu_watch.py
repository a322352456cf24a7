"""Who else is on the GPU, and what the trial takes of it: the driver is a double's, the processes are real."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pynvml
import pytest

from tests.doubles.nvml import NvmlGpu, NvmlLibrary, install_nvml
from tests.fixtures.trials import wait_for
from trainer.jobs import GpuUse, Progress
from trainer.trial import gpu, gpu_watch
from trainer.trial.gpu_watch import FOREIGN_MIB, OVER_CAP_MIB, GpuSample, GpuWatch, foreign_text

H100 = NvmlGpu("NVIDIA H100", 81920, used_mib=9000)
TIMED, SCORING = Progress("timed", 0.0, 0.0), Progress("scoring", 0.0, 0.0)
NAMES = {7: "python", 8: "ollama", 9: "llama-server", 10: ""}


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not below the worker."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process


@pytest.fixture
def worker() -> Iterator[int]:
    """The pid of a worker without children."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process.pid


@pytest.fixture(params=[True, False], ids=["on the machine", "in a container"])
def numbers_match(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setattr(gpu, "numbers_match", lambda: request.param)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return bool(request.param)


@pytest.mark.parametrize(
    ("sample", "llm_mib", "found"),
    [
        (GpuSample(9000, (5, 8, 9, 10)), 0, None),
        (GpuSample(9000, (5, 7, 8)), 9000, "other processes use the GPU: python (7)"),
        (GpuSample(9000 + FOREIGN_MIB, None), 9000, None),
        (GpuSample(9001 + FOREIGN_MIB, None), 9000, "other processes hold 2049 MiB of the GPU, beside 9000 MiB"),
        (GpuSample(9001 + FOREIGN_MIB, None), None, None),
        (GpuSample(None, None), 0, None),
    ],
    ids=["ours, the LLM's and dead ones", "another", "the LLM grew", "too much", "the LLM loads", "no memory known"],
)
def test_what_is_neither_ours_nor_the_llms_is_foreign(
    sample: GpuSample, llm_mib: int | None, found: str | None
) -> None:
    words = foreign_text(sample, {5}, llm_mib, NAMES.__getitem__)

    assert (words is None) if found is None else (words or "").startswith(found)


def test_a_foreign_process_holds_the_worker_until_it_is_gone(
    numbers_match: bool, stranger: subprocess.Popen[bytes], worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_watch, "_LOOK_AGAIN_S", 0)
    driver = NvmlLibrary([replace(H100, pids=(stranger.pid, worker), used_mib=40000)])
    install_nvml(monkeypatch, driver)
    reasons: list[str] = []

    def hold(words: str) -> bool:
        reasons.append(words)
        stranger.kill()
        stranger.wait()
        driver.gpus = [H100]
        return True

    gpu_watch.wait_until_alone(lambda: gpu_watch.why_not_alone(9000, worker), hold)

    expected = f"cat ({stranger.pid})" if numbers_match else "hold 31000 MiB of the GPU"
    assert [expected in words for words in reasons] == [True]


def test_a_worker_that_stops_waits_for_nobody(
    numbers_match: bool, stranger: subprocess.Popen[bytes], worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, NvmlLibrary([replace(H100, pids=(stranger.pid,), used_mib=40000)]))

    gpu_watch.wait_until_alone(lambda: gpu_watch.why_not_alone(9000, worker), lambda _: False)


def test_without_a_driver_nothing_is_held(monkeypatch: pytest.MonkeyPatch, worker: int) -> None:
    install_nvml(monkeypatch, "libnvidia-ml.so.1: cannot open shared object file")

    assert gpu_watch.why_not_alone(0, worker) is None


def test_a_trial_above_its_cap_is_noticed_after_three_samples_in_a_row(worker: int) -> None:
    watch, most = GpuWatch(worker, 10000), 9000 + 10000 + OVER_CAP_MIB
    for used_mib in (9000, most, most + 1, most + 1, most, most + 1, most + 1):
        watch.take(GpuSample(used_mib, ()))
        assert watch.over_cap is None

    watch.take(GpuSample(most + 1, ()))

    assert watch.over_cap == f"it held {10001 + OVER_CAP_MIB} MiB of the GPU; the cap is 10000 MiB"


def test_the_llm_may_load_while_the_trial_is_scored(worker: int) -> None:
    watch = GpuWatch(worker, 10000)
    watch.take(GpuSample(100, ()))
    watch.report(SCORING)

    for _ in range(5):
        watch.take(GpuSample(60000, ()))

    assert (watch.over_cap, watch.use(GpuUse()).peak_mib) == (None, 0)


def test_the_record_is_that_of_the_timed_phase(worker: int, stranger: subprocess.Popen[bytes]) -> None:
    watch, hot = GpuWatch(worker, None), pynvml.nvmlClocksThrottleReasonSwThermalSlowdown
    watch.take(GpuSample(100, (), 300, 90, pynvml.nvmlClocksThrottleReasonSwPowerCap))
    watch.report(TIMED)
    for clock_mhz, temperature_c, throttled in ((1980, 60, 0), (1900, 70, hot), (1700, 80, hot)):
        watch.take(GpuSample(5000, (worker, stranger.pid), clock_mhz, temperature_c, throttled))
    watch.report(SCORING)
    watch.take(GpuSample(9000, (), 200, 95, 0))

    use = watch.use(GpuUse(llm_overlap_s=1.5))

    assert use == GpuUse(
        llm_overlap_s=1.5,
        foreign=f"other processes use the GPU: cat ({stranger.pid})",
        peak_mib=4900,
        clock_mhz=1900,
        temperature_c=80,
        throttled=("thermal slowdown",),
    )
    assert replace(use, llm_overlap_s=0).disturbance == f"during its training {use.foreign}"


def test_a_thread_asks_the_driver_until_the_trial_ends(
    numbers_match: bool, worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_watch, "_SAMPLE_S", 0.01)
    driver = NvmlLibrary([replace(H100, pids=(worker,), clock_mhz=1980, temperature_c=55, throttled=0)])
    install_nvml(monkeypatch, driver)

    with gpu_watch.watched_gpu(worker, 10000) as watch:
        watch.report(TIMED)
        wait_for(lambda: watch.use(GpuUse()).clock_mhz is not None, 20)
        use = watch.use(GpuUse())
    wait_for(lambda: driver.open_sessions == 0, 20)

    assert use == GpuUse(peak_mib=0, clock_mhz=1980, temperature_c=55)


def test_a_driver_that_goes_away_ends_the_watch_and_not_the_trial(worker: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lost(NvmlLibrary):
        def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802 NVML's name
            return int(pynvml.NVML_ERROR_GPU_IS_LOST)

    driver = Lost([H100])
    install_nvml(monkeypatch, driver)

    with gpu_watch.watched_gpu(worker, 10000) as watch:
        wait_for(lambda: driver.sessions == 1 and driver.open_sessions == 0, 20)

    assert watch.use(GpuUse()) == GpuUse()
