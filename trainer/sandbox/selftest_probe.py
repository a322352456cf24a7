"""What the walls around candidates let through, tried from inside: the trainer starts this where a candidate would be.

Prints `open: WHAT` for everything that a candidate must not do and could, and `card: REASON` where there is a card, not
hidden, and CUDA does not start on it. It believes nothing of the layers that were put up; it tries.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import socket
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Entry point: argv holds the targets as JSON; one that is null is not tried."""
    targets = json.loads(sys.argv[2])
    for what, target in targets.items():
        if target is not None and _could(what, target):
            print(f"open: {what}")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if not hidden and glob.glob("/dev/nvidia[0-9]*") and (reason := _card_fault()) is not None:
        print(f"card: {reason}")


def _could(what: str, target: Any) -> bool:
    try:
        _TRIES[what](target)
    except OSError:
        return False
    return True


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _write(folder: str) -> None:
    path = os.path.join(folder, f".probe-{os.getpid()}")
    with open(path, "x", encoding="ascii"):
        os.unlink(path)


def _open_for_writing(path: str) -> None:
    """Opened, never written."""
    os.close(os.open(path, os.O_WRONLY))


def _note(path: str) -> None:
    os.setxattr(path, "user.probe", b"1")
    os.removexattr(path, "user.probe")


def _set_times(path: str) -> None:
    times = os.stat(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


_TRIES: dict[str, Callable[[Any], None]] = {
    "connect to a port of this machine": _connect,
    "read the trainer's environment": lambda pid: _read(f"/proc/{pid}/environ"),
    "signal the trainer": lambda pid: os.kill(pid, 0),
    "pin the trainer to a core": lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
    "open the kernel's settings for writing": _open_for_writing,
    "read the password": _read,
    "read the data that scores": lambda folder: os.close(os.open(folder, os.O_RDONLY)),
    "write results": _write,
    "write the data": _write,
    "write the trainer's code": _write,
    "note something at the data": _note,
    "set the times of the data": _set_times,
    "look for results": lambda folder: os.close(os.open(folder, os.O_PATH)),
}
TRIED = tuple(_TRIES)


def _card_fault() -> str | None:
    try:
        code = ctypes.CDLL("libcuda.so.1").cuInit(0)
    except OSError as error:
        return str(error)
    return f"cuInit gives {code}" if code else None
