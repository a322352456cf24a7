"""Taking a work folder: for this process alone, and for the user that its candidates run as.

Promises: no two trainers work in one folder; where the user is ours to choose, none is chosen that another trainer has,
and none that cannot open and start what a candidate needs, and why not is told. A user is held as long as this process
and its forks live. Does not cover a user that was named, and trainers that see each other's processes but not each
other's /run.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainer.sandbox.access_check import CLOSED, MOVE
from trainer.sandbox.cleanup import NotSwept, clear_all
from trainer.sandbox.landlock import ALL, LIST, READ
from trainer.sandbox.launch import ROOT, User, environment, isolated_command
from trainer.sandbox.visible_paths import grants

AUTO: Literal["auto"] = "auto"
LOCKS = Path("/run")
# Neither Debian nor systemd gives these to anybody. Not the containers' 64001: whatever runs under a uid is killed
# between trials, and from here that reaches into containers.
UIDS = range(65_521, 65_530)
_LOCK_S = 15.0  # a worker that is leaving is gone by then
_STARTS = "import sys; sys.path.insert(0, sys.argv[1]); import numpy, trainer.candidate.runner"


class WorkFolderRefused(RuntimeError):
    """This work folder cannot be used; the message says why and what to do."""


class NoUser(RuntimeError):
    """No user can be had that is the candidates' alone; the message says why."""


@dataclass(frozen=True)
class Obstacle:
    """What stands against candidates running as a user of their own: what was found, and what to do about it."""

    found: str
    next_step: str = ""

    def __str__(self) -> str:
        return f"{self.found}. Next: {self.next_step}" if self.next_step else self.found


@dataclass(frozen=True)
class SandboxUser:
    """Whom candidates run as, None for our own user, and why it is not another where root could have had one.

    `ended` counts the processes that a killed trainer had left; `locks` are descriptors, ours until `leave`.
    """

    user: User | None
    reason: Obstacle | None
    ended: int
    locks: tuple[int, ...]

    def leave(self) -> None:
        """Others may have the folder and the user."""
        for lock in self.locks:
            os.close(lock)


def acquire(work: Path, data: Path, wanted: User | Literal["auto"] | None) -> SandboxUser:
    """Take the folder, choose the user if `wanted` is AUTO and we are root, sweep what a killed trainer left.

    Waits for a worker that was told to stop, and for the fork of one that was killed. Raises WorkFolderRefused,
    NotSwept.
    """
    lock = _lock_folder(work)
    if wanted == AUTO and os.geteuid() == 0:
        return _with_a_user_of_their_own(work, data, lock)
    user = None if wanted == AUTO else wanted
    return SandboxUser(user, None, _occupy(work, user), (lock,))


def _with_a_user_of_their_own(work: Path, data: Path, lock: int) -> SandboxUser:
    """Or, where that cannot be, with ours and the reason."""
    held, ended = None, 0
    try:
        user, held = _free_user(before=work.stat().st_uid)
        ended = _occupy(work, user)
        reason = obstacle(user, work, data)
        if reason is None:
            return SandboxUser(user, None, ended, (lock, held))
    except (NoUser, WorkFolderRefused, NotSwept) as error:
        reason = Obstacle(str(error))
    if held is not None:
        os.close(held)
    return SandboxUser(None, reason, ended + _occupy(work, None), (lock,))


def obstacle(user: User, work: Path, data: Path) -> Obstacle | None:
    """What stands against candidates running as this user, tried by a process that became it; None if nothing does.

    Where `work` does not exist yet, the folder that it will be made in is looked at.
    """
    orders = {
        "paths": [(path, os.path.realpath(path), rights) for path, rights in _needs(work, data)],
        "folder": str(work) if work.exists() and work.stat().st_uid == user.uid else None,
        "argv": [sys.executable, "-s", "-P", "-c", _STARTS, ROOT],
    }
    command = isolated_command("trainer.sandbox.access_check", str(user.uid), str(user.gid), json.dumps(orders))
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", env=environment(work))
    if done.returncode == 0:
        return None
    if done.returncode == CLOSED:
        return Obstacle(**json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.splitlines() or [f"it ends with {done.returncode}"])[-1]
    return Obstacle(f"{sys.executable} does not start as uid {user.uid}: {last}", MOVE)


def _needs(work: Path, data: Path) -> list[tuple[str, int]]:
    """What is granted and there, and what a right to it means between users."""
    above = next(folder for folder in work.parents if folder.exists())
    needs = [(sys.executable, os.R_OK | os.X_OK), (str(above), os.X_OK)]
    for path, rights in grants(data):
        if os.path.isdir(path):
            needs.append((path, os.R_OK | os.X_OK | (os.W_OK if rights == ALL else 0)))
        elif os.path.exists(path):
            needs.append((path, os.R_OK if rights in (READ, LIST) else os.R_OK | os.W_OK))
    return needs


def _lock_folder(work: Path) -> int:
    """The lock lies beside the folder, which may be the candidates' own."""
    try:
        work.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(work.with_name(f"{work.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise WorkFolderRefused(f"{error}; the folder above {work} must be writable for the trainer") from error
    give_up = time.monotonic() + _LOCK_S
    while not _locked(lock):
        if time.monotonic() > give_up:
            os.close(lock)
            raise WorkFolderRefused(f"another trainer works in {work}; stop it, or give this one --work")
        time.sleep(0.05)
    return lock


def _free_user(before: int) -> tuple[User, int]:
    """One that nobody holds, the folder's last one if it can be: it may have left what only it can end."""
    for uid in sorted(UIDS, key=lambda uid: uid != before):
        if _is_somebodys(uid):
            continue
        try:
            path = LOCKS / f"overnight-uid-{uid}.lock"
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise NoUser(f"no user can be held against other trainers: {error}") from error
        if _locked(lock):
            return User(uid, uid), lock
        os.close(lock)
    raise NoUser(f"other trainers have every uid from {UIDS[0]} to {UIDS[-1]}")


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_somebodys(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _occupy(work: Path, user: User | None) -> int:
    """The folder is the candidates' own, nobody else may look into it, and nothing of an earlier one is left; the
    number of processes ended. Raises WorkFolderRefused, NotSwept."""
    uid, gid = (os.geteuid(), os.getegid()) if user is None else (user.uid, user.gid)
    ended = 0
    if work.stat().st_uid != uid:
        try:
            os.chown(work, uid, gid)
            work.chmod(0o700)
        except OSError as error:
            raise WorkFolderRefused(f"{work} must belong to uid {uid}: chown {uid}:{gid} {work}") from error
        ended = clear_all(work, None)  # by us, since the new owner may not remove what the old one left
    if user is not None and work.stat().st_mode & 0o077:
        raise WorkFolderRefused(f"{work} is open to others: chmod 700 {work}")
    return ended + clear_all(work, user)
