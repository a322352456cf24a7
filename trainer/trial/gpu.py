"""Is the GPU free of the dead? A process that was killed may stay on the driver's list for a while, with its memory.

Promises: no trial begins beside one, as long as driver and trainer count processes alike, which in a container they do
not: there nothing is asked. Does not cover living processes on the GPU, such as the LLM's. Unproven on a GPU.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

import pynvml

from trainer.jobs import Caps
from trainer.trial import nvml

log = logging.getLogger(__name__)

_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # the kernel's own number of it
_ASK_S, _PATIENCE_S, _LOOK_AGAIN_S = 20.0, 15.0, 0.25


def why_not_ready(caps: Caps) -> str | None:
    """What stands against a trial with these caps, as half a sentence; None if nothing does. Waits for the driver."""
    if caps.vram_mib is None or os.readlink("/proc/self/ns/pid") != _FIRST_PID_NAMESPACE:
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


def _listed() -> list[int]:
    """Whom the driver says to be on our GPU; nobody where it cannot be asked, which the trial itself will show."""
    try:
        return nvml.ask(_compute_pids, _ASK_S)
    except pynvml.NVMLError as fault:
        log.warning("who is on the GPU cannot be told: %s", fault)
        return []


def _compute_pids() -> list[int]:
    return [process.pid for gpu in _visible() for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)]


def _visible() -> list[Any]:
    """NVML's handles of the GPUs that CUDA_VISIBLE_DEVICES leaves, each by number or UUID; of all where it is unset."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    wanted = named.split(",") if named else map(str, range(pynvml.nvmlDeviceGetCount()))
    return [
        pynvml.nvmlDeviceGetHandleByIndex(int(each)) if each.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID(each)
        for each in map(str.strip, wanted)
    ]
