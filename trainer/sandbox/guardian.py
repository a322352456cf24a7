"""The small process between the supervisor and a candidate. It starts the candidate and ends all its processes.

Promises: the candidate runs in its own session with a clean environment, with limits, with no descriptors but the
ordered ones, without capabilities, behind the system call filter and the kernel's version of Landlock, and under a uid
of its own if ordered; otherwise it does not start. When the candidate ends or exceeds the wall limit, or when the
guardian gets SIGTERM (which the kernel also sends when the supervisor dies), all descendants die before the report.
Does not cover the candidate's files; `cleanup` removes them.

Every trial waits for the guardian to start. It imports no json, dataclasses, pathlib or typing, which would triple that
time.
"""

from __future__ import annotations

import marshal
import os
import resource
import sys
import time

from trainer.sandbox import procfs, syscalls
from trainer.sandbox.layers import Becoming, put_on

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

    from trainer.sandbox.launch import Orders
else:
    import _signal as signal  # without enums, which take a quarter of the guardian's start

_WATCHED = {signal.SIGCHLD, signal.SIGTERM}
_GIVE_UP_S = 10.0
_LOOKS_BEFORE_ALL = 50
_NOT_STARTED = 70
_MESSAGE_BYTES = 4096
_FAILED = "!"


def main() -> None:
    """Run the guardian. argv[2] holds the supervisor's pid; stdin holds the orders."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    syscalls.die_with_parent(signal.SIGTERM, int(sys.argv[2]))
    syscalls.become_subreaper()
    orders: Orders = marshal.load(sys.stdin.buffer)
    deadline = time.monotonic() + orders["wall_limit_s"]
    failed_read, failed_write = os.pipe()  # `execve` closes both ends
    candidate = _start(orders, failed_write)
    caches = () if orders["caches_fd"] is None else (orders["caches_fd"],)
    for fd in (*orders["keep_fds"], *caches, orders["log_fd"], failed_write):
        os.close(fd)
    status, ended_by = _wait(candidate, deadline)
    reaped = kill_tree()
    status = reaped.pop(candidate, None) if status is None else status
    layers, failed, _ = os.read(failed_read, _MESSAGE_BYTES).decode().partition(_FAILED)
    if failed:
        layers, ended_by = "", "not started"
    print(_report(status, ended_by, len(reaped), layers), flush=True)


def kill_tree() -> dict[int, int]:
    """Kill and reap every descendant of this process until none is left, and return the wait statuses by pid.

    The kill is repeated, because a tree can fork meanwhile. On a busy machine that is a race, so this process takes
    real-time priority for it if allowed; see `_kill_below`.
    """
    usual = os.sched_getscheduler(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        return _kill_all_below()
    try:
        return _kill_all_below()
    finally:
        os.sched_setscheduler(0, usual, os.sched_param(0))


def _kill_all_below() -> dict[int, int]:
    statuses: dict[int, int] = {}
    older: set[str] = set()
    give_up = time.monotonic() + _GIVE_UP_S
    looks = 0
    while time.monotonic() < give_up:
        statuses.update(_reap())
        if not _has_children():
            break
        looks_at_all = looks % _LOOKS_BEFORE_ALL == 0
        if looks_at_all:  # because pids are used again
            older.clear()
        found, killed = _kill_below(older)
        if looks_at_all and not found:
            break
        if not killed:
            time.sleep(0.001)
        looks += 1
    return statuses


def _kill_below(older: set[str]) -> tuple[int, int]:
    """Read the process table once, kill all descendants, and return the numbers found and killed.

    A process that forks without end lives for milliseconds, but becomes this process's child when its parent ends.
    Therefore a child is killed as soon as it is read. A process older than this one is no descendant; its pid is added
    to `older` and not read again.
    """
    own = procfs.read(os.getpid())
    assert own is not None
    table, killed = {own.pid: own}, 0
    for process in procfs.processes(older):
        table[process.pid] = process
        if process.parent == own.pid and process.state != "Z":
            _kill(process.pid)
            killed += 1
        elif process.began < own.began:
            older.add(str(process.pid))
    below = procfs.descendants(own.pid, table)
    for process in below:
        if process.parent != own.pid and process.state != "Z":
            _kill(process.pid)
            killed += 1
    return len(below), killed


def _start(orders: Orders, failed_fd: int) -> int:
    """Fork, and return the candidate's pid; the child never returns.

    The child reports on `failed_fd` if it never became the candidate, because an exit code could be the candidate's.
    """
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        _hold_in_procfs(pid)
        return pid
    try:
        _become_candidate(orders, guardian, failed_fd)
    except (OSError, ValueError) as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os.write(failed_fd, _FAILED.encode())
        os._exit(_NOT_STARTED)


def _hold_in_procfs(pid: int) -> None:
    """Keep the candidate's folder `private_root.OWN_PROCESS` open for the life of the guardian.

    Landlock's rule belongs to the kernel's object of that folder. When memory is short, procfs drops an unused object
    and recreates it without the rule.
    """
    try:
        os.open(f"/proc/{pid}/task", os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:  # the child has failed already and reports it
        return


def _become_candidate(orders: Orders, guardian: int, failed_fd: int) -> None:
    """Apply every layer, report the applied ones to the guardian, and become the candidate's program."""
    layers = put_on(Becoming(orders, guardian, failed_fd))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):  # no part of the trainer sends these to a candidate
        signal.signal(number, signal.SIG_IGN)
    os.write(failed_fd, ",".join(layers).encode())
    os.execv(orders["argv"][0], orders["argv"])


def _wait(candidate: int, deadline: float) -> tuple[int | None, str]:
    """Wait for the candidate. Return its wait status, or None if it still runs, and why the waiting ended."""
    while True:
        received = signal.sigtimedwait(_WATCHED, max(0.0, deadline - time.monotonic()))
        if received is None:
            return None, "wall limit"
        if received.si_signo == signal.SIGTERM:
            return None, "request"
        statuses = _reap()
        if candidate in statuses:
            return statuses[candidate], "itself"


def _has_children() -> bool:
    """Return whether this process has children. Without any it has no descendants, since orphans become its children.

    This is cheaper than reading the process table.
    """
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


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


def _report(status: int | None, ended_by: str, leftovers: int, layers: str) -> str:
    """Return one line for `ExitReport.from_report`: exit code, signal, processor seconds, peak MiB, leftovers, applied
    layers, and why the candidate ended.
    """
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    exit_code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else "-"
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else "-"
    behind = f"subreaper,{layers}" if layers else "-"
    figures = f"{spent.ru_utime + spent.ru_stime} {spent.ru_maxrss / 1024} {leftovers}"
    return f"{exit_code} {number} {figures} {behind} {ended_by}"
