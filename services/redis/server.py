"""A server with the Redis protocol for a state folder: the user's own, or one that is started here and ends with the
caller.

Hides the source of the program, the port, the users, and the remains of a killed run. There is one server for each
folder: the owner holds the folder's lock as long as it lives, and a server without an owner is ended before a new one
starts. Not covered: TLS and other hosts, which only a user's own server can have. Call it from the main thread: the
server ends when the thread that started it ends.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

import redis

from services.machine.process import end_politely, spawn
from services.redis.acl import RESEARCHER
from services.redis.binary import Binary, choose_binary, parse_version
from services.redis.folder import ServerFolder
from services.redis.watchdog import Watchdog
from trainer.jobs import BusError, connect
from trainer.jobs.environment import Program, environment

log = logging.getLogger(__name__)

OLDEST = (7, 0)  # the first version in which a user can have several grants, as in `acl`
OLDEST_GIVEN = (6, 2)  # the first in which RQ moves a job in one step; before, a killed worker loses the job it takes
_GRACE_S = 30
_READY_S = 30.0
_TRY_AGAIN_S = 10.0


@dataclass(frozen=True)
class RedisServer:
    """A server that answers. `given`: the user's own; `started`: started here, and `stop` ends it; `shared`: of another
    run.

    `url` and `password` are those of the Redis user `researcher`, which the `overnight` command uses, too; a given URL
    is kept unchanged. `pid` is that of the first start, also after a revival.
    """

    url: str
    password: str | None = field(repr=False)
    pid: int | None
    version: str
    binary: Path | None
    how: Literal["given", "started", "shared"]
    folder: Path | None = None
    _hold: _Hold | None = field(default=None, repr=False, compare=False)

    def url_for(self, user: str) -> str:
        """Return the URL for a service with its own Redis user; a given server has no such users."""
        return self.url if self.folder is None else f"redis://{user}@{self.url.rpartition('@')[2]}"

    def password_file(self, user: str) -> Path | None:
        """Return the file with the password of a Redis user; None for a given server."""
        return None if self.folder is None else ServerFolder(self.folder).password_file(user)

    def stop(self) -> None:
        """End a server that was started here, after it has written its keys to disk; leave any other server alone."""
        if self._hold is not None:
            self._hold.watchdog.stop()
            _end(self._hold.process)
            self._hold.lock.close()

    def revive(self) -> None:
        """Restart the server if it was started here and has ended: with the same port, users and keys. Call it every
        second or so.

        If the server cannot be started, for example on a full disk, log the fault and try again after some seconds.
        """
        hold = self._hold
        if self.folder is None or hold is None or hold.process.poll() is None or time.monotonic() < hold.next_try_s:
            return
        log.warning("the server on %s ended with exit code %d: starting it again", self.url, hold.process.returncode)
        place = ServerFolder(self.folder)
        try:
            binary = choose_binary(place.remembered_binary(), OLDEST)
            hold.process, _ = _run(place, binary, place.port() or place.choose_port(), _READY_S)
        except (BusError, OSError) as fault:
            hold.next_try_s = time.monotonic() + _TRY_AGAIN_S
            log.error("the server cannot be started again: %s; tried again in %.0f s", fault, _TRY_AGAIN_S)


@dataclass
class _Hold:
    """The parts of a server that was started here: its present process, the folder's lock, and the earliest time of the
    next start.

    A watchdog ends whatever blocks the server.
    """

    process: subprocess.Popen[bytes]
    lock: IO[bytes]
    port: int
    next_try_s: float = 0.0

    def __post_init__(self) -> None:
        self.watchdog = Watchdog(self.port, lambda: self.process)
        self.watchdog.start()


def start_server(folder: Path, url: str | None = None, *, timeout_s: float = _READY_S) -> RedisServer:
    """Return the server at `url`, else the server of `folder`, started if it does not run. Raises BusError."""
    if url:
        return _given(url)
    place = ServerFolder.at(folder)
    lock = place.lock()
    if lock is None:
        return _shared(place, timeout_s)
    try:
        _end_orphans(place)
        return _start(place, lock, timeout_s)
    except BaseException:
        lock.close()
        raise


def running_server(folder: Path) -> RedisServer | None:
    """Return the server that runs on `folder` now, or None; start and create nothing."""
    place = ServerFolder(folder.resolve())
    port, password = place.port(), place.password(RESEARCHER.name)
    if port is None or password is None:
        return None
    url = _url(port)
    try:
        facts = _facts(url, password)
    except redis.RedisError:
        return None
    if facts.pid not in place.server_pids():
        return None
    return RedisServer(url, password, facts.pid, facts.version, None, "shared", place.path)


def _given(url: str) -> RedisServer:
    try:
        facts = _facts(url, None)
    except (redis.RedisError, ValueError) as error:
        raise BusError(
            f"Redis at {_without_password(url)} cannot be used: {error}; start it, correct the URL "
            "(redis://:PASSWORD@HOST:PORT/0), or leave the URL out to have a server started here"
        ) from error
    if parse_version(facts.version) < OLDEST_GIVEN:
        wanted = ".".join(map(str, OLDEST_GIVEN))
        raise BusError(f"Redis at {_without_password(url)} is version {facts.version}; {wanted} or newer is needed")
    return RedisServer(url, None, None, facts.version, None, "given")


def _shared(place: ServerFolder, timeout_s: float) -> RedisServer:
    """Return the server of another run, which holds the folder and may just be starting or ending its server."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if server := running_server(place.path):
            return server
        time.sleep(0.05)
    raise BusError(
        f"another run holds {place.path}, but its server has not answered for {timeout_s:.0f} s; "
        "end that run, or choose another state folder"
    )


