"""The folder of a server: lock, users, port, configuration and log, and the processes that serve from it.

The port is chosen once, so that a run finds its server again after a restart.
"""

from __future__ import annotations

import fcntl
import os
import random
import secrets
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from services.redis.acl import SERVICES, acl_file
from services.redis.binary import NAMES
from trainer.jobs import BusError

_LOG_CAP_BYTES = 10_000_000
_PORTS = 10_000
_QUEUE = "appendonlydir"  # the server's own name
_MIB = 1024**2
_MEMORY_SHARE = 16  # the server may use this fraction (1/16) of the machine's memory, within these bounds
_MEMORY_LEAST_MIB, _MEMORY_MOST_MIB = 64, 512

# save "": only the append-only file stores the keys; a snapshot at exit would be a second, older copy.
_CONFIG = """\
bind 127.0.0.1
port {port}
dir .
aclfile users.acl
appendonly yes
appendfsync everysec
aof-load-truncated yes
save ""
maxmemory {memory_mib}mb
{limits}"""
# Limits on the load of one connection. For the container, redis.conf has the same lines. A full server refuses writes
# and keeps the queues. No value of this code is larger than 4 MiB (`trainer.jobs.bounded`). No user may run a script;
# if one runs nevertheless, other clients receive the error BUSY after a second, and the watchdog ends the script.
LIMITS = """\
maxmemory-policy noeviction
maxmemory-clients 25%
maxclients 1000
timeout 3600
tcp-keepalive 60
proto-max-bulk-len 8mb
client-query-buffer-limit 16mb
client-output-buffer-limit normal 64mb 16mb 60
busy-reply-threshold 1000
lazyfree-lazy-user-del yes
"""


@dataclass(frozen=True)
class ServerFolder:
    """A folder that only its owner can read: it holds the passwords and all queued jobs."""

    path: Path

    @classmethod
    def at(cls, path: Path) -> ServerFolder:
        """Return the folder; create it if it does not exist."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(path.resolve())

    @property
    def log(self) -> Path:
        """The server's log; `open_log` truncates a long one."""
        return self.path / "server.log"

    def lock(self) -> IO[bytes] | None:
        """Return a file that holds the folder until it is closed or this process dies; None if another living run holds
        it."""
        file = (self.path / "lock").open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        return file

    def password_file(self, user: str) -> Path:
        """Return the password file of a Redis user; only its service may read it."""
        return self.path / f"{user}.password"

    def password(self, user: str) -> str | None:
        """Return the password of a Redis user; None before the first start."""
        return self._recall(self.password_file(user).name)

    def make_users(self) -> None:
        """Write the file of the server's users; their passwords are generated once."""
        self._remember("users.acl", acl_file({user: self._make_password(user) for user in SERVICES}))
        (self.path / "password").unlink(missing_ok=True)  # an earlier version's, shared by all services

    def _make_password(self, user: str) -> str:
        password = self.password(user) or secrets.token_hex(24)
        self._remember(self.password_file(user).name, password)
        return password

    def port(self) -> int | None:
        """Return the port; None before the first start."""
        text = self._recall("port")
        return int(text) if text is not None and text.isdigit() else None

    def choose_port(self) -> int:
        """Return the port of the last start, or another one if a program listens there now."""
        port = self.port()
        if port is None or not _is_free(port):
            port = _free_port()
            self._remember("port", str(port))
        return port

    def remembered_binary(self) -> Path | None:
        """Return the program that wrote the files here, None before the first start."""
        text = self._recall("binary")
        return Path(text) if text else None

    def remember_binary(self, path: Path) -> None:
        """Store the program for `remembered_binary`."""
        self._remember("binary", str(path))

    def write_config(self, port: int) -> Path:
        """Write the server's configuration; return its path for a server that starts in this folder.

        The path of the folder stands nowhere in it, because the server would read * and line ends in it as its own.
        """
        text = _CONFIG.format(port=port, memory_mib=memory_cap_mib(_memory_mib()), limits=LIMITS)
        self._remember("server.conf", text)
        return Path("/proc/self/cwd/server.conf")

    def open_log(self) -> IO[bytes]:
        """Open the log for the server to append to; truncate a log of more than `_LOG_CAP_BYTES`."""
        too_long = self.log.exists() and self.log.stat().st_size > _LOG_CAP_BYTES
        return self.log.open("wb" if too_long else "ab")

    def log_tail(self) -> str:
        """Return the last ten lines of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-10:])

    @property
    def damaged(self) -> Path:
        """The last files of a queue that the server could not read."""
        return self.path / f"{_QUEUE}.damaged"

    def put_queue_aside(self) -> bool:
        """Rename the folder of the append-only file to `damaged`; return False if there is none."""
        if not (self.path / _QUEUE).exists():
            return False
        _remove(self.damaged)
        (self.path / _QUEUE).rename(self.damaged)
        return True

    def bring_queue_back(self) -> None:
        """Undo `put_queue_aside`."""
        _remove(self.path / _QUEUE)
        self.damaged.rename(self.path / _QUEUE)

    def server_pids(self) -> list[int]:
        """Return the pids of servers whose working folder is this one, as the kernel reports it."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if self._is_served_by(pid)]

    def _is_served_by(self, pid: int) -> bool:
        process = Path(f"/proc/{pid}")
        try:
            return (process / "comm").read_text(encoding="utf-8").strip() in NAMES and (
                process / "cwd"
            ).readlink() == self.path
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False  # the process ended meanwhile, or belongs to another user

    def _recall(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def _remember(self, name: str, text: str) -> None:
        """Write a file whole or not at all, readable by its owner alone from the beginning."""
        draft = self.path / f"{name}.new"
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self.path / name)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def memory_cap_mib(machine_mib: int) -> int:
    """Return the server's memory limit in MiB. A run uses a few MiB; the rest is for large or many requests."""
    return min(max(machine_mib // _MEMORY_SHARE, _MEMORY_LEAST_MIB), _MEMORY_MOST_MIB)


def _memory_mib() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // _MIB


def _is_free(port: int) -> bool:
    """Whether no program listens on the loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    """Return a free port below the system's range for outgoing connections, one of which could take it while the server
    is down."""
    first_given = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()[0])
    ports = range(max(1024, first_given - _PORTS), first_given)
    for port in random.sample(ports, len(ports)):
        if _is_free(port):
            return port
    raise BusError(
        f"no port of {ports.start} to {ports.stop - 1} is free on 127.0.0.1 for the server in a state folder"
    )
