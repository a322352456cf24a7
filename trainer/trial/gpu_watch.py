"""Watches the GPU of a trial through NVIDIA's driver: other processes, the trial's memory, and its clocks.

Before a trial, a process that is neither the trainer's nor the LLM's server holds the trainer. During a trial, a thread
asks the driver twice a second. In a container the driver numbers processes differently, so there the memory tells: what
is used beyond the LLM's is foreign before a trial, and the trial's own during it. Without a driver nothing is watched.
No GPU has run this yet.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pynvml

from trainer.jobs import GpuUse, LeasePhase, Progress
from trainer.sandbox.cgroup import kernel_text
from trainer.sandbox.procfs import descendants
from trainer.trial import gpu

log = logging.getLogger(__name__)

LLM_SERVERS = ("ollama", "llama-server", "ollama_llama_se")  # the kernel cuts names at 15 characters
FOREIGN_MIB = 2048  # beyond the LLM's memory: contexts, its growth, a screen
OVER_CAP_MIB = 1024  # beyond the cap, which the allocator of the candidate counts without its context
_OVER_SAMPLES = 3
_SAMPLE_S = 0.5
_LOOK_AGAIN_S = 1.0
_ASK_S = 20.0
_MIB = 2**20
_THROTTLED = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power limit",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "hardware thermal slowdown",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "thermal slowdown",
}


@dataclass(frozen=True)
class GpuSample:
    """One look at the first visible GPU. `pids` is None if they cannot be matched; None elsewhere is not supported."""

    used_mib: int | None
    pids: tuple[int, ...] | None
    clock_mhz: int | None = None
    temperature_c: int | None = None
    throttled: int = 0


def foreign_text(
    sample: GpuSample, own: Collection[int], llm_mib: int | None, name_of: Callable[[int], str]
) -> str | None:
    """Return what else is on the GPU, as text, or None. `llm_mib` is None while the LLM's memory may change."""
    if sample.pids is not None:
        names = {pid: name_of(pid) for pid in sample.pids if pid not in own}
        foreign = [f"{name} ({pid})" for pid, name in names.items() if name and name not in LLM_SERVERS]
        return f"other processes use the GPU: {', '.join(foreign)}" if foreign else None
    if sample.used_mib is None or llm_mib is None or sample.used_mib <= llm_mib + FOREIGN_MIB:
        return None
    return f"other processes hold {sample.used_mib - llm_mib} MiB of the GPU, beside {llm_mib} MiB of the LLM"


def why_not_alone(llm_mib: int | None, root: int) -> str | None:
    """Return why no trial can start on the GPU, or None. `root` is the pid of the worker."""
    try:
        sample = gpu.ask_driver(lambda: _sample(gpu.first_visible()), _ASK_S)
    except pynvml.NVMLError as fault:
        log.info("the GPU cannot be watched: %s", fault)
        return None
    words = foreign_text(sample, _own(root), llm_mib, _name_of)
    return None if words is None else f"{words}. Next: end them, or choose another GPU"


def wait_until_alone(why: Callable[[], str | None], go_on_waiting: Callable[[str], bool]) -> None:
    """Return once the GPU is free of others, or once `go_on_waiting` returns False. It is called each second."""
    logged = False
    while (words := why()) is not None and go_on_waiting(words):
        if not logged:
            log.error("HELD: %s. No trial starts until then; the worker continues by itself", words)
            logged = True
        time.sleep(_LOOK_AGAIN_S)


