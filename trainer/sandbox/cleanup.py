"""What a trial leaves when nobody is left to end it, processes and files, and who may remove it.

Promises: after `clear` nothing of a trial runs and its files are gone. Under our own uid only processes whose
environment names the work folder are ended. A user of the candidates' own loses every process it has, and its files
wherever everybody may write, by a process that runs as that user.
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
    """What candidates left could not be ended or removed; the message says what."""


def clear_all(work: Path, user: User | None) -> int:
    """End what trials left running below `work` and remove their folders; the number of processes ended."""
    ended = _end_marked(work)
    if user is not None:
        return ended + _sweep_as(user, work)
    for folder in work.iterdir() if work.is_dir() else ():
        wipe(folder)
    return ended


def clear(folder: Path, user: User | None) -> None:
    """The same for the work folder of one trial; candidates with a user of their own have one at a time."""
    if user is not None:
        clear_all(folder.parent, user)
        return
    _end_marked(folder)
    wipe(folder)


def wipe(folder: Path) -> None:
    """Remove what lies there, a link or a pipe as well, and follow nothing; also where the candidate took away its own
    right to. rm manages depths at which Python's own recursion ends. Raises NotSwept.
    """
    if not os.path.lexists(folder) or _done("rm", "-rf", "--", folder) is None:
        return
    if not folder.is_symlink():
        _done("chmod", "-R", "u+rwX", "--", folder)
    if (said := _done("rm", "-rf", "--", folder)) is not None:
        raise NotSwept(f"{folder} could not be removed: {said}")


def _done(*command: str | Path) -> str | None:
    """None if the command did it, else what it said last."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", cwd="/", env=_PATH)
    return None if done.returncode == 0 else (done.stderr.splitlines() or [f"ended with {done.returncode}"])[-1]


def _end_marked(folder: Path) -> int:
    """End every process that carries a marker at or below `folder`; their number.

    Guardians are asked first and given time: only they can find a descendant that wiped its environment. Without the
    right to trace, environments of another user read empty; the sweeper then ends what runs there.
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
    """Run the sweeper, again where one that it was about to end was quicker."""
    command = isolated_command("trainer.sandbox.cleanup_as_user", str(user.uid), str(user.gid), str(work))
    for _ in range(_TRIES):
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env=_PATH)
        if done.returncode != -signal.SIGKILL:
            break
    if done.returncode != 0:
        said = "; ".join(done.stderr.splitlines()[-3:]) or f"ended with {done.returncode}"
        raise NotSwept(f"sweeping {work} as uid {user.uid}: {said}")
    return int(done.stdout)


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _marked(name: str, folder: Path) -> list[int]:
    """A zombie's environment reads empty, so what is found still runs."""
    value = f"{name}={folder}".encode()
    return carriers([value + b"\0", value + b"/"])
