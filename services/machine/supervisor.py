"""Keeps the processes of local mode alive: starts them, restarts them after growing delays, and ends them all.

A child ends when its supervisor does, for whatever reason, and no process of the child's session is left when it is
restarted or stopped. Not covered: descendants that open a session of their own (the guardian kills a candidate's tree).
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from researcher.backoff import Backoff
from services.machine.process import kill_session, send, spawn, wait_for_exit

log = logging.getLogger(__name__)

_RESTARTS = Backoff(1, 60)
_HEALTHY_AFTER_S = 60.0
_LOG_CAP_BYTES = 10_000_000
_SIGNAL_NAMES = {int(number): number.name for number in signal.Signals}


@dataclass(frozen=True)
class Child:
    """A process to keep alive. `env=None` stands for the environment of our own Python processes; after an exit code in
    `final_codes` the process is not restarted. It inherits the open files `descriptors`, also after a restart."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str] | None = None
    cwd: Path | None = None
    final_codes: frozenset[int] = frozenset({0})
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True)
class ChildStatus:
    """The state of a child: it runs (`pid`), waits for its restart (`next_try_s`, seconds from now), or ended for good
    (neither)."""

    name: str
    pid: int | None
    restarts: int
    last_exit: int | None
    next_try_s: float | None

    def in_words(self) -> str:
        """Return the state as text for the live view: `ended by SIGKILL, next try in 4 s`."""
        if self.pid is not None:
            return f"running, restarted {self.restarts} x" if self.restarts else "running"
        ended = "not started" if self.last_exit is None else f"ended {exit_text(self.last_exit)}"
        return ended if self.next_try_s is None else f"{ended}, next try in {self.next_try_s:.0f} s"


def exit_text(code: int) -> str:
    """Return an exit code as `with code 3`, or `by SIGKILL` if it is negative."""
    if code >= 0:
        return f"with code {code}"
    return f"by {_SIGNAL_NAMES.get(-code, f'signal {-code}')}"


def next_delay_s(previous_s: float, lived_s: float) -> float:
    """Return the seconds until the next try: doubled after each early death, reset after a minute of life."""
    return _RESTARTS.after(0.0 if lived_s >= _HEALTHY_AFTER_S else previous_s)


class ProcessSupervisor:
    """A context manager: the children start on entry and have ended after exit; call `poll` every second or so.

    Use it from one thread, the one that lives longest: a child gets SIGTERM when the thread that started it ends.
    """

    def __init__(
        self, children: Sequence[Child], *, clock: Callable[[], float] = time.monotonic, grace_s: float = 15
    ) -> None:
        self._places = [_Place(child, clock) for child in children]
        self._grace_s = grace_s

    def __enter__(self) -> Self:
        try:
            for place in self._places:
                place.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.stop()

    def poll(self) -> list[ChildStatus]:
        """Register ended children, restart those that are due, and return the status of all."""
        for place in self._places:
            place.check()
        return [place.status() for place in self._places]

    def stop(self) -> None:
        """Send SIGTERM to all, wait for `grace_s` in total, then send SIGKILL; after a second Ctrl-C, SIGKILL at
        once."""
        deadline = time.monotonic() + self._grace_s
        try:
            for place in self._places:
                place.ask_to_end()
            for place in self._places:
                place.wait_until(deadline)
        finally:
            for place in self._places:
                place.end()


class _Place:
    """A child's slot, and the process in it now, if any."""

    def __init__(self, child: Child, clock: Callable[[], float]) -> None:
        self._child = child
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd = -1
        self._started_at = 0.0
        self._next_try_at: float | None = None
        self._delay_s = 0.0
        self._starts = 0
        self._last_exit: int | None = None

    def start(self) -> None:
        """Start the child. Raises OSError if the program cannot be started."""
        with _open_log(self._child.log) as output:
            self._process = spawn(
                self._child.argv,
                output=output,
                env=self._child.env,
                cwd=self._child.cwd,
                descriptors=self._child.descriptors,
            )
        self._pidfd = os.pidfd_open(self._process.pid)
        self._started_at = self._clock()
        self._next_try_at = None
        self._starts += 1
        log.info("%s started, pid %d", self._child.name, self._process.pid)

    def check(self) -> None:
        """Register a death, or restart the child if its time has come. Shorten a log that has become long."""
        _shorten_log(self._child.log)
        if self._process is not None and wait_for_exit(self._pidfd, 0):
            self._bury()
        if self._next_try_at is not None and self._clock() >= self._next_try_at:
            self._start_again()

    def status(self) -> ChildStatus:
        """Return the child's status."""
        return ChildStatus(
            name=self._child.name,
            pid=self._process.pid if self._process else None,
            restarts=max(self._starts - 1, 0),
            last_exit=self._last_exit,
            next_try_s=None if self._next_try_at is None else max(self._next_try_at - self._clock(), 0.0),
        )

    def ask_to_end(self) -> None:
        """Send SIGTERM to the child alone, which must end its own children."""
        self._next_try_at = None
        if self._process is not None:
            send(self._pidfd, signal.SIGTERM)

    def wait_until(self, deadline: float) -> None:
        """Wait until the child has ended, or time.monotonic() reaches the deadline."""
        if self._process is not None and not wait_for_exit(self._pidfd, max(deadline - time.monotonic(), 0)):
            log.warning("%s did not end when asked to: killing it", self._child.name)

    def end(self) -> None:
        """Kill the child and its session, and reap the child."""
        if self._process is not None:
            send(self._pidfd, signal.SIGKILL)
            wait_for_exit(self._pidfd, 10)
            self._reap(self._process)
        self._next_try_at = None

    def _bury(self) -> None:
        assert self._process is not None
        lived_s = self._clock() - self._started_at
        code = self._reap(self._process)
        if code in self._child.final_codes:
            log.info("%s ended %s", self._child.name, exit_text(code))
            return
        self._try_later(lived_s)
        log.warning(
            "%s ended %s after %.0f s; next try in %.0f s, its log is %s",
            self._child.name,
            exit_text(code),
            lived_s,
            self._delay_s,
            self._child.log,
        )

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError as error:  # no memory or process for now; a program that cannot start failed at the first start
            self._try_later(0.0)
            log.warning("%s cannot be started: %s; next try in %.0f s", self._child.name, error, self._delay_s)

    def _try_later(self, lived_s: float) -> None:
        self._delay_s = next_delay_s(self._delay_s, lived_s)
        self._next_try_at = self._clock() + self._delay_s

    def _reap(self, process: subprocess.Popen[bytes]) -> int:
        """Kill the rest of the session first: once the child is reaped, its pid no longer names the session."""
        if survivors := kill_session(process.pid):
            log.error(
                "%s left processes that do not die: %s; look with ps -o pid,stat,wchan", self._child.name, survivors
            )
        self._last_exit = process.wait()
        os.close(self._pidfd)
        self._process = None
        return self._last_exit


def _open_log(path: Path) -> IO[bytes]:
    """Open a log for appending."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _shorten_log(path)
    return path.open("ab")


def _shorten_log(path: Path) -> None:
    """Move the content of a long log to `NAME.log.1`, in place of the one before.

    The file itself stays, because a living child appends to it. A line written meanwhile may be lost, and on a full
    disk the content.
    """
    if path.exists() and path.stat().st_size > _LOG_CAP_BYTES:
        with suppress(OSError):
            shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        with suppress(OSError):
            os.truncate(path, 0)
