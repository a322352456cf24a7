"""A /dev/shm of a candidate's own: of a bounded size, seen by nobody else, gone with its last process.

Best effort: root needs the right to mount, which containers lack (theirs has a size, and the sweeper empties it);
others need a kernel that lets them make a user namespace. Elsewhere what is left there is left to the next candidate.

Standard library only, and little of it: the guardian imports it.
"""

from __future__ import annotations

import ctypes
import os
import sys

from trainer.linux import KernelRefused

_PLACE, _OPTIONS = b"/dev/shm", b"size=2g,mode=1777"
_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_NO_SETUID, _NO_DEVICES, _RECURSIVE, _SLAVE = 1 << 1, 1 << 2, 1 << 14, 1 << 19


def main() -> None:
    """Can a process that this one starts have it? Exits 1 if not."""
    try:
        own_shared_memory()
    except OSError as refusal:
        sys.exit(str(refusal))


def own_shared_memory() -> None:
    """From here on this process and what it starts have their own. To be called before any right is given up."""
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", ctypes.c_int(_NEW_MOUNTS if uid == 0 else _NEW_MOUNTS | _NEW_USER))
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            file = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(file, text.encode())
            os.close(file)
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_RECURSIVE | _SLAVE), None)  # else the machine sees it too
    _call("mount", b"tmpfs", _PLACE, b"tmpfs", ctypes.c_ulong(_NO_SETUID | _NO_DEVICES), _OPTIONS)


def _call(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"{name}: {os.strerror(number)}")
