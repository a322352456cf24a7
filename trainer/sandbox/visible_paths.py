"""The paths that a candidate may use: it reads the system, the interpreter and its data, and it uses the GPU.

The list allows; all other paths stay closed, including home folders and the programs of other users. The guardian adds
the work folder. Does not cover the meaning of rights; see `trainer.sandbox.landlock`.
"""

from __future__ import annotations

import json
import os
import site
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainer.sandbox.landlock import ALL, LIST, READ, USE
from trainer.sandbox.private_root import OWN_PROCESS

Grant = tuple[str, int]


@dataclass(frozen=True)
class Access:
    """What the trials of a user's own script may use beside their data: readable paths, and variables of theirs."""

    readable: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def grants(self) -> list[Grant]:
        """The paths with the right to read them."""
        return [(path, READ) for path in self.readable]

    def to_json(self) -> bytes:
        """Return the content of the file that keeps it."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Access:
        """Parse the content of that file. Raise ValueError, KeyError or TypeError for another content."""
        values = json.loads(raw)
        return cls(
            tuple(map(str, values["readable"])), {str(key): str(to) for key, to in values["environment"].items()}
        )


_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/proc", "/sys")
# only these files of /etc: a candidate that runs as root could read secrets in others
_SETTINGS = (
    "alternatives", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "nsswitch.conf", "passwd",
)  # fmt: skip
_DEVICES = ("full", "null", "random", "urandom", "zero")
_PACKAGES = ("site-packages", "dist-packages")
_ROOT = Path(__file__).resolve().parents[2]
PRIVATE = "private"


def grants(data: Path | None, devices: Path = Path("/dev")) -> list[Grant]:
    """Return the paths and rights of a candidate that trains on a data folder, or on none. Its subfolder `private`
    stays closed."""
    read = [*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS), *_interpreter(), str(_ROOT / "trainer")]
    entries = data.absolute().iterdir() if data is not None and data.is_dir() else ()
    read += [str(entry) for entry in entries if entry.name != PRIVATE]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""  # as in a dry-run worker, which uses no GPU
    gpus = [] if hidden else sorted(str(node) for node in devices.glob("nvidia*"))
    found = [(path, READ) for path in dict.fromkeys(read)]
    found += [(str(_ROOT), LIST), (str(devices / "shm"), ALL)]
    found += [(str(devices / name), USE) for name in _DEVICES]
    found += [(node, USE | READ) for node in gpus]
    if gpus:
        found.append((OWN_PROCESS, USE | READ))  # CUDA writes thread names there, and fails without that right
    return found


def _interpreter() -> list[str]:
    """Return the folders of Python, its packages (also of a virtual environment's base) and the driver's libraries."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    started = Path(sys.executable)
    paths = [
        sys.prefix,
        sys.base_prefix,
        *site.getsitepackages(),
        started.parent,
        started.resolve().parent,
        *libraries,
    ]
    paths += [entry for entry in sys.path if Path(entry).name in _PACKAGES]  # a .pth file may name further folders
    return [str(place) for place in paths if str(place)]