def _end_orphans(place: ServerFolder) -> None:
    """End servers of a dead owner: this process holds the lock, so their owner is dead."""
    for pid in place.server_pids():
        log.info("ending server %d, which a killed run left on %s", pid, place.path)
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in place.server_pids():  # the pidfd names the same process
                end_politely(pidfd, _GRACE_S)
        finally:
            os.close(pidfd)


def _start(place: ServerFolder, lock: IO[bytes], timeout_s: float) -> RedisServer:
    binary = choose_binary(place.remembered_binary(), OLDEST)
    port = place.choose_port()
    process, version = _run(place, binary, port, timeout_s)
    place.remember_binary(binary.path)
    log.info("%s %s from %s listens on port %d", binary.path.name, version, binary.origin, port)
    hold = _Hold(process, lock, port)
    password = place.password(RESEARCHER.name)
    return RedisServer(_url(port), password, process.pid, version, binary.path, "started", place.path, hold)


def _run(place: ServerFolder, binary: Binary, port: int, timeout_s: float) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server; return its process and its version.

    A server that is killed at its start is started again. If one ends by itself, the files of its queue are put aside,
    since they may be damaged: the researcher queues its trial again from the journal.
    """
    place.make_users()
    config = place.write_config(port)
    process, version = _try(place, binary, port, config, timeout_s)
    if version is None and process.returncode < 0:
        log.warning("the server was killed at its start (exit code %d): starting it again", process.returncode)
        process, version = _try(place, binary, port, config, timeout_s)
    if version is None and place.put_queue_aside():
        words = place.log_tail()
        process, version = _try(place, binary, port, config, timeout_s)
        if version is None:
            place.bring_queue_back()
        else:
            log.warning(
                "the queue's files were damaged and are kept as %s; the trial is queued again from the journal, and "
                "requests without an answer are lost. The server's words:\n%s", place.damaged, words,
            )  # fmt: skip
    if version is None:
        raise BusError(
            f"{binary.path} ended at once with exit code {process.returncode}, also without the files of its queue; "
            f"the end of {place.log}:\n{place.log_tail()}\n"
            "Address in use: start again, another port is taken then"
        )
    return process, version


def _try(
    place: ServerFolder, binary: Binary, port: int, config: Path, timeout_s: float
) -> tuple[subprocess.Popen[bytes], str | None]:
    """Start the server once; return its process, and its version, or None if it ended."""
    process = _launch(place, binary, config)
    try:
        return process, _wait_until_ready(process, port, place.password(RESEARCHER.name), timeout_s)
    except BaseException:
        _end(process)
        raise


def _launch(place: ServerFolder, binary: Binary, config: Path) -> subprocess.Popen[bytes]:
    with place.open_log() as output:
        return spawn([binary.path, config], output=output, env=environment(Program.REDIS), cwd=place.path)


def _wait_until_ready(
    process: subprocess.Popen[bytes], port: int, password: str | None, timeout_s: float
) -> str | None:
    """Return the version once the server answers; None if it ended. While it reads a long append-only file it is not
    ready."""
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        try:
            facts = _facts(_url(port), password)
        except redis.RedisError as error:
            if time.monotonic() > deadline:
                raise BusError(
                    f"server {process.pid} on port {port} is not ready after {timeout_s:.0f} s: {error}"
                ) from error
            time.sleep(0.02)
            continue
        if facts.pid == process.pid:
            return facts.version
        time.sleep(0.02)  # another server listens there, and this one is about to end
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    pidfd = os.pidfd_open(process.pid)
    try:
        if not end_politely(pidfd, _GRACE_S):
            log.warning("server %d did not end within %d s and was killed", process.pid, _GRACE_S)
    finally:
        os.close(pidfd)
    process.wait()


@dataclass(frozen=True)
class _Facts:
    version: str
    pid: int


def _facts(url: str, password: str | None) -> _Facts:
    connection = connect(url, password=password, patient=False)
    try:
        connection.ping()
        server = connection.info("server")
    finally:
        connection.close()
    return _Facts(str(server.get("valkey_version", server["redis_version"])), int(server["process_id"]))


def _url(port: int) -> str:
    return f"redis://{RESEARCHER.name}@127.0.0.1:{port}/0"


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
