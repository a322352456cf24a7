"""A process whose first thread has ended looks like a zombie; it is seen, measured and ended all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from trainer.sandbox import procfs
from trainer.sandbox.usage import carriers, held_once_mib, tree_usage
from trainer.trial.disk_usage import Holdings

MARKER = b"OVERNIGHT_TEST_OF_PROCFS"
HEADLESS = """
import ctypes, os, threading
held = b"x" * 2**26
kept = os.memfd_create("kept")
os.write(kept, bytes(2**23))
def stay():
    while open(f"/proc/{os.getpid()}/stat").read().rpartition(")")[2].split()[0] != "Z":
        pass
    print(flush=True)
    os.read(0, 1)
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
"""
KILLS = """
import os, subprocess, sys
from trainer.sandbox import guardian, procfs, syscalls
syscalls.become_subreaper()
with subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as headless:
    headless.stdout.readline()
    guardian.kill_tree()
    print(len(procfs.descendants(os.getpid())))
"""


@pytest.fixture
def headless() -> Iterator[int]:
    """The pid of one."""
    environment = {**os.environ, MARKER.decode(): str(os.getpid())}
    with subprocess.Popen(
        [sys.executable, "-c", HEADLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.kill()


def test_it_runs_and_has_its_memory(headless: int) -> None:
    process = procfs.read(headless)

    assert process is not None
    assert process.state not in "ZX"
    assert process.rss_mib > 64
    assert tree_usage(os.getpid()).rss_mib > 64
    assert (held_once_mib(os.getpid(), 0, None) or 0) > 64


def test_it_is_found_by_its_environment(headless: int) -> None:
    assert carriers([MARKER + b"=%d" % os.getpid()]) == [headless]


def test_what_it_has_open_is_counted(headless: int, tmp_path: os.PathLike[str]) -> None:
    assert Holdings(tmp_path).measure([headless]).mib >= 8  # type: ignore[arg-type]


def test_it_is_dead_when_its_tree_is() -> None:
    done = subprocess.run([sys.executable, "-c", KILLS, HEADLESS], capture_output=True, text=True, check=True)

    assert done.stdout == "0\n"


def test_a_process_that_is_gone_between_two_looks_has_no_threads() -> None:
    child = subprocess.Popen(["true"])
    child.wait()

    assert list(procfs._threads(child.pid)) == []
    assert procfs.place(child.pid) == f"/proc/{child.pid}"
