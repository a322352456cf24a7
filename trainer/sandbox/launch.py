"""Starts a candidate under a guardian, stops it, and reads the guardian's report.

Promises: a candidate gets a work folder of its own and only the environment that `environment` returns.
`GuardedProcess.stop` and the death of this process both end the candidate's whole tree. Does not cover a killed
guardian: `cleanup` ends the processes that it leaves.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TypedDict

from trainer.sandbox.visible_paths import Grant

MARKER = "OVERNIGHT_WORK"
GUARDIAN = "OVERNIGHT_GUARDIAN"
ROOT = str(Path(__file__).resolve().parents[2])
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from {module} import main; main()"
_PASSED_ON = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",  # it gives the numbers above their meaning
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "LD_LIBRARY_PATH",
)
_PIPE_BYTES = 2**20
_SHARED_MEMORY = "/dev/shm"
_SOCKET_CHARACTERS = 107 - len("/pymp-12345678/listener-12345678")  # the limit of a path, minus multiprocessing's part
_CLOSE_S = 5.0
_FIRST_FREE_UID, _NOBODY = 60_000, 65_534


class UserRefused(ValueError):
    """Raised for a uid that must not be the candidates'. The message says why."""


@dataclass(frozen=True)
class User:
    """The uid and gid of candidates. The uid must be used for nothing else, because all its processes are killed.

    Raise UserRefused for a uid that Debian may assign to users or daemons.
    """

    uid: int
    gid: int

    def __post_init__(self) -> None:
        if self.uid < _FIRST_FREE_UID or self.uid == _NOBODY:
            raise UserRefused(
                f"uid {self.uid} may be somebody's, and whatever runs under it is killed between trials; "
                f"name one from {_FIRST_FREE_UID} up that nobody uses, such as 64001"
            )

    @classmethod
    def parse(cls, text: str) -> User:
        """Parse `UID` or `UID:GID`. Raise UserRefused."""
        uid, _, gid = text.partition(":")
        if not (uid.isdecimal() and (gid or uid).isdecimal()):
            raise UserRefused(f"{text!r} is not UID or UID:GID in digits, such as 64001")
        return cls(int(uid), int(gid or uid))


class Orders(TypedDict):
    """The guardian's orders, which it reads from stdin. `keep_fds` stay open in the candidate. `caches_fd` is closed
    once its content is unpacked.

    They are in marshal's format: both ends are the same interpreter, and importing json would take the guardian 25 ms.
    """

    folder: str
    files: dict[str, str]
    argv: list[str]
    env: dict[str, str]
    user: tuple[int, int] | None
    grants: list[tuple[str, int]]
    own_root: bool
    log_fd: int
    keep_fds: list[int]
    caches_fd: int | None
    wall_limit_s: float
    file_mib: int
    processes: int


@dataclass(frozen=True)
class ExitReport:
    """The guardian's report on the end of a candidate.

    `ended_by` is "itself", "request", "wall limit", or "not started", which the log explains. `leftovers` is the number
    of other processes that were left at the end. `layers` are the sandbox layers that were really applied.
    """

    exit_code: int | None
    signal: int | None
    ended_by: str
    processor_s: float
    peak_rss_mib: float
    leftovers: int
    layers: tuple[str, ...] = ()

    @property
    def started(self) -> bool:
        """False if the trainer's own part failed before the candidate's program began."""
        return self.ended_by != "not started"

    @classmethod
    def from_report(cls, line: str) -> ExitReport:
        """Parse the guardian's line, in which a dash means None."""
        exit_code, number, processor_s, peak_rss_mib, leftovers, layers, ended_by = line.strip().split(" ", 6)
        return cls(
            exit_code=None if exit_code == "-" else int(exit_code),
            signal=None if number == "-" else int(number),
            ended_by=ended_by,
            processor_s=float(processor_s),
            peak_rss_mib=float(peak_rss_mib),
            leftovers=int(leftovers),
            layers=() if layers == "-" else tuple(layers.split(",")),
        )


@dataclass(frozen=True)
class Launch:
    """The settings of one start.

    `orders` is the JSON argument of `module`, such as the runner or the probe. `env` is added to the usual environment.
    `user` is None for the trainer's own. `processes` limits the processes of another user, with room for threads.
    `caches` is a file of packed caches to begin with, or None.
    `held_fds` stay open as long as the guardian lives, and the candidate does not get them.
    """

    folder: Path
    files: dict[str, str]
    orders: str
    env: dict[str, str]
    keep_fds: tuple[int, ...]
    wall_limit_s: float
    file_mib: int
    processes: int
    grants: list[Grant]
    user: User | None = None
    caches: Path | None = None
    module: str = "trainer.candidate.runner"
    held_fds: tuple[int, ...] = ()


