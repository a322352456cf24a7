"""Is there room for a trial? The disks of results and of work folders, looked at before a trial is taken.

A trial whose result cannot be stored is minutes lost, so without room none is begun: the run's waits in the queue.
Does not cover quotas and rights; where those forbid storing, the attempt is `lost` with the system's own words.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

NEEDED_BYTES = 8 * 2**20  # the longest kept log, a result, a candidate's files, and no less for whoever shares the disk
_LOOK_AGAIN_S = 1.0


def why_not_ready(*folders: Path) -> str | None:
    """What stands against storing something there, as a sentence; None if nothing does."""
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
    """Return once there is room, or when `go_on_waiting` says no; it is asked every second and told what is lacking."""
    said = False
    while (words := why_not_ready(*folders)) is not None and go_on_waiting(words):
        if not said:
            log.error("HELD: %s. No trial is begun until then; it goes on by itself", words)
            said = True
        time.sleep(_LOOK_AGAIN_S)
    if said:
        log.info("there is room again")
