"""Supervision of real processes, with a clock that the test moves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.machine.supervisor import Child, ChildStatus, ProcessSupervisor, exit_text, next_delay_s

IGNORES_SIGTERM = 'trap "" TERM; echo ready; while :; do read line < "$1"; done'
LEAVES_A_CHILD = """
import os, sys, time
child = os.fork()
if child == 0:
    os.setpgid(0, 0)
    open(sys.argv[1], "w").write(str(os.getpid()))
    time.sleep(600)
while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]):
    time.sleep(0.01)
sys.exit(3)
"""
SUPERVISES = """
import sys, time
from pathlib import Path
from services.machine.supervisor import Child, ProcessSupervisor
folder = Path(sys.argv[1])
says_when_asked_to_end = 'trap "echo asked to end; exit 0" TERM; echo ready; while :; do read line < "$1"; done'
command = ("sh", "-c", says_when_asked_to_end, "sh", str(folder / "fifo"))
with ProcessSupervisor([Child("one", command, folder / "one.log")]):
    time.sleep(600)
"""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    """A reader of it waits for as long as nobody writes."""
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_a_child_has_the_descriptors_that_it_is_given_also_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    read, write = os.pipe()
    says = ("sh", "-c", f"echo alive >/proc/self/fd/{write}; exit 3")
    with ProcessSupervisor([Child("says", says, tmp_path / "log", descriptors=(write,))], clock=clock) as supervisor:
        wait_for(supervisor, lambda now: now.pid is None)
        clock.now_s += 2
        wait_for(supervisor, lambda now: now.pid is None and now.restarts == 1)

    os.close(write)
    with os.fdopen(read) as heard:
        assert heard.read() == "alive\nalive\n"


def test_dead_child_is_started_again_ever_more_slowly(tmp_path: Path, clock: Clock) -> None:
    child = Child("crashes", ("sh", "-c", "echo a life; exit 3"), tmp_path / "logs" / "crashes.log")

    with ProcessSupervisor([child], clock=clock) as supervisor:
        for restarts, delay_s in enumerate([1, 2, 4, 8]):
            status = wait_for(supervisor, lambda now: now.pid is None)
            assert (status.restarts, status.last_exit, status.next_try_s) == (restarts, 3, delay_s)
            clock.now_s += delay_s - 0.1
            assert supervisor.poll()[0].pid is None
            clock.now_s += 0.2
            assert supervisor.poll()[0].restarts == restarts + 1
        wait_for(supervisor, lambda now: now.pid is None)

    assert child.log.read_text() == "a life\n" * 5


def test_minute_of_life_is_forgiven(tmp_path: Path, clock: Clock, fifo: Path) -> None:
    child = Child("lives", ("sh", "-c", 'read line < "$0"; exit 3', str(fifo)), tmp_path / "lives.log")

    with ProcessSupervisor([child], clock=clock) as supervisor:
        for lived_s, delay_s in [(0, 1), (10, 2), (60, 1)]:
            clock.now_s += lived_s
            fifo.write_text("\n")
            status = wait_for(supervisor, lambda now: now.pid is None)
            assert status.next_try_s == delay_s
            clock.now_s += delay_s
            supervisor.poll()


def test_child_that_finished_or_refused_is_left_in_peace(tmp_path: Path, clock: Clock) -> None:
    done = Child("done", ("sh", "-c", "exit 0"), tmp_path / "done.log")
    refuses = Child("refuses", ("sh", "-c", "exit 4"), tmp_path / "refuses.log", final_codes=frozenset({0, 4}))

    with ProcessSupervisor([done, refuses], clock=clock) as supervisor:
        wait_until(lambda: all(status.pid is None for status in supervisor.poll()))
        clock.now_s += 1000
        statuses = supervisor.poll()

    assert [status.last_exit for status in statuses] == [0, 4]
    assert [status.in_words() for status in statuses] == ["ended with code 0", "ended with code 4"]


def test_child_that_ignores_sigterm_is_killed(tmp_path: Path, fifo: Path) -> None:
    child = Child("stubborn", ("sh", "-c", IGNORES_SIGTERM, "sh", str(fifo)), tmp_path / "stubborn.log")

    with ProcessSupervisor([child], grace_s=0.05) as supervisor:
        wait_until(lambda: "ready" in child.log.read_text())
        pid = supervisor.poll()[0].pid

    assert not lives(pid)
    assert supervisor.poll()[0].in_words() == "ended by SIGKILL"


def test_stopped_children_stay_stopped_and_stop_may_be_called_again(tmp_path: Path, clock: Clock, fifo: Path) -> None:
    child = Child("waits", ("sh", "-c", 'read line < "$0"', str(fifo)), tmp_path / "waits.log")

    with ProcessSupervisor([child], clock=clock) as supervisor:
        supervisor.stop()
        clock.now_s += 1000

        assert supervisor.poll()[0].in_words() == "ended by SIGTERM"


def test_what_a_dead_child_left_in_its_session_is_dead_before_it_is_started_again(tmp_path: Path, clock: Clock) -> None:
    left = tmp_path / "pid"
    child = Child("leaves", (sys.executable, "-c", LEAVES_A_CHILD, str(left)), tmp_path / "leaves.log")

    with ProcessSupervisor([child], clock=clock) as supervisor:
        wait_for(supervisor, lambda now: now.pid is None)

        assert not lives(int(left.read_text()))


def test_children_end_when_their_supervisor_is_killed(tmp_path: Path, fifo: Path) -> None:
    log = tmp_path / "one.log"
    with subprocess.Popen([sys.executable, "-c", SUPERVISES, str(tmp_path)]) as supervisor:
        wait_until(lambda: log.exists() and "ready" in log.read_text())

        supervisor.kill()

    wait_until(lambda: "asked to end" in log.read_text())


def test_ctrl_c_in_the_terminal_does_not_reach_the_children(tmp_path: Path, fifo: Path) -> None:
    child = Child("waits", ("sh", "-c", 'read line < "$0"', str(fifo)), tmp_path / "waits.log")

    with ProcessSupervisor([child]) as supervisor:
        pid = supervisor.poll()[0].pid
        assert pid is not None
        assert os.getsid(pid) == pid != os.getsid(0)


def test_program_that_is_not_there_fails_the_start_and_leaves_nobody_behind(tmp_path: Path, fifo: Path) -> None:
    waits = Child("waits", ("sh", "-c", 'echo $$; read line < "$0"', str(fifo)), tmp_path / "waits.log")
    absent = Child("absent", (str(tmp_path / "no-such-program"),), tmp_path / "absent.log")

    with pytest.raises(FileNotFoundError, match="no-such-program"):
        ProcessSupervisor([waits, absent]).__enter__()

    assert not any(map(lives, map(int, waits.log.read_text().split())))


def test_program_that_cannot_be_started_for_a_while_is_tried_again(tmp_path: Path, clock: Clock) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)

    with ProcessSupervisor([Child("flaky", (str(program),), tmp_path / "flaky.log")], clock=clock) as supervisor:
        wait_for(supervisor, lambda now: now.pid is None)
        program.chmod(0o644)
        clock.now_s += 1
        assert supervisor.poll()[0].next_try_s == 2
        program.chmod(0o755)
        clock.now_s += 2
        assert supervisor.poll()[0].restarts == 1


def test_long_log_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "one.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * 10_000_001)

    with ProcessSupervisor([Child("one", ("echo", "hello"), log)]) as supervisor:
        wait_for(supervisor, lambda now: now.pid is None)

    assert log.read_text() == "hello\n"
    assert log.with_name("one.log.1").stat().st_size == 10_000_001


def test_long_log_of_a_living_child_is_set_aside(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    writes = "head -c 10000001 /dev/zero; echo; echo before; read word < go; echo after"
    os.mkfifo(tmp_path / "go")

    with ProcessSupervisor([Child("one", ("/bin/sh", "-c", writes), log, cwd=tmp_path)]) as supervisor:
        wait_for(supervisor, lambda _: log.with_name("one.log.1").exists() and log.stat().st_size < 100)
        (tmp_path / "go").write_text("go\n")
        wait_for(supervisor, lambda now: now.pid is None)

    assert log.read_text().endswith("after\n")
    assert log.with_name("one.log.1").stat().st_size > 10_000_000


def test_environment_is_the_given_one(tmp_path: Path) -> None:
    child = Child("env", ("/bin/sh", "-c", 'echo "$WORD,$HOME"; pwd'), tmp_path / "log", {"WORD": "night"}, tmp_path)

    with ProcessSupervisor([child]) as supervisor:
        wait_for(supervisor, lambda now: now.pid is None)

    assert child.log.read_text() == f"night,\n{tmp_path}\n"


@pytest.mark.parametrize(
    ("previous_s", "lived_s", "expected_s"),
    [(0, 0, 1), (1, 5, 2), (2, 59, 4), (32, 0, 60), (60, 0, 60), (60, 60, 1), (4, 3600, 1)],
)
def test_delay_doubles_up_to_a_minute(previous_s: float, lived_s: float, expected_s: float) -> None:
    assert next_delay_s(previous_s, lived_s) == expected_s


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (ChildStatus("trainer", 12, 0, None, None), "running"),
        (ChildStatus("trainer", 12, 2, 1, None), "running, restarted 2 x"),
        (ChildStatus("trainer", None, 1, -9, 3.6), "ended by SIGKILL, next try in 4 s"),
        (ChildStatus("trainer", None, 0, None, None), "not started"),
    ],
)
def test_status_is_said_in_words(status: ChildStatus, words: str) -> None:
    assert status.in_words() == words


def test_signals_are_named() -> None:
    assert exit_text(-signal.SIGSEGV) == "by SIGSEGV"
    assert exit_text(-40) == "by signal 40"


def wait_for(supervisor: ProcessSupervisor, condition: Callable[[ChildStatus], bool]) -> ChildStatus:
    wait_until(lambda: condition(supervisor.poll()[0]))
    return supervisor.poll()[0]


def lives(pid: int | None) -> bool:
    """Dead, and perhaps waiting to be reaped by whoever inherited it, is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.01)
