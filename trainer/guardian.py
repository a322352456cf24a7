"""The small process between the supervisor and a candidate: it starts the candidate and leaves nothing of it behind.

Promises: the candidate runs in its own session with a clean environment, no foreign descriptors and limits; when it
ends, is told to end (SIGTERM, also sent by the kernel when the supervisor dies) or outlives the wall limit, its whole
tree of descendants is dead before the ending is reported. Does not cover: another uid, seccomp, Landlock; they come
between fork and exec here. Standard library only: it starts in some 50 ms.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from trainer import linux, procfs

LAYERS = ("clean-environment", "closed-descriptors", "own-session", "parent-death-signal", "subreaper", "rlimits")
_WATCHED = {signal.SIGCHLD, signal.SIGTERM}
_OPEN_FILES = 4096
_GIVE_UP_S = 10.0
_NOT_STARTED = 70


@dataclass(frozen=True)
class Orders:
    """What the supervisor wants run; it arrives as JSON on stdin. `keep_fds` stay open in the candidate."""

    folder: str
    files: dict[str, str]
    argv: list[str]
    env: dict[str, str]
    log_fd: int
    keep_fds: list[int]
    wall_limit_s: float
    file_mib: int


@dataclass(frozen=True)
class Ending:
    """How a candidate ended. `ended_by` is itself, request or wall limit; `leftovers` counts what had to be killed."""

    exit_code: int | None
    signal: int | None
    ended_by: str
    processor_s: float
    peak_rss_mib: float
    leftovers: int


def main() -> None:
    """Entry point of the guardian's process: argv holds the supervisor's pid."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    linux.die_with_parent(signal.SIGTERM, int(sys.argv[2]))
    linux.become_subreaper()
    orders = Orders(**json.load(sys.stdin.buffer))
    deadline = time.monotonic() + orders.wall_limit_s
    write_files(Path(orders.folder), orders.files)
    candidate = _start(orders)
    for fd in (*orders.keep_fds, orders.log_fd):
        os.close(fd)
    status, ended_by = _wait(candidate, deadline)
    reaped = kill_tree()
    status = reaped.pop(candidate, None) if status is None else status
    print(json.dumps(asdict(_ending(status, ended_by, len(reaped)))), flush=True)


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write a candidate's files below `folder`; a name that would leave it is refused."""
    for name, text in files.items():
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts:
            raise ValueError(f"file name {name!r} leaves the work folder")
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def kill_tree() -> dict[int, int]:
    """Kill and reap every descendant of this process until none is left; the exit statuses by pid.

    Repeated, since a tree can fork while it is being killed.
    """
    statuses: dict[int, int] = {}
    give_up = time.monotonic() + _GIVE_UP_S
    while (tree := procfs.descendants(os.getpid())) and time.monotonic() < give_up:
        for process in tree:
            if process.state != "Z":
                _kill(process.pid)
        time.sleep(0.001)
        statuses.update(_reap())
    return statuses


def _start(orders: Orders) -> int:
    """Fork; the child never returns."""
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become_candidate(orders, guardian)
    except OSError as error:
        os.write(2, f"the candidate could not be started: {error}\n".encode())
    finally:
        os._exit(_NOT_STARTED)


def _become_candidate(orders: Orders, guardian: int) -> None:
    os.setsid()
    linux.die_with_parent(signal.SIGKILL, guardian)
    _limit("/proc/self/oom_score_adj", orders.file_mib)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (orders.log_fd, 1), (orders.log_fd, 2)):
        os.dup2(source, target)
    _close_all_but({0, 1, 2, *orders.keep_fds})
    for fd in orders.keep_fds:
        os.set_inheritable(fd, True)
    os.chdir(orders.folder)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execve(orders.argv[0], orders.argv, orders.env)


def _limit(oom_score: str, file_mib: int) -> None:
    """First to go when memory ends, no core files, bounded files. RLIMIT_NPROC counts every process of the uid on the
    host, so it waits for a uid of our own; RLIMIT_AS would break CUDA."""
    Path(oom_score).write_text("1000")
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file_mib * 2**20),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (bound, bound))


def _close_all_but(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the descriptor that listed the folder is closed already
                continue


def _wait(candidate: int, deadline: float) -> tuple[int | None, str]:
    """The candidate's wait status, None if it still runs, and why waiting ended."""
    while True:
        received = signal.sigtimedwait(_WATCHED, max(0.0, deadline - time.monotonic()))
        if received is None:
            return None, "wall limit"
        if received.si_signo == signal.SIGTERM:
            return None, "request"
        statuses = _reap()
        if candidate in statuses:
            return statuses[candidate], "itself"


def _reap() -> dict[int, int]:
    statuses: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return statuses
        if pid == 0:
            return statuses
        statuses[pid] = status


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ending(status: int | None, ended_by: str, leftovers: int) -> Ending:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Ending(
        exit_code=os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else None,
        signal=os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else None,
        ended_by=ended_by,
        processor_s=spent.ru_utime + spent.ru_stime,
        peak_rss_mib=spent.ru_maxrss / 1024,
        leftovers=leftovers,
    )
