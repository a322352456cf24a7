"""The supervisor's side of the guardian: start a candidate under it, stop it, learn how it ended.

Promises: a candidate gets a work folder of its own and an environment of ours; `GuardedProcess.stop` and the death of
this process both end its whole tree. Does not cover a guardian that was killed: `cleanup` ends what that leaves.
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
_PASSED_ON = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LD_LIBRARY_PATH")
_PIPE_BYTES = 2**20
_SHARED_MEMORY = "/dev/shm"
_SOCKET_CHARACTERS = 107 - len("/pymp-12345678/listener-12345678")  # a path has 107, the rest is multiprocessing's
_CLOSE_S = 5.0
_FIRST_FREE_UID, _NOBODY = 60_000, 65_534


class UserRefused(ValueError):
    """This must not be the candidates' user; the message says why."""


@dataclass(frozen=True)
class User:
    """The uid and gid that candidates run under, nobody else's: whatever runs under the uid gets killed.

    Raises UserRefused for a uid that Debian gives to people or daemons.
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
        """From `UID` or `UID:GID`."""
        uid, _, gid = text.partition(":")
        if not (uid.isdecimal() and (gid or uid).isdecimal()):
            raise UserRefused(f"{text!r} is not UID or UID:GID in digits, such as 64001")
        return cls(int(uid), int(gid or uid))


class Orders(TypedDict):
    """What the guardian is told on its stdin, in marshal's format: both ends are the same interpreter, and json would
    cost the guardian 25 ms of start. `keep_fds` stay open in the candidate."""

    folder: str
    files: dict[str, str]
    argv: list[str]
    env: dict[str, str]
    user: tuple[int, int] | None
    grants: list[tuple[str, int]]
    own_root: bool
    log_fd: int
    keep_fds: list[int]
    wall_limit_s: float
    file_mib: int
    processes: int


@dataclass(frozen=True)
class ExitReport:
    """How a candidate ended. `ended_by` is itself, request, wall limit or not started, which the log then explains;
    `leftovers` counts what had to be killed; `layers` names the layers of the sandbox that it really was behind."""

    exit_code: int | None
    signal: int | None
    ended_by: str
    processor_s: float
    peak_rss_mib: float
    leftovers: int
    layers: tuple[str, ...] = ()

    @property
    def started(self) -> bool:
        """False when our own part failed before the candidate's began."""
        return self.ended_by != "not started"

    @classmethod
    def from_report(cls, line: str) -> ExitReport:
        """Read the guardian's line; a dash is None."""
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
    """What to start: `orders` is the JSON argument of `module`, the runner or the probe, `env` what it sees beyond the
    usual, `user` whom it runs as if not as ourselves. `processes` limits the kernel's count of such a user's, with room
    for threads.
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
    module: str = "trainer.candidate.runner"


class GuardedProcess:
    """A candidate under its guardian. `log_fd` gives its output, `report_fd` becomes readable when it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], report: IO[bytes], log_fd: int) -> None:
        self._process = process
        self._report = report
        self.log_fd = log_fd

    @classmethod
    def start(cls, launch: Launch) -> GuardedProcess:
        """Start the guardian and hand it its orders; the candidate's process makes the folder itself."""
        own_root = can_own_root()
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
            wall_limit_s=launch.wall_limit_s,
            file_mib=launch.file_mib,
            processes=launch.processes,
        )
        process = subprocess.Popen(
            isolated_command("trainer.sandbox.guardian", str(os.getpid())),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log_write,
            env={GUARDIAN: str(launch.folder)},
            pass_fds=(log_write, *launch.keep_fds),
            start_new_session=True,
            cwd="/",
        )
        os.close(log_write)
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin as stdin:
            marshal.dump(dict(orders), stdin)
        os.set_blocking(log_read, False)
        return cls(process, process.stdout, log_read)

    @property
    def pid(self) -> int:
        """The guardian's process: root of the tree that is measured."""
        return self._process.pid

    @property
    def report_fd(self) -> int:
        """Readable as soon as the tree is dead and the ending known."""
        return self._report.fileno()

    def stop(self) -> None:
        """Ask the guardian to end everything; the ending follows on `report_fd`."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def ending(self) -> ExitReport | None:
        """Wait for the guardian's report; None if the guardian itself was killed before it could report."""
        line = self._report.read()
        self._process.wait()
        return ExitReport.from_report(line.decode()) if line else None

    def close(self) -> None:
        """End what may still run and release the descriptors; a guardian that does not answer is killed."""
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
    """Whether a candidate gets a root of its own. Tried, since every kernel and container has rules of its own; first
    by the worker, so that its forks know."""
    tried = isolated_command("trainer.sandbox.private_root")
    return subprocess.run(tried, check=False, stderr=subprocess.DEVNULL, cwd="/", env={}).returncode == 0


def isolated_command(module: str, *arguments: str) -> list[str]:
    """The command line of a small process of ours: no site, nothing imported but what it names."""
    return [sys.executable, "-I", "-S", "-c", _BOOT.format(module=module), ROOT, *arguments]


def environment(folder: Path, *, emptied: bool = False) -> dict[str, str]:
    """All that a candidate inherits; no cache is shared between trials, since it would carry code and weights.

    A folder whose path is too long for sockets below it would break every DataLoader with workers: temporary files are
    made in shared memory then, if that is `emptied` after each candidate.
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
