"""The supervisor's side of the guardian: start a candidate under it, stop it, learn how it ended, sweep what is left.

Promises: a candidate gets a work folder of its own and an environment of ours; `Guarded.stop` and the death of this
process both end its whole tree. Sweeping ends only processes whose environment names the given work folder.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

from trainer.usage import carriers

MARKER = "OVERNIGHT_WORK"
GUARDIAN = "OVERNIGHT_GUARDIAN"
_ROOT = str(Path(__file__).resolve().parent.parent)
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from trainer.{module} import main; main()"
_PASSED_ON = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "LD_LIBRARY_PATH")
_PIPE_BYTES = 2**20
_SWEEP_S = 5.0
_GUARDIAN_S = 12.0


LAYERS = ("clean-environment", "closed-descriptors", "own-session", "parent-death-signal", "subreaper", "rlimits")


class Orders(TypedDict):
    """What the guardian is told on its stdin, in marshal's format: both ends are the same interpreter, and json would
    cost the guardian 25 ms of start. `keep_fds` stay open in the candidate."""

    folder: str
    files: dict[str, str]
    argv: list[str]
    env: dict[str, str]
    log_fd: int
    keep_fds: list[int]
    wall_limit_s: float
    file_mib: int


@dataclass(frozen=True)
class Ending:
    """How a candidate ended. `ended_by` is itself, request or wall limit; `leftovers` counts what had to be killed."""

    exit_code: int | None
    signal: int | None
    ended_by: str
    processor_s: float
    peak_rss_mib: float
    leftovers: int

    @classmethod
    def from_report(cls, line: str) -> Ending:
        """Read the guardian's line; a dash is None."""
        exit_code, number, processor_s, peak_rss_mib, leftovers, ended_by = line.strip().split(" ", 5)
        return cls(
            exit_code=None if exit_code == "-" else int(exit_code),
            signal=None if number == "-" else int(number),
            ended_by=ended_by,
            processor_s=float(processor_s),
            peak_rss_mib=float(peak_rss_mib),
            leftovers=int(leftovers),
        )


@dataclass(frozen=True)
class Launch:
    """What to start: `orders` is the runner's JSON argument, `env` what the candidate sees beyond the usual."""

    folder: Path
    files: dict[str, str]
    orders: str
    env: dict[str, str]
    keep_fds: tuple[int, ...]
    wall_limit_s: float
    file_mib: int


class Guarded:
    """A candidate under its guardian. `log_fd` gives its output, `report_fd` becomes readable when it has ended."""

    def __init__(self, process: subprocess.Popen[bytes], report: IO[bytes], log_fd: int) -> None:
        self._process = process
        self._report = report
        self.log_fd = log_fd

    @classmethod
    def start(cls, launch: Launch) -> Guarded:
        """Make the folder, start the guardian, hand it its orders."""
        for name in ("subject", "home", "tmp", "cache"):
            (launch.folder / name).mkdir(parents=True)
        log_read, log_write = os.pipe()
        fcntl.fcntl(log_write, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        orders = Orders(
            folder=str(launch.folder / "subject"),
            files=launch.files,
            argv=[sys.executable, "-s", "-P", "-c", _BOOT.format(module="runner"), _ROOT, launch.orders],
            env=_environment(launch.folder) | launch.env,
            log_fd=log_write,
            keep_fds=list(launch.keep_fds),
            wall_limit_s=launch.wall_limit_s,
            file_mib=launch.file_mib,
        )
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BOOT.format(module="guardian"), _ROOT, str(os.getpid())],
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

    def ending(self) -> Ending | None:
        """Wait for the guardian's report; None if the guardian itself was killed before it could report."""
        line = self._report.read()
        self._process.wait()
        return Ending.from_report(line.decode()) if line else None

    def close(self, folder: Path) -> None:
        """End what may still run and release the descriptors; a guardian that does not answer is killed and swept."""
        self.stop()
        try:
            self._process.wait(_SWEEP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.returncode != 0:
            end_carriers(folder)
        self._report.close()
        os.close(self.log_fd)


def sweep(work: Path) -> int:
    """End what a killed worker left running below `work` and wipe its folders; the number of processes ended.

    Only processes whose environment names a folder below `work` are touched.
    """
    ended = end_carriers(work)
    for folder in work.iterdir() if work.is_dir() else ():
        if folder.is_dir() and not folder.is_symlink():
            wipe(folder)
    return ended


def end_carriers(folder: Path) -> int:
    """End every process that carries a marker at or below `folder`; their number.

    Guardians are asked first and given time: only they can find a descendant that wiped its environment.
    """
    guardians = _marked(GUARDIAN, folder)
    _send(guardians, signal.SIGTERM)
    give_up = time.monotonic() + _GUARDIAN_S
    while _marked(GUARDIAN, folder) and time.monotonic() < give_up:
        time.sleep(0.005)
    ended = set(guardians)
    give_up = time.monotonic() + _SWEEP_S
    while (found := _marked(MARKER, folder) + _marked(GUARDIAN, folder)) and time.monotonic() < give_up:
        _send(found, signal.SIGKILL)
        ended.update(found)
        time.sleep(0.005)
    return len(ended)


def wipe(folder: Path) -> None:
    """Remove a work folder, also where the candidate took away its own right to."""
    if not folder.exists():
        return
    try:
        shutil.rmtree(folder)
    except PermissionError:
        for parent, names, _ in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(folder)


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _marked(name: str, folder: Path) -> list[int]:
    """A zombie's environment reads empty, so what is found still runs."""
    value = f"{name}={folder}".encode()
    return carriers([value + b"\0", value + b"/"])


def _environment(folder: Path) -> dict[str, str]:
    """All that a candidate inherits; no cache is shared between trials, since it would carry code and weights."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    cache = folder / "cache"
    return passed | {
        MARKER: str(folder),
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "XDG_CACHE_HOME": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "CUDA_CACHE_PATH": str(cache / "cuda"),
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
