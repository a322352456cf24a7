"""What the sandbox around candidates let through, tried from inside: the trainer starts this where a candidate would
be.

Prints `open: WHAT` for everything that a candidate must not do and could, and `GPU: REASON` where there is a GPU, not
hidden, and CUDA does not start on it. It believes nothing of the layers that were put up; it tries.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import sys

from trainer.sandbox.layers import LAYERS, Act


def main() -> None:
    """Entry point: argv holds the targets as JSON; one that is null is not tried."""
    targets = json.loads(sys.argv[2])
    for act in (act for layer in LAYERS for act in layer.acts):
        if targets.get(act.words) is not None and _could(act, targets[act.words]):
            print(f"open: {act.words}")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if not hidden and glob.glob("/dev/nvidia[0-9]*") and (reason := _card_fault()) is not None:
        print(f"GPU: {reason}")


def _could(act: Act, target: object) -> bool:
    try:
        act.attempt(target)
    except OSError:
        return False
    return True


def _card_fault() -> str | None:
    try:
        code = ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError as error:
        return str(error)
    return f"cuInit gives {code}" if code else None
