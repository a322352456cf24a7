"""The libnvidia-ml.so.1 of a machine that a test describes, below the real nvidia-ml-py.

Its functions have the names and the arguments of NVML's in C and return its codes. Shapes and codes are those of
NVIDIA's nvml.h; they were not compared with a real GPU.
"""

# ruff: noqa: N802 the names are NVML's

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pynvml
import pytest

NO_LIBRARY = "libnvidia-ml.so.1: cannot open shared object file: No such file or directory"


@dataclass(frozen=True)
class NvmlGpu:
    """A GPU of the machine. What is None, the driver does not support; `hidden` means that this process may not open
    it."""

    name: str
    memory_mib: int | None
    uuid: str = "GPU-5fd4f087-86f3"
    pids: Sequence[int] = ()
    capability: tuple[int, int] | None = (9, 0)
    hidden: bool = False
    used_mib: int = 0
    clock_mhz: int | None = None
    temperature_c: int | None = None
    throttled: int | None = None


@dataclass
class NvmlLibrary:
    """The library. `init` is the code that an initialisation returns; `sessions` counts all initialisations,
    `open_sessions` those without a shutdown."""

    gpus: Sequence[NvmlGpu] = ()
    driver: str = "580.95.05"
    init: int = pynvml.NVML_SUCCESS
    sessions: int = 0
    open_sessions: int = 0

    def nvmlInitWithFlags(self, _: int) -> int:
        self.sessions += 1
        self.open_sessions += self.init == pynvml.NVML_SUCCESS
        return self.init

    def nvmlShutdown(self) -> int:
        self.open_sessions -= 1
        return pynvml.NVML_SUCCESS

    def nvmlSystemGetDriverVersion(self, text: Any, _: Any) -> int:
        return _written(text, self.driver)

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        return self._found(handle, lambda number, _: number == index.value)

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, handle: Any) -> int:
        return self._found(handle, lambda _, gpu: gpu.uuid.encode() == uuid.value)

    def nvmlDeviceGetName(self, handle: Any, text: Any, _: Any) -> int:
        return _written(text, self._gpu(handle).name)

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, _: Any) -> int:
        return _written(text, self._gpu(handle).uuid)

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        if (mib := self._gpu(handle).memory_mib) is None:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        memory._obj.total = mib * 2**20
        memory._obj.used = self._gpu(handle).used_mib * 2**20
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, major: Any, minor: Any) -> int:
        if (capability := self._gpu(handle).capability) is None:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        major._obj.value, minor._obj.value = capability
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetComputeRunningProcesses_v3(self, handle: Any, count: Any, table: Any) -> int:
        pids = self._gpu(handle).pids
        count._obj.value, room = len(pids), count._obj.value
        if len(pids) > (0 if table is None else room):
            return pynvml.NVML_ERROR_INSUFFICIENT_SIZE
        for number, pid in enumerate(pids):
            table[number].pid = pid
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetClockInfo(self, handle: Any, _: Any, clock: Any) -> int:
        return _number(clock, self._gpu(handle).clock_mhz)

    def nvmlDeviceGetTemperature(self, handle: Any, _: Any, temperature: Any) -> int:
        return _number(temperature, self._gpu(handle).temperature_c)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any, reasons: Any) -> int:
        return _number(reasons, self._gpu(handle).throttled)

    def _found(self, handle: Any, wanted: Callable[[int, NvmlGpu], bool]) -> int:
        for number, gpu in enumerate(self.gpus):
            if wanted(number, gpu):
                if gpu.hidden:
                    return pynvml.NVML_ERROR_NO_PERMISSION
                ctypes.c_void_p.from_buffer(handle._obj).value = number + 1
                return pynvml.NVML_SUCCESS
        return pynvml.NVML_ERROR_NOT_FOUND

    def _gpu(self, handle: Any) -> NvmlGpu:
        return self.gpus[(ctypes.cast(handle, ctypes.c_void_p).value or 0) - 1]


def install_nvml(monkeypatch: pytest.MonkeyPatch, found: NvmlLibrary | str) -> None:
    """Let nvidia-ml-py load this library, or fail with the loader's message."""

    def load(_: str) -> NvmlLibrary:
        if isinstance(found, str):
            raise OSError(found)
        return found

    monkeypatch.setattr(pynvml, "CDLL", load)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


def _number(place: Any, value: int | None) -> int:
    """Write a number; None if the driver does not support the question."""
    if value is None:
        return pynvml.NVML_ERROR_NOT_SUPPORTED
    place._obj.value = value
    return pynvml.NVML_SUCCESS


def _written(text: Any, value: str) -> int:
    text.value = value.encode()
    return pynvml.NVML_SUCCESS
