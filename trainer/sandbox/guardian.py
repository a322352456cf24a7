"""The small process between the supervisor and a candidate: it starts the candidate and leaves no process of it behind.

Promises: the candidate runs in its own session with a clean environment, no foreign descriptors and limits, under a uid
of its own if one is ordered, without capabilities, behind the system call filter and what the kernel has of Landlock,
or it does not start; when it ends, is told to end (SIGTERM, also sent by the kernel when the supervisor dies) or
outlives the wall limit, its whole tree of descendants is dead before the ending is reported. Does not cover the files
it leaves: they are its user's to remove.

It lies on the way of every trial, so it imports no json, dataclasses, pathlib or typing: they would triple its start.
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
    import _signal as signal  # the same without its enums, which take a quarter of our start

_WATCHED = {signal.SIGCHLD, signal.SIGTERM}
_GIVE_UP_S = 10.0
_LOOKS_BEFORE_ALL = 50
_NOT_STARTED = 70
_SAID_BYTES = 4096
_FAILED = "!"


def main() -> None:
    """Entry point of the guardian's process: argv holds the supervisor's pid."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    syscalls.die_with_parent(signal.SIGTERM, int(sys.argv[2]))
    syscalls.become_subreaper()
    orders: Orders = marshal.load(sys.stdin.buffer)
    deadline = time.monotonic() + orders["wall_limit_s"]
    failed_read, failed_write = os.pipe()  # neither end outlives `execve`
    candidate = _start(orders, failed_write)
    for fd in (*orders["keep_fds"], orders["log_fd"], failed_write):
        os.close(fd)
    status, ended_by = _wait(candidate, deadline)
    reaped = kill_tree()
    status = reaped.pop(candidate, None) if status is None else status
    layers, failed, _ = os.read(failed_read, _SAID_BYTES).decode().partition(_FAILED)
    if failed:
        layers, ended_by = "", "not started"
    print(_report(status, ended_by, len(reaped), layers), flush=True)


def kill_tree() -> dict[int, int]:
    """Kill and reap every descendant of this process until none is left; the exit statuses by pid.

    Repeated, since a tree can fork while it is being killed: on a busy machine it is a race, see `_kill_below`. Where
    we may, we go before everything else on this machine as long as it lasts.
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
        if looks_at_all:  # pids come round
            older.clear()
        found, killed = _kill_below(older)
        if looks_at_all and not found:
            break
        if not killed:
            time.sleep(0.001)
        looks += 1
    return statuses


def _kill_below(older: set[str]) -> tuple[int, int]:
    """One look at who descends from us: how many there were, and how many were killed.

    Who forks without end lives for milliseconds, but is our own child once its parent has ended: it is killed as soon
    as it is read. What is older than we are is none of ours, is noted in `older`, and not read again.
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
    """Fork; the child never returns. On `failed_fd` it says that it never became the candidate: an exit code could be
    the candidate's own."""
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
    """Keep the folder that `mounts.OWN_PROCESS` stands for open as long as we live. Landlock's rule is one about an
    object of the kernel's, which procfs drops and recreates, without the rule, when memory is short."""
    try:
        os.open(f"/proc/{pid}/task", os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:  # it has failed already, and says so itself
        return


def _become_candidate(orders: Orders, guardian: int, failed_fd: int) -> None:
    """Put on every layer, tell the guardian which are there, and become the candidate's program."""
    layers = put_on(Becoming(orders, guardian, failed_fd))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP):  # nobody here sends a candidate these, so they are a passer-by's
        signal.signal(number, signal.SIG_IGN)
    os.write(failed_fd, ",".join(layers).encode())
    os.execv(orders["argv"][0], orders["argv"])


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


def _has_children() -> bool:
    """Without any there is no descendant either; asking is cheaper than reading the whole table."""
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
    """One line for `ExitReport.from_report`: exit code, signal, processor seconds, peak MiB, leftovers, the layers of
    the sandbox that the candidate was behind, ended by."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    exit_code = os.WEXITSTATUS(status) if status is not None and os.WIFEXITED(status) else "-"
    number = os.WTERMSIG(status) if status is not None and os.WIFSIGNALED(status) else "-"
    behind = f"subreaper,{layers}" if layers else "-"
    figures = f"{spent.ru_utime + spent.ru_stime} {spent.ru_maxrss / 1024} {leftovers}"
    return f"{exit_code} {number} {figures} {behind} {ended_by}"
