"""What a candidate may see of the file system: the system and the interpreter to read, its data to read, its own to
write, the GPU to use. The work folder is the guardian's to add.

An allow-list: what nobody named stays closed, homes and other people's programs included. Does not cover what the
candidate's user may do with what is granted; see `trainer.sandbox.landlock`.
"""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from trainer.sandbox.landlock import ALL, LIST, READ, USE
from trainer.sandbox.private_root import OWN_PROCESS

Grant = tuple[str, int]

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/proc", "/sys")
# of /etc no more: root could read its secrets
_SETTINGS = (
    "alternatives", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "nsswitch.conf", "passwd",
)  # fmt: skip
_DEVICES = ("full", "null", "random", "urandom", "zero")
_PACKAGES = ("site-packages", "dist-packages")
_ROOT = Path(__file__).resolve().parents[2]
PRIVATE = "private"


def grants(data: Path, devices: Path = Path("/dev")) -> list[Grant]:
    """For a candidate that trains on the data in a folder, all of it but what lies in `private`."""
    read = [*_SYSTEM, *(f"/etc/{name}" for name in _SETTINGS), *_interpreter(), str(_ROOT / "trainer")]
    entries = data.absolute().iterdir() if data.is_dir() else ()
    read += [str(entry) for entry in entries if entry.name != PRIVATE]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""  # as a checker has it: what is no candidate's to use
    cards = [] if hidden else sorted(str(node) for node in devices.glob("nvidia*"))
    found = [(path, READ) for path in dict.fromkeys(read)]
    found += [(str(_ROOT), LIST), (str(devices / "shm"), ALL)]
    found += [(str(devices / name), USE) for name in _DEVICES]
    found += [(card, USE | READ) for card in cards]
    if cards:
        found.append((OWN_PROCESS, USE | READ))  # CUDA names its threads there, and fails where it cannot
    return found


def _interpreter() -> list[str]:
    """Where Python and its packages lie, a virtual environment's and its maker's; and the driver's libraries."""
    libraries = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    started = Path(sys.executable)
    places = [
        sys.prefix,
        sys.base_prefix,
        *site.getsitepackages(),
        started.parent,
        started.resolve().parent,
        *libraries,
    ]
    places += [entry for entry in sys.path if Path(entry).name in _PACKAGES]  # a .pth file names others' too
    return [str(place) for place in places if str(place)]
