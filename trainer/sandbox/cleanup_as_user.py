"""A process that takes the candidates' user for good, ends all that runs under it and removes the files it left.

Promises: afterwards nothing of that user runs, its work folder is empty and has the mode and times that it always has,
and the places where everybody may write hold no file of it. For a user that is nobody else's: it ends every process of
that uid in sight.

As that user, because the worker in a container has no right to read its environments or to enter its folders. Standard
library only, and little of it: it runs before and after every trial.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from trainer.sandbox import procfs, syscalls

_OPEN_TO_ALL = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")
_GIVE_UP_S = 10.0


def main() -> None:
    """Entry point: argv holds uid, gid and work folder. Prints how many processes it ended; exits 1 with a reason."""
    uid, gid, work = int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    if uid == 0:
        sys.exit("root is no user for candidates: all that runs under it would be ended")
    running = len(procfs.processes_of(uid))
    syscalls.become(uid, gid)
    end_all_of_this_user()
    remove_files_of_this_user([work, *_OPEN_TO_ALL])
    forget_in(work)
    print(running)


def end_all_of_this_user() -> None:
    """Everything of this uid but this process is dead. One call reaches all of it, however fast it forks."""
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    give_up = time.monotonic() + _GIVE_UP_S
    while left := [pid for pid in procfs.processes_of(os.getuid()) if pid != os.getpid()]:
        if time.monotonic() > give_up:
            sys.exit(f"processes {left} of uid {os.getuid()} do not die")
        time.sleep(0.001)


def remove_files_of_this_user(places: list[str]) -> None:
    """What lies directly in `places` and belongs to this uid is gone with all below it, also where the candidate took
    away its own right to; find and rm manage depths at which Python's own recursion ends."""
    own = [*filter(os.path.isdir, places), "-ignore_readdir_race", "-mindepth", "1", "-maxdepth", "1"]
    own += ["-uid", str(os.getuid())]
    remove = [*own, "-exec", "rm", "-rf", "--", "{}", "+"]
    if _find(remove) != 0:
        _find([*own, "-type", "d", "-exec", "chmod", "-R", "u+rwX", "--", "{}", "+"])
        if _find(remove) != 0:
            sys.exit(f"what uid {os.getuid()} left in {places} could not be removed")


def forget_in(work: str) -> None:
    """Mode and times of the work folder itself, which is this user's, are the same before every candidate."""
    if os.path.isdir(work) and os.stat(work).st_uid == os.getuid():
        os.chmod(work, 0o700)
        os.utime(work, (0, 0))


def _find(arguments: list[str]) -> int:
    """By its path: to search for it, Python would import what this user may not be able to read."""
    return os.spawnv(os.P_WAIT, "/usr/bin/find", ["find", *arguments])
