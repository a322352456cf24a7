"""Removes the processes and files that a trial has left, for example after its guardian was killed.

Promises: after `clear`, no process of the trial runs and its files are gone. Under the trainer's own uid, only
processes with the work folder in their environment are ended. If candidates have a user of their own, a process that
runs as that user ends all processes of the user, and removes its files wherever every user may write.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from trainer.sandbox.launch import GUARDIAN, MARKER, User, isolated_command
from trainer.sandbox.usage import carriers

_SWEEP_S = 5.0
_GUARDIAN_S = 12.0
_TRIES = 5
_PATH = {"PATH": "/usr/bin:/bin"}


class NotSwept(RuntimeError):
    """Raised when processes or files of candidates could not be removed. The message names them."""


def clear_all(work: Path, user: User | None) -> int:
    """End all processes of trials in `work`, remove the trials' folders, and return the number of ended processes."""
    ended = _end_marked(work)
    if user is not None:
        return ended + _sweep_as(user, work)
    for folder in work.iterdir() if work.is_dir() else ():
        wipe(folder)
    return ended


def clear(folder: Path, user: User | None) -> None:
    """End the processes of one trial and remove its folder.

    With a user of their own, candidates run one at a time, so everything of that user is removed.
    """
    if user is not None:
        clear_all(folder.parent, user)
        return
    _end_marked(folder)
    wipe(folder)


def wipe(folder: Path) -> None:
    """Remove a folder, link or pipe without following links. Raise NotSwept on a failure.

    If the candidate removed its own rights on a folder, they are restored first. `rm` handles depths at which Python's
    recursion fails.
    """
    if not os.path.lexists(folder) or _done("rm", "-rf", "--", folder) is None:
        return
    if not folder.is_symlink():
        _done("chmod", "-R", "u+rwX", "--", folder)
    if (message := _done("rm", "-rf", "--", folder)) is not None:
        raise NotSwept(f"{folder} could not be removed: {message}")


def _done(*command: str | Path) -> str | None:
    """Run a command. Return None on success, otherwise the last line of its errors."""
    done = subprocess.run(
        command, check=False, capture_output=True, encoding="utf-8", errors="replace", cwd="/", env=_PATH
    )
    return None if done.returncode == 0 else (done.stderr.splitlines() or [f"ended with {done.returncode}"])[-1]


def _end_marked(folder: Path) -> int:
    """End every process that carries a marker at or below `folder`, and return their number.

    Guardians get a signal first and time to end, because only a guardian finds a descendant without environment.
    Without the right to trace, the environments of another user read empty; `_sweep_as` then ends those processes.
    """
    guardians = _marked(GUARDIAN, folder)
    _send(guardians, signal.SIGTERM)
    give_up = time.monotonic() + _GUARDIAN_S
    while _marked(GUARDIAN, folder) and time.monotonic() < give_up:
        time.sleep(0.005)
    ended = set(guardians)
    give_up = time.monotonic() + _SWEEP_S
    while (found := _marked(MARKER, folder) + _marked(GUARDIAN, folder)) and time.monotonic() < give_up:
        _send(found, signal.SIGKILL)
        ended.update(found)
        time.sleep(0.005)
    return len(ended)


def _sweep_as(user: User, work: Path) -> int:
    """Run `cleanup_as_user`, again if a process that it was about to end killed it first, and return its count."""
    command = isolated_command("trainer.sandbox.cleanup_as_user", str(user.uid), str(user.gid), str(work))
    for _ in range(_TRIES):
        done = subprocess.run(
            command, check=False, capture_output=True, encoding="utf-8", errors="replace", cwd="/", env=_PATH
        )
        if done.returncode != -signal.SIGKILL:
            break
    if done.returncode != 0:
        message = "; ".join(done.stderr.splitlines()[-3:]) or f"ended with {done.returncode}"
        raise NotSwept(f"sweeping {work} as uid {user.uid}: {message}")
    return int(done.stdout)


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _marked(name: str, folder: Path) -> list[int]:
    """Return the running processes that carry a marker. A zombie's environment reads empty, so none is found."""
    value = f"{name}={folder}".encode()
    return carriers([value + b"\0", value + b"/"])
