"""Asks NVIDIA's driver for a trial's GPU, and waits until it holds no dead process, which the driver may list for long.

Promises: no trial that wants a GPU begins where the driver shows none, and none begins while the driver lists a dead
process. In a container, driver and trainer number processes differently, so no process is tested there. Does not cover
living processes on the GPU, such as the LLM's, nor what torch can use: the candidate's process says that before its
script begins. No GPU has run this yet.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from itertools import takewhile
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pynvml

from trainer.jobs import Caps

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # the inode number that the kernel gives the first namespace
_NEXT = "Next: `nvidia-smi`; if it shows no GPU, restart the machine"
# There with a driver of NVIDIA, AMD, Jetson or WSL, some of which lack NVML.
CONTROLS = tuple(map(Path, ("/dev/nvidiactl", "/dev/kfd", "/dev/nvmap", "/dev/dxg")))
# With these answers torch cannot start CUDA either.
_GONE = (
    pynvml.NVMLError_DriverNotLoaded,
    pynvml.NVMLError_GpuIsLost,
    pynvml.NVMLError_LibRmVersionMismatch,
    pynvml.NVMLError_NotFound,
    pynvml.NVMLError_Timeout,
)
_ASK_S, _PATIENCE_S, _LOOK_AGAIN_S = 20.0, 15.0, 0.25


def why_not_ready(caps: Caps) -> str | None:
    """Return why no trial with these caps can start, or None. Wait up to 15 s for the driver."""
    if (words := why_missing(caps)) is not None:
        return words
    if caps.vram_mib is None or not numbers_match():
        return None
    give_up = time.monotonic() + _PATIENCE_S
    while dead := [pid for pid in _listed() if not os.path.exists(f"/proc/{pid}")]:
        if time.monotonic() > give_up:
            return (
                f"the GPU still holds processes that are gone ({', '.join(map(str, dead))}) and their memory. "
                "Next: `nvidia-smi`; if they stay, restart the machine"
            )
        time.sleep(_LOOK_AGAIN_S)
    return None


def numbers_match() -> bool:
    """Return whether the driver numbers processes as this process does, which is so outside of containers."""
    return os.readlink("/proc/self/ns/pid") == _FIRST_PID_NAMESPACE


def first_visible() -> Any:
    """Return NVML's handle of the first visible GPU. Raises pynvml.NVMLError if there is none."""
    if not (found := _visible()):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
    return found[0]


def gpu_name() -> str | None:
    """Return the UUID of the first visible GPU, or None without an answer of the driver."""
    try:
        return ask_driver(lambda: str(pynvml.nvmlDeviceGetUUID(first_visible())), _ASK_S)
    except pynvml.NVMLError as fault:
        log.info("the driver names no GPU: %s", fault)
        return None


def why_missing(caps: Caps) -> str | None:
    """Return why a trial with these caps has no GPU, or None if it has one, wants none, or nobody can tell.

    A GPU of another maker, or a driver whose library for questions is missing, may serve torch all the same.
    """
    if caps.vram_mib is None:
        return None
    named = visible_devices(os.environ)
    if named is not None and not named:
        return f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']} hides every GPU. Next: unset it"
    try:
        found = ask_driver(lambda: len(_visible()), _ASK_S)
    except pynvml.NVMLError_LibraryNotFound:
        return None if any(map(Path.exists, CONTROLS)) else f"this machine has no GPU. {_NEXT}"
    except _GONE as fault:
        return f"NVIDIA's driver fails: {fault}. {_NEXT}"
    except pynvml.NVMLError as fault:
        log.warning("NVIDIA's driver cannot be asked for the GPU: %s", fault)
        return None
    return None if found else f"NVIDIA's driver shows no GPU. {_NEXT}"


def _listed() -> list[int]:
    """Return the pids that the driver lists on this worker's GPU.

    Without an answer the list is empty, since `why_missing` has tested the driver before.
    """
    try:
        return ask_driver(_compute_pids, _ASK_S)
    except pynvml.NVMLError as fault:
        log.warning("the processes on the GPU cannot be listed: %s", fault)
        return []


def _compute_pids() -> list[int]:
    return [process.pid for gpu in _visible() for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)]


def identities() -> list[tuple[str, ...]]:
    """Return what compiled code depends on, of each visible GPU: driver, name and compute capability.

    Raise pynvml.NVMLError.
    """
    return ask_driver(_identities, _ASK_S)


def _identities() -> list[tuple[str, ...]]:
    driver = pynvml.nvmlSystemGetDriverVersion()
    return [
        (driver, pynvml.nvmlDeviceGetName(each), *map(str, pynvml.nvmlDeviceGetCudaComputeCapability(each)))
        for each in _visible()
    ]


def _visible() -> list[Any]:
    """Return NVML's handles of the visible GPUs."""
    named = visible_devices(os.environ)
    return [
        pynvml.nvmlDeviceGetHandleByIndex(int(each)) if each.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(each)
        for each in (map(str, range(pynvml.nvmlDeviceGetCount())) if named is None else named)
    ]


def visible_devices(environment: Mapping[str, str]) -> list[str] | None:
    """Return the numbers and UUIDs in CUDA_VISIBLE_DEVICES, as CUDA reads them: up to the first that names no device.

    None if it is unset, so that all GPUs are visible.
    """
    if (named := environment.get("CUDA_VISIBLE_DEVICES")) is None:
        return None
    return list(takewhile(_names_a_device, map(str.strip, named.split(","))))


def _names_a_device(word: str) -> bool:
    return word.isdecimal() or word.startswith(("GPU-", "MIG-"))


def ask_driver(question: Callable[[], Answer], timeout_s: float) -> Answer:
    """Return the answer of `question`, called while NVML, the library of NVIDIA's driver, is initialised.

    A broken GPU can make the library hang. Therefore the question runs in a daemon thread, and no caller waits for the
    thread longer than the limit, not even at exit.

    Raises pynvml.NVMLError: NVMLError_LibraryNotFound without a driver, NVMLError_Timeout past the limit.
    """
    answer = Future[Answer]()
    Thread(target=_answer, args=(question, answer), name="nvml", daemon=True).start()
    try:
        return answer.result(timeout_s)
    except TimeoutError as hangs:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT) from hangs


def _answer(question: Callable[[], Answer], answer: Future[Answer]) -> None:
    try:
        pynvml.nvmlInit()
        try:
            found = question()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as fault:
        answer.set_exception(fault)
    else:
        answer.set_result(found)
