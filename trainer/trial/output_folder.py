"""Looks at what a candidate left in its work folder, after its last process is dead.

Nothing that a candidate left is followed: a link could lead to the data that score it. If candidates have a user of
their own, a process that becomes this user looks, because in a container the worker has no right to enter the folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from trainer.sandbox import syscalls
from trainer.sandbox.launch import User, isolated_command

_MOST_FILES = 10_000


def fault_of_files(folder: Path, pins: Mapping[str, str], output: str | None, cap_mib: int) -> str | None:
    """Return why the files in `folder` cannot be scored, or None.

    Every pinned file must have the pinned sha256. `output` is the output folder of a measured task, whose content is at
    most `cap_mib` MiB.
    """
    name = next((name for name, digest in pins.items() if _digest(folder, name) != digest), None)
    if name is not None:
        return f"it changed {name}, which is pinned"
    return None if output is None else _output_fault(folder / output, cap_mib)


def fault_as_user(folder: Path, pins: Mapping[str, str], output: str | None, cap_mib: int, user: User) -> str | None:
    """Return what `fault_of_files` returns in a process of this user. Raise CalledProcessError if the process fails."""
    orders = json.dumps([user.uid, user.gid, str(folder), dict(pins), output, cap_mib])
    command = isolated_command("trainer.trial.output_folder", orders)
    done = subprocess.run(
        command, check=True, capture_output=True, encoding="utf-8", cwd="/", env={"PATH": "/usr/bin:/bin"}
    )
    fault: str | None = json.loads(done.stdout)
    return fault


def main() -> None:
    """Become the candidates' user, and print the fault of the files as JSON. argv[2] holds the orders."""
    uid, gid, folder, pins, output, cap_mib = json.loads(sys.argv[2])
    syscalls.become(uid, gid)
    print(json.dumps(fault_of_files(Path(folder), pins, output, cap_mib)))


def _output_fault(folder: Path, cap_mib: int) -> str | None:
    size, files, entries = 0, 0, 0
    try:
        for path, status in _entries(folder):
            if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
                return f"it left {path.name[:80]!r}, which is neither a file nor a folder"
            size, files, entries = size + status.st_size, files + stat.S_ISREG(status.st_mode), entries + 1
            if entries > _MOST_FILES or size > cap_mib * 2**20:
                return f"it left more than {_MOST_FILES} files or {cap_mib} MiB to be scored"
    except FileNotFoundError:
        return "it left nothing to be scored"
    except OSError as error:
        return f"it left a folder that cannot be read ({error.strerror})"
    return None if files else "it left nothing to be scored"


def _entries(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        status = path.lstat()
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            waiting += path.iterdir()


def _digest(folder: Path, name: str) -> str | None:
    """Return the sha256 of a file, or None if it is gone, or no part of its path may be followed."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        *parents, last = Path(name).parts
        for parent in parents:
            inner = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=opened)
            os.close(opened)
            opened = inner
        with os.fdopen(os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=opened), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if _is_regular(file.fileno()) else None
    except OSError:
        return None
    finally:
        os.close(opened)


def _is_regular(descriptor: int) -> bool:
    return stat.S_ISREG(os.fstat(descriptor).st_mode)
