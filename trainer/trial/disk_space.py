"""Tests whether the disks of results and work folders have room, before a trial is taken from the queue.

A trial whose result cannot be stored wastes minutes, so without room no trial begins and the job waits in the queue.
Does not cover quotas and rights: where they forbid storing, the attempt is `lost` with the system's error message.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

NEEDED_BYTES = 8 * 2**20  # the longest kept log, a result, a candidate's files, and as much for others on the disk
_LOOK_AGAIN_S = 1.0


def why_not_ready(*folders: Path) -> str | None:
    """Return why nothing can be stored in these folders, or None. A folder that does not exist yet is allowed."""
    for folder in folders:
        seen = os.statvfs(next(path for path in (folder, *folder.absolute().parents) if path.exists()))
        free_bytes = seen.f_bavail * seen.f_frsize
        if seen.f_flag & os.ST_RDONLY:
            return f"the disk of {folder} is read-only. Next: `dmesg` tells whether it fails; remount it for writing"
        if free_bytes < NEEDED_BYTES:
            return (
                f"the disk of {folder} is full, {free_bytes // 1024} KiB are free and a trial needs "
                f"{NEEDED_BYTES // 1024}. Next: delete or move something on it"
            )
    return None


def wait_for(folders: tuple[Path, ...], go_on_waiting: Callable[[str], bool]) -> None:
    """Return once there is room, or once `go_on_waiting` returns False. It is called each second with the reason."""
    logged = False
    while (words := why_not_ready(*folders)) is not None and go_on_waiting(words):
        if not logged:
            log.error("HELD: %s. No trial starts until there is room; then the worker continues by itself", words)
            logged = True
        time.sleep(_LOOK_AGAIN_S)
    if logged:
        log.info("there is room again")
