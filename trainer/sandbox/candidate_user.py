"""Acquires a work folder for this process alone, and chooses the user of its candidates.

Promises: no two trainers work in one folder. An automatically chosen user is held by no other trainer, and can open and
start everything that a candidate needs; otherwise the reason is reported. A user is held while this process or a fork
of it lives. Does not cover a user that an option names, nor the trainer of a container within a container, whose
processes the outer one sees without its /run.
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
_FIRST_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO in the kernel's include/linux/proc_ns.h


def _uids(pid_namespace: int) -> range:
    """Return the uids of candidates in a PID namespace. Neither Debian nor systemd assigns them.

    All processes of a uid are killed between trials. Those of containers are visible from the host, so the host has
    uids of its own, and none of them is the 64001 of the stack.
    """
    return range(65_521, 65_530) if pid_namespace == _FIRST_PID_NAMESPACE else range(64_011, 64_020)


UIDS = _uids(os.stat("/proc/self/ns/pid").st_ino)
_LOCK_S = 15.0  # long enough for a worker that is stopping
_STARTS = "import sys; sys.path.insert(0, sys.argv[1]); import numpy, trainer.candidate.runner"


class WorkFolderRefused(RuntimeError):
    """Raised when the work folder cannot be used. The message names the reason and the next step."""


class NoUser(RuntimeError):
    """Raised when no uid can be reserved for candidates. The message names the reason."""


@dataclass(frozen=True)
class Obstacle:
    """A reason why candidates cannot run as a user of their own, and the next step."""

    found: str
    next_step: str = ""

    def __str__(self) -> str:
        return f"{self.found}. Next: {self.next_step}" if self.next_step else self.found


@dataclass(frozen=True)
class SandboxUser:
    """The candidates' user, or None for the trainer's own.

    `reason` explains why root could not choose a user of their own. `ended` is the number of ended processes of a
    killed trainer. `locks` are descriptors that hold the folder and the user until `release`.
    """

    user: User | None
    reason: Obstacle | None
    ended: int
    locks: tuple[int, ...]

    def release(self) -> None:
        """Release the folder and the user."""
        for lock in self.locks:
            os.close(lock)


def acquire(work: Path, data: Path, wanted: User | Literal["auto"] | None) -> SandboxUser:
    """Lock the work folder, choose a user if `wanted` is AUTO and this is root, and clean up after a killed trainer.

    Wait up to 15 s for a stopping worker and for the fork of a killed one. Raise WorkFolderRefused or NotSwept.
    """
    lock = _lock_folder(work)
    if wanted == AUTO and os.geteuid() == 0:
        return _with_a_user_of_their_own(work, data, lock)
    user = None if wanted == AUTO else wanted
    return SandboxUser(user, None, _occupy(work, user), (lock,))


def _with_a_user_of_their_own(work: Path, data: Path, lock: int) -> SandboxUser:
    """Return a user of the candidates' own. If there is none, return the trainer's user and the reason."""
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
    """Return why candidates cannot run as this user, or None. A process that becomes the user tries it.

    If `work` does not exist yet, its closest existing parent is tried.
    """
    orders = {
        "paths": [(path, os.path.realpath(path), rights) for path, rights in _needs(work, data)],
        "folder": str(work) if work.exists() and work.stat().st_uid == user.uid else None,
        "argv": [sys.executable, "-s", "-P", "-c", _STARTS, ROOT],
    }
    command = isolated_command("trainer.sandbox.access_check", str(user.uid), str(user.gid), json.dumps(orders))
    done = subprocess.run(
        command, check=False, capture_output=True, encoding="utf-8", errors="replace", cwd="/", env=environment(work)
    )
    if done.returncode == 0:
        return None
    if done.returncode == CLOSED:
        return Obstacle(**json.loads(done.stdout.splitlines()[-1]))
    last = (done.stderr.splitlines() or [f"it ends with {done.returncode}"])[-1]
    return Obstacle(f"{sys.executable} does not start as uid {user.uid}: {last}", MOVE)


def _needs(work: Path, data: Path) -> list[tuple[str, int]]:
    """Return the existing paths that a candidate needs, each with the rights for `os.access`."""
    above = next(folder for folder in work.parents if folder.exists())
    needs = [(sys.executable, os.R_OK | os.X_OK), (str(above), os.X_OK)]
    for path, rights in grants(data):
        if os.path.isdir(path):
            needs.append((path, os.R_OK | os.X_OK | (os.W_OK if rights == ALL else 0)))
        elif os.path.exists(path):
            needs.append((path, os.R_OK if rights in (READ, LIST) else os.R_OK | os.W_OK))
    return needs


def _lock_folder(work: Path) -> int:
    """Create the folder and lock it. The lock file lies beside the folder, because candidates may own the folder."""
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
    """Return a free user and its lock, preferably the folder's last user, which alone can end its leftover processes.

    Raise NoUser.
    """
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
    """Give the work folder to the candidates' user alone, and remove everything that earlier candidates left.

    Return the number of ended processes. Raise WorkFolderRefused or NotSwept.
    """
    uid, gid = (os.geteuid(), os.getegid()) if user is None else (user.uid, user.gid)
    ended = 0
    if work.stat().st_uid != uid:
        try:
            os.chown(work, uid, gid)
            work.chmod(0o700)
        except OSError as error:
            raise WorkFolderRefused(f"{work} must belong to uid {uid}: chown {uid}:{gid} {work}") from error
        ended = clear_all(work, None)  # as the trainer, since the new owner may not remove the old one's files
    if user is not None and work.stat().st_mode & 0o077:
        raise WorkFolderRefused(f"{work} is open to others: chmod 700 {work}")
    return ended + clear_all(work, user)