class GpuWatch:
    """The samples of one trial, as `take` gets them. `cap_mib` limits what the trial may hold, None for no limit."""

    def __init__(self, root: int, cap_mib: int | None) -> None:
        self._root = root
        self._cap_mib = cap_mib
        self._phase = LeasePhase.STARTING
        self._before_mib: int | None = None
        self._peak_mib: int | None = None
        self._over = 0
        self._timed: list[GpuSample] = []
        self._foreign: set[str] = set()
        self.over_cap: str | None = None

    def report(self, progress: Progress) -> None:
        """Take the phase of the trial from its progress."""
        self._phase = LeasePhase(progress.phase)

    def take(self, sample: GpuSample) -> None:
        """Add a sample; the first one shows the GPU before the trial."""
        if sample.used_mib is not None and self._phase is not LeasePhase.SCORING:
            self._before_mib = sample.used_mib if self._before_mib is None else self._before_mib
            held_mib = sample.used_mib - self._before_mib
            self._peak_mib = max(self._peak_mib or 0, held_mib)
            self._hold_to_cap(held_mib)
        if self._phase is LeasePhase.TIMED:
            self._timed.append(sample)
            if (words := foreign_text(sample, _own(self._root), None, _name_of)) is not None:
                self._foreign.add(words)

    def use(self, overlap: GpuUse) -> GpuUse:
        """Return the record of the trial, with the overlap that its lease measured."""
        clocks = [sample.clock_mhz for sample in self._timed if sample.clock_mhz is not None]
        temperatures = [sample.temperature_c for sample in self._timed if sample.temperature_c is not None]
        reasons = {name for bit, name in _THROTTLED.items() if any(sample.throttled & bit for sample in self._timed)}
        return GpuUse(
            llm_overlap_s=overlap.llm_overlap_s,
            foreign="; ".join(sorted(self._foreign)) or None,
            peak_mib=self._peak_mib,
            clock_mhz=median(clocks) if clocks else None,
            temperature_c=max(temperatures, default=None),
            throttled=tuple(sorted(reasons)),
        )

    def _hold_to_cap(self, held_mib: int) -> None:
        is_over = self._cap_mib is not None and held_mib > self._cap_mib + OVER_CAP_MIB
        self._over = self._over + 1 if is_over else 0
        if self._over >= _OVER_SAMPLES:
            self.over_cap = f"it held {held_mib} MiB of the GPU; the cap is {self._cap_mib} MiB"


@contextlib.contextmanager
def watched_gpu(root: int, cap_mib: int | None) -> Iterator[GpuWatch]:
    """Watch the GPU from a thread until the block ends. The driver may hang, so nobody waits for the thread."""
    watch, over = GpuWatch(root, cap_mib), threading.Event()
    threading.Thread(target=_watch, args=(watch, over), name="gpu watch", daemon=True).start()
    try:
        yield watch
    finally:
        over.set()


def _watch(watch: GpuWatch, over: threading.Event) -> None:
    try:
        pynvml.nvmlInit()
        try:
            while not over.is_set():
                watch.take(_sample(gpu.first_visible()))
                over.wait(_SAMPLE_S)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as fault:
        log.info("the GPU is not watched any more: %s", fault)


def _sample(handle: Any) -> GpuSample:
    memory = _supported(pynvml.nvmlDeviceGetMemoryInfo, handle)
    listed = _supported(pynvml.nvmlDeviceGetComputeRunningProcesses_v3, handle) if gpu.numbers_match() else None
    return GpuSample(
        used_mib=None if memory is None else memory.used // _MIB,
        pids=None if listed is None else tuple(process.pid for process in listed),
        clock_mhz=_supported(pynvml.nvmlDeviceGetClockInfo, handle, pynvml.NVML_CLOCK_SM),
        temperature_c=_supported(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
        throttled=_supported(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle) or 0,
    )


def _supported(question: Callable[..., Any], *arguments: Any) -> Any:
    """Return the driver's answer, or None if it does not support the question."""
    try:
        return question(*arguments)
    except pynvml.NVMLError_NotSupported:
        return None


def _own(root: int) -> set[int]:
    return {root, os.getpid(), *(process.pid for process in descendants(root))}


def _name_of(pid: int) -> str:
    """Return the name of a process, empty for one that is gone."""
    return kernel_text(Path(f"/proc/{pid}/comm")).strip()
