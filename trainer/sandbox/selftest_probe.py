"""Tries every forbidden act from inside the sandbox. The trainer starts this program in place of a candidate.

It prints `open: ACT` for each forbidden act that succeeds, and `GPU: REASON` if a GPU is visible but CUDA does not
start. It trusts no report about the layers.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import sys

from trainer.sandbox.layers import LAYERS, Act


def main() -> None:
    """Run the probe. argv[2] holds the target of each act as JSON; an act with the target null is not tried."""
    targets = json.loads(sys.argv[2])
    for act in (act for layer in LAYERS for act in layer.acts):
        if targets.get(act.words) is not None and _could(act, targets[act.words]):
            print(f"open: {act.words}")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if not hidden and glob.glob("/dev/nvidia[0-9]*") and (reason := _gpu_fault()) is not None:
        print(f"GPU: {reason}")


def _could(act: Act, target: object) -> bool:
    try:
        act.attempt(target)
    except OSError:
        return False
    return True


def _gpu_fault() -> str | None:
    try:
        code = ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError as error:
        return str(error)
    return f"cuInit gives {code}" if code else None
