"""What a candidate holds on disks, counted on real files."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path
from textwrap import dedent

import pytest

from tests.fixtures.trials import library_path
from trainer.sandbox.launch import User
from trainer.trial import disk_usage
from trainer.trial.disk_usage import Held, Hidden, Holdings

BLOCK_MIB = 4096 / 2**20


@pytest.fixture(autouse=True)
def looks_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine: one look is one round."""
    monkeypatch.setattr(disk_usage, "_SLICE_S", 600)


def test_files_count_by_the_room_they_take_and_no_link_is_followed_or_counted_twice(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    outside.write_bytes(os.urandom(2**22))
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "large").write_bytes(os.urandom(2**20))
    (folder / "again").hardlink_to(folder / "a" / "large")
    os.truncate(os.open(folder / "sparse", os.O_CREAT | os.O_RDWR), 10**10)
    (folder / "link").symlink_to(outside)

    assert Holdings(folder).measure([]) == Held(files=5, mib=pytest.approx(1 + 3 * BLOCK_MIB))


def test_open_files_without_a_name_count_once_whoever_holds_them(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as nameless:
        nameless.write(os.urandom(2**20))
        nameless.flush()
        held = Holdings(tmp_path).measure([os.getpid(), os.getpid()])

    assert held.mib >= 1
    assert held.mib < 2


def test_what_takes_longer_than_a_look_is_counted_on_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_usage, "_SLICE_S", 0)
    for name in "abc":
        (tmp_path / name).touch()
    holdings = Holdings(tmp_path)

    assert [holdings.measure([]).files for _ in range(8)] == [1, 2, 3, 3, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "words"), [("deep", "folders deeper than 64"), ("n" * 250, "cannot be looked into .File name too long")]
)
def test_folder_that_cannot_be_looked_into_is_said(name: str, words: str, tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(66):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    with pytest.raises(Hidden, match=words):
        Holdings(tmp_path).measure([])


def test_folder_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert Holdings(tmp_path / "later").measure([]) == Held(0, 0.0)


@pytest.mark.parametrize("nested", [False, True])
def test_memory_files_on_their_way_between_sockets_count_once_they_stay_there(nested: bool, tmp_path: Path) -> None:
    """Also where the socket that holds them is itself on its way in another one."""
    holdings = Holdings(tmp_path)
    with ExitStack() as opened:
        here, there = (opened.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
        kept = os.memfd_create("kept")
        os.write(kept, bytes(2**26))
        socket.send_fds(here, [b"x"], [kept])
        os.close(kept)
        if nested:
            outer, _ = (opened.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))
            socket.send_fds(outer, [b"x"], [here.fileno(), there.fileno()])
            here.close()
            there.close()

        held = [holdings.measure([os.getpid()]).mib for _ in range(4)]

    assert held[2] < 1
    assert held[3] > 16


def test_process_that_nobody_may_look_into_is_said_unless_it_is_just_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_usage, "_can_be_looked_into", lambda pid: pid != 7)
    holdings = Holdings(tmp_path)

    assert holdings.measure([7]).files == 0
    assert holdings.measure([8]).files == 0
    assert holdings.measure([7]).files == 0
    with pytest.raises(Hidden, match="a process that the trainer may not inspect"):
        holdings.measure([7])


def test_who_closes_itself_cannot_be_looked_into(stranger: tuple[User, Path]) -> None:
    """By a user like any other; root may look into everybody."""
    user, python = stranger
    looks = """
        import ctypes, os, signal, sys
        from trainer.trial import disk_usage
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            ctypes.CDLL(None).prctl(4, int(sys.argv[1]), 0, 0, 0)
            os.write(writing, b"x")
            signal.pause()
        os.read(reading, 1)
        print(disk_usage._can_be_looked_into(pid))
        os.kill(pid, signal.SIGKILL)
    """

    said = [
        subprocess.run(
            [python, "-c", dedent(looks), dumpable],
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            env={"LD_LIBRARY_PATH": library_path(python)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for dumpable in ("1", "0")
    ]

    assert said == ["True\n", "False\n"]