class GuardedProcess:
    """A candidate under its guardian. `log_fd` returns its output; `report_fd` becomes readable when it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], report: IO[bytes], log_fd: int) -> None:
        self._process = process
        self._report = report
        self.log_fd = log_fd

    @classmethod
    def start(cls, launch: Launch) -> GuardedProcess:
        """Start the guardian and send its orders. The candidate's process creates the work folder."""
        own_root = can_own_root()
        caches_fd = None if launch.caches is None else os.open(launch.caches, os.O_RDONLY | os.O_CLOEXEC)
        log_read, log_write = os.pipe()
        fcntl.fcntl(log_write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        orders = Orders(
            folder=str(launch.folder),
            files=launch.files,
            argv=[sys.executable, "-s", "-P", "-c", _BOOT.format(module=launch.module), ROOT, launch.orders],
            env=environment(launch.folder, emptied=own_root or launch.user is not None) | launch.env,
            user=(launch.user.uid, launch.user.gid) if launch.user is not None else None,
            grants=launch.grants,
            own_root=own_root,
            log_fd=log_write,
            keep_fds=list(launch.keep_fds),
            caches_fd=caches_fd,
            wall_limit_s=launch.wall_limit_s,
            file_mib=launch.file_mib,
            processes=launch.processes,
        )
        passed = () if caches_fd is None else (caches_fd,)
        process = subprocess.Popen(
            isolated_command("trainer.sandbox.guardian", str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_write,
            env={GUARDIAN: str(launch.folder)},
            pass_fds=(log_write, *launch.keep_fds, *launch.held_fds, *passed),
            start_new_session=True,
            cwd="/",
        )
        for fd in (log_write, *passed):
            os.close(fd)
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as stdin:
            marshal.dump(dict(orders), stdin)
        os.set_blocking(log_read, False)
        return cls(process, process.stdout, log_read)

    @property
    def pid(self) -> int:
        """The guardian's pid, the root of the measured process tree."""
        return self._process.pid

    @property
    def report_fd(self) -> int:
        """The descriptor that becomes readable when the whole tree is dead and the report is written."""
        return self._report.fileno()

    def stop(self) -> None:
        """Tell the guardian to end all processes. Its report follows on `report_fd`."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def ending(self) -> ExitReport | None:
        """Wait for the guardian's report, and return it, or None if the guardian was killed first."""
        line = self._report.read()
        self._process.wait()
        return ExitReport.from_report(line.decode()) if line else None

    def close(self) -> None:
        """End all processes and release the descriptors. Kill a guardian that does not end within 5 s."""
        self.stop()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._report.close()
        os.close(self.log_fd)


@cache
def can_own_root() -> bool:
    """Return whether candidates get a root folder of their own.

    A small process tries it, since kernels and containers differ. The worker calls this before it forks, so that its
    forks find the result in the cache.
    """
    tried = isolated_command("trainer.sandbox.private_root")
    return subprocess.run(tried, check=False, stderr=subprocess.DEVNULL, cwd="/", env={}).returncode == 0


def isolated_command(module: str, *arguments: str) -> list[str]:
    """Return the command line of a small process that runs `main` of a module, without `site` and its imports."""
    return [sys.executable, "-I", "-S", "-c", _BOOT.format(module=module), ROOT, *arguments]


def environment(folder: Path, *, emptied: bool = False) -> dict[str, str]:
    """Return the environment of a candidate. Each trial has caches of its own, since a shared cache would carry code
    and weights.

    If the path of the folder is too long for sockets, every DataLoader with workers would fail. Then temporary files go
    to shared memory, provided that it is `emptied` after each candidate.
    """
    tmp = folder / "tmp"
    is_long = len(os.fsencode(tmp)) > _SOCKET_CHARACTERS
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    cache = folder / "cache"
    return passed | {
        MARKER: str(folder),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "USER": "candidate",  # the uid may have no name, and torch asks for it
        "TMPDIR": _SHARED_MEMORY if is_long and emptied else str(tmp),
        "XDG_CACHE_HOME": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
