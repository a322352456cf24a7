#!/usr/bin/env python3
"""`rclone copyto | moveto | lsf`, whose remotes are folders below RCLONE_FOLDERS. The remote's name is its fault.

`full:` has no room, `half:` breaks off in the middle of a copy, `silent:` never answers, and `box:` has none.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path


def main(verb: str, *arguments: str) -> int:
    """Carry one command out."""
    source, *target = (_path(argument) for argument in arguments if not argument.startswith("-"))
    remotes = " ".join(arguments)
    if "silent:" in remotes:
        _hang()
    if verb == "lsf" and not source.exists():
        print("ERROR : error listing: directory not found", file=sys.stderr)
        return 3
    if verb == "lsf":
        print(*(path.name for path in source.iterdir()), sep="\n")
        return 0
    target[0].parent.mkdir(parents=True, exist_ok=True)
    if "full:" in remotes:
        print("2026/12/01 07:00:00 ERROR : attempt 2/2 failed\nFailed to copyto: quota exceeded", file=sys.stderr)
        return 1
    if verb == "copyto" and "half:" in remotes:
        content = source.read_bytes()
        target[0].write_bytes(content[: len(content) // 2])
        print("Failed to copyto: connection reset by peer", file=sys.stderr)
        return 1
    if verb == "copyto":
        shutil.copyfile(source, target[0])
    else:
        source.replace(target[0])
    return 0


def _path(argument: str) -> Path:
    name, colon, path = argument.partition(":")
    return Path(os.environ["RCLONE_FOLDERS"], name, path) if colon else Path(argument)


def _hang() -> None:
    """Sleep until the starter is gone."""
    starter = os.getppid()
    while os.getppid() == starter:
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
