"""Becomes the candidates' user in a process of its own, ends all processes of that user, and removes their files.

Promises: afterwards no process of that user runs; its work folder is empty and has its usual mode and times; and the
folders where every user may write hold no file of it. The user must be used for nothing else, because every process of
its uid is ended.

The process runs as that user, because in a container the worker has no right to read the candidates' environments or to
enter their folders. It imports little, and only from the standard library, because it runs before and after each trial.
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
    """Clean up, and print the number of ended processes. argv[2:] holds uid, gid and work folder.

    Exit with code 1 and a reason on a failure.
    """
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
    """Kill all other processes of this uid, and wait until they are dead.

    One signal to -1 reaches all of them, however fast they fork.
    """
    try:
        os.kill(-1, signal.SIGKILL)
    except ProcessLookupError:
        return
    give_up = time.monotonic() + _GIVE_UP_S
    while left := [pid for pid in procfs.processes_of(os.getuid()) if pid != os.getpid()]:
        if time.monotonic() > give_up:
            sys.exit(f"processes {left} of uid {os.getuid()} do not die")
        time.sleep(0.001)


def remove_files_of_this_user(paths: list[str]) -> None:
    """Remove this uid's entries directly in `paths`, with everything below them.

    If the candidate removed its own rights on a folder, they are restored first. `find` and `rm` handle depths at which
    Python's recursion fails.
    """
    own = [*filter(os.path.isdir, paths), "-ignore_readdir_race", "-mindepth", "1", "-maxdepth", "1"]
    own += ["-uid", str(os.getuid())]
    remove = [*own, "-exec", "rm", "-rf", "--", "{}", "+"]
    if _find(remove) != 0:
        _find([*own, "-type", "d", "-exec", "chmod", "-R", "u+rwX", "--", "{}", "+"])
        if _find(remove) != 0:
            sys.exit(f"what uid {os.getuid()} left in {paths} could not be removed")


def forget_in(work: str) -> None:
    """Reset mode and times of this user's work folder, so that no candidate can leave a note in them."""
    if os.path.isdir(work) and os.stat(work).st_uid == os.getuid():
        os.chmod(work, 0o700)
        os.utime(work, (0, 0))


def _find(arguments: list[str]) -> int:
    """Run `find` by its path. For a search in PATH, Python imports modules that this user may be unable to read."""
    return os.spawnv(os.P_WAIT, "/usr/bin/find", ["find", *arguments])
