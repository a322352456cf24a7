"""The wall around the file system on the real kernel: what is granted works, nothing else does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainer.sandbox import landlock
from trainer.sandbox.private_root import OWN_PROCESS
from trainer.sandbox.visible_paths import PRIVATE, grants

WALLED = """
import fcntl, os, signal, socket, sys
from pathlib import Path
from trainer.sandbox import landlock, syscalls
here = Path(sys.argv[1])
wall, _ = landlock.prepare([("/usr", landlock.READ), (str(here / "read"), landlock.READ), ("/nowhere", landlock.READ),
    (str(here / "listed"), landlock.LIST), (str(here / "own"), landlock.ALL), ("/dev/null", landlock.USE),
    ("/dev/zero", landlock.READ)])
syscalls.forbid_new_privileges()
landlock.confine(wall)
"""
needs_landlock = pytest.mark.skipif(landlock.abi() == 0, reason="this kernel has no Landlock")
needs_scopes = pytest.mark.skipif(landlock.abi() < 6, reason="signals and abstract sockets: kernels from 6.12")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("read", "listed", "own", "closed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")
    return tmp_path


@contextmanager
def socket_of_ours() -> Iterator[str]:
    name = f"\0overnight-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(name)
        listening.listen()
        yield name


def behind_the_wall(code: str, here: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WALLED + code, here], check=False, capture_output=True, text=True)


def refusal(attempt: str, here: Path) -> str:
    """How it fails behind the wall; empty where it does not."""
    done = behind_the_wall(f"try:\n {attempt}\nexcept OSError as refusal:\n print(refusal.strerror)", here)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@needs_landlock
@pytest.mark.parametrize(
    "attempt",
    [
        "(here / 'read' / 'file').read_text()",
        "os.listdir(here / 'read')",
        "os.listdir(here / 'listed')",
        "(here / 'own' / 'new').write_text('mine')",
        "(here / 'own' / 'file').unlink()",
        "(here / 'own' / 'link').symlink_to(here)",
        "open('/dev/null', 'w').write('x')",
        "os.kill(os.getpid(), 0)",
        "assert os.spawnv(os.P_WAIT, '/usr/bin/true', ['true']) == 0",
    ],
)
def test_what_is_granted_works(attempt: str, here: Path) -> None:
    done = behind_the_wall(attempt, here)

    assert done.returncode == 0, done.stderr


@needs_landlock
@pytest.mark.parametrize(
    "attempt",
    [
        "(here / 'closed' / 'file').read_text()",
        "os.listdir(here / 'closed')",
        "(here / 'closed' / 'new').write_text('mine')",
        "(here / 'closed' / 'file').unlink()",
        "(here / 'listed' / 'file').read_text()",
        "(here / 'read' / 'file').write_text('mine')",
        "os.truncate(here / 'read' / 'file', 0)",
        "os.mkfifo(here / 'read' / 'pipe')",
        "os.rename(here / 'own' / 'file', here / 'read' / 'mine')",
        "(here / 'own' / 'link').symlink_to(here / 'closed'); (here / 'own' / 'link' / 'file').read_text()",
        "open('/etc/shadow')",
        "open(f'/proc/{os.getppid()}/environ')",
    ],
)
def test_nothing_else_does(attempt: str, here: Path) -> None:
    assert refusal(attempt, here) in ("Permission denied", "Operation not permitted", "Invalid cross-device link")


@needs_scopes
def test_no_signal_reaches_a_process_outside(here: Path) -> None:
    assert refusal("os.kill(os.getppid(), 0)", here) == "Operation not permitted"


@needs_scopes
def test_no_abstract_socket_reaches_a_process_outside(here: Path) -> None:
    with socket_of_ours() as name:
        assert refusal(f"socket.socket(socket.AF_UNIX).connect({name!r})", here) == "Operation not permitted"


@pytest.mark.skipif(landlock.abi() < 4, reason="TCP: kernels from 6.7")
@pytest.mark.parametrize("attempt", ["connect(('127.0.0.1', 9))", "bind(('127.0.0.1', 0))"])
def test_no_tcp_connection_is_made_nor_awaited(attempt: str, here: Path) -> None:
    assert refusal(f"socket.socket().{attempt}", here) == "Permission denied"


@pytest.mark.skipif(landlock.abi() < 5, reason="controlling devices: kernels from 6.10")
@pytest.mark.parametrize(
    ("device", "answer"), [("null", "Inappropriate ioctl for device"), ("zero", "Permission denied")]
)
def test_device_is_controlled_only_where_that_is_granted(device: str, answer: str, here: Path) -> None:
    assert refusal(f"fcntl.ioctl(open('/dev/{device}'), 0x5401)", here) == answer


@needs_landlock
def test_a_program_that_is_started_stays_behind_the_wall(here: Path) -> None:
    done = behind_the_wall(
        "sys.exit(os.spawnv(os.P_WAIT, '/usr/bin/cat', ['cat', str(here / 'closed' / 'file')]))", here
    )

    assert done.returncode != 0
    assert "Permission denied" in done.stderr


def test_data_that_scores_is_granted_to_nobody(tmp_path: Path) -> None:
    (tmp_path / PRIVATE).mkdir()
    (tmp_path / "train.npy").touch()

    granted = dict(grants(tmp_path))

    assert granted[str(tmp_path / "train.npy")] == landlock.READ
    assert str(tmp_path) not in granted
    assert not any(PRIVATE in path for path in granted)


def test_gpu_may_be_used_where_there_is_one_and_threads_be_named(tmp_path: Path) -> None:
    without = dict(grants(tmp_path, devices=tmp_path))
    for name in ("nvidia0", "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"):
        (tmp_path / name).touch()

    found = dict(grants(tmp_path, devices=tmp_path))

    assert without["/proc"] == found["/proc"] == landlock.READ
    assert OWN_PROCESS not in without
    assert found[OWN_PROCESS] & landlock.USE == landlock.USE
    assert all(found[str(tmp_path / name)] & landlock.USE == landlock.USE for name in ("nvidia0", "nvidia-uvm-tools"))
