"""Put before a train.py: what a candidate can do in its container, as one line of JSON in its log.

Each attempt says "done" or the error that stopped it. It is the candidate's own view, so it needs no trust: what it
leaves out it could not do.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

OUTSIDE = (
    "192.0.2.1",
    80,
)  # an address that is nobody's: where there is a route this hangs, elsewhere it fails at once


def attempt(act: Callable[[], object]) -> str:
    try:
        act()
    except socket.gaierror:
        return "gaierror"
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    return "done"


def connect(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=3):
        pass


def environments() -> list[str]:
    """Processes of others whose environment can be read."""
    return [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/environ")
        if path.stat().st_uid != os.getuid() and attempt(path.read_bytes) == "done"
    ]


def writable() -> list[str]:
    """Folders in which a file can be made; below one that can, nothing more is looked for."""
    found = []
    waiting = ["/", "/tmp", "/var/tmp", "/dev", "/dev/shm", "/dev/mqueue", "/etc", "/home", "/mnt", "/opt", "/root"]
    waiting += [
        "/run",
        "/run/lock",
        "/run/overnight",
        "/run/secrets",
        "/state",
        "/state/data",
        "/usr",
        "/var",
        os.getcwd(),
    ]
    seen = set(waiting)
    while waiting:
        made = Path(waiting.pop(), "made")
        if attempt(made.touch) == "done":
            made.unlink()
            found.append(str(made.parent))
        else:
            new = folders_in(made.parent) - seen
            waiting += new
            seen |= new
    return sorted(found)


def folders_in(folder: Path) -> set[str]:
    """Those that can be seen, without the kernel's own."""
    try:
        with os.scandir(folder) as entries:
            return {entry.path for entry in entries if entry.is_dir(follow_symlinks=False)} - {"/proc", "/sys"}
    except OSError:
        return set()


def shared() -> None:
    """A file that a later candidate would find."""
    for folder in ("/tmp", "/dev/shm", "/dev/mqueue"):
        attempt(Path(folder, "left-behind").touch)


def leave() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")


status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
shared()
report = {
    "uid": os.getresuid(),
    "groups": os.getgroups(),
    "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16),
    "no_new_privileges": status["NoNewPrivs"],
    "seccomp": status["Seccomp"],
    "environment": sorted(os.environ),
    "environments": environments(),
    "writable": writable(),
    "attempts": {
        "outside": attempt(lambda: connect(OUTSIDE)),
        "name server": attempt(lambda: socket.getaddrinfo("example.org", 80)),
        "redis by its name": attempt(lambda: connect(("redis", 6379))),
        "datagram": attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()),
        "netlink": attempt(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close()),
        "password": attempt(Path("/run/secrets/overnight/password").read_bytes),
        "validation data": attempt(lambda: list(Path("/state/data/private").iterdir())),
        "another's result": attempt(lambda: list(Path("/state/trials").iterdir())),
        "write data": attempt(lambda: Path("/state/data/x").touch()),
        "write results": attempt(lambda: Path("/state/trials/x").touch()),
        "write code": attempt(lambda: Path("/opt/overnight/trainer/x").touch()),
        "write root": attempt(lambda: Path("/x").touch()),
        "write beside work": attempt(lambda: Path("/run/overnight/x").touch()),
        "become root": attempt(lambda: os.setuid(0)),
        "signal the worker": attempt(lambda: os.kill(os.getppid(), 0)),
        "signal the first process": attempt(lambda: os.kill(1, signal.SIGKILL)),
        "user namespace": attempt(leave),
        "another program": attempt(lambda: subprocess.run(["true"], check=True)),
    },
}
print("ATTACK", json.dumps(report), flush=True)
