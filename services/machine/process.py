"""Processes by pidfd: the kernel may reuse a pid between an inspection and a signal, but not a pidfd. Linux only."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from trainer.jobs.environment import Program, environment
from trainer.sandbox.syscalls import die_with_parent

_KILL_S = 10.0


def spawn(
    argv: Sequence[str | Path],
    *,
    output: IO[bytes],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    descriptors: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, so that Ctrl-C in the terminal does not reach it. It gets SIGTERM when the
    calling thread ends, and without `env` the environment of our own Python processes. Of the open files it inherits
    only `descriptors`.

    Therefore call it from a thread that lives as long as the child should.
    """
    parent = os.getpid()
    return subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=environment(Program.PYTHON) if env is None else env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=descriptors,
        preexec_fn=lambda: die_with_parent(signal.SIGTERM, parent),  # noqa: PLW1509 only two kernel calls, no lock, no import
    )


def wait_for_exit(pidfd: int, timeout_s: float) -> bool:
    """Return whether the process ended within `timeout_s`; works for children, which stay to be reaped, and for other
    processes."""
    return bool(select.select([pidfd], [], [], timeout_s)[0])


def send(pidfd: int, number: signal.Signals) -> None:
    """Send a signal to a process that may have ended by itself meanwhile."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def end_politely(pidfd: int, grace_s: float) -> bool:
    """Send SIGTERM, and SIGKILL after `grace_s`. Returns False if the process had to be killed."""
    send(pidfd, signal.SIGTERM)
    if wait_for_exit(pidfd, grace_s):
        return True
    send(pidfd, signal.SIGKILL)
    wait_for_exit(pidfd, 10)
    return False


def kill_session(leader: int) -> list[int]:
    """Kill all processes of the session that `leader` opened; return the pids that did not die (mostly none).

    The leader must be dead and not yet reaped, otherwise its pid could belong to another process by now. The function
    goes by session, not by group, because RQ's work horse has a group of its own. It repeats, because a dying tree may
    fork.
    """
    deadline = time.monotonic() + _KILL_S
    while (members := _session_members(leader)) and time.monotonic() < deadline:
        for pid in members:
            _kill_member(pid, leader)
        time.sleep(0.005)
    return members


def _session_members(leader: int) -> list[int]:
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _is_member(pid, leader)]


def _is_member(pid: int, leader: int) -> bool:
    try:
        return pid != leader and os.getsid(pid) == leader and _state(pid) not in "ZX"
    except (ProcessLookupError, FileNotFoundError):
        return False


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]


def _kill_member(pid: int, leader: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_member(pid, leader):
            send(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)
