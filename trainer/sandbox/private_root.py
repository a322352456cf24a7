"""Gives a candidate a root folder of its own, which holds only the granted paths and is read-only.

The work folder stays writable. So does /dev/shm, which is limited in size, private, and gone with its last process.
Promises: after `own_root`, no file outside these two can be changed in content, mode, attributes or times (the kernel
does not record access times either), and no other path exists. Best effort: root needs the right to mount, which
containers lack (their root is already read-only); other users need a kernel that allows user namespaces; both need
Linux 5.12. `launch` tries it, and the reported layers show the result.

Standard library only, and little of it, because the guardian imports this module.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import sys

from trainer.sandbox.landlock import LIST, READ
from trainer.sandbox.syscalls import KernelRefused

OWN_PROCESS = "/proc/self/task"  # for CUDA, which writes names of threads of the candidate's own process
_LIBC = ctypes.CDLL(None, use_errno=True)  # opened once, because opening takes longer than the calls
_SHARED_MEMORY, _SHARED_OPTIONS = "/dev/shm", b"size=2g,mode=1777"
_ROOT_OPTIONS = b"size=1m,mode=755"  # folders, links and empty files
_DEVICE_LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
}
_MOST_LINKS = 40  # the kernel's limit

_NEW_MOUNTS, _NEW_USER = 0x20000, 0x10000000
_NO_SETUID, _NO_DEVICES, _RECURSIVE, _SLAVE = 1 << 1, 1 << 2, 1 << 14, 1 << 19
_DETACH = 2
# system calls; new ones have the same number on every architecture, pivot_root is older
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR, _PIVOT_ROOT = 428, 429, 442, {"x86_64": 155, "aarch64": 41}
_HERE, _OF_TREE, _CLONE, _CLOSE_ON_EXEC = -100, 0x8000, 1, 0o2000000
_FROM_DESCRIPTOR = 4
_READ_ONLY = 1


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("set", ctypes.c_uint64),
        ("clear", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("user_namespace", ctypes.c_uint64),
    )


def main() -> None:
    """Try `own_root` in this process. Exit with code 1 and the reason if it fails."""
    try:
        own_root([(place, READ) for place in ("/usr", "/proc", "/sys", "/dev/null")], "/tmp")
    except OSError as refusal:
        sys.exit(str(refusal))


def own_root(grants: list[tuple[str, int]], folder: str) -> None:
    """Give this process and its descendants a root with nothing but the granted paths, as in Landlock's rules.

    The existing `folder` stays writable. Call this before giving up any right. Afterwards the new root is the current
    folder. Raise OSError.
    """
    _own_mounts()
    links: dict[str, str] = {}
    work = _followed(folder, links)
    own = [_followed(path, links) for path, _ in grants if path == OWN_PROCESS]
    seen = [path for path, rights in grants if rights != LIST and path not in (OWN_PROCESS, _SHARED_MEMORY)]
    listed = [path for path, rights in grants if rights == LIST]
    places = _outermost(_existing(seen, links))
    folders = [*_existing(listed, links), _SHARED_MEMORY, work]
    trees = {place: _tree(place) for place in [*places, *own, work]}
    # The new root is built on the work folder, whose content `trees` already holds.
    _call("mount", b"tmpfs", work.encode(), b"tmpfs", ctypes.c_ulong(_NO_SETUID | _NO_DEVICES), _ROOT_OPTIONS)
    for place in places:
        _make_place(work, place)
        _attach(trees[place], work + place)
    for path in folders:
        os.makedirs(work + path, exist_ok=True)
    for path, target in {**links, **_DEVICE_LINKS}.items():
        if not any(_lies_in(path, place) for place in places):
            os.makedirs(work + os.path.dirname(path), exist_ok=True)
            os.symlink(target, work + path)
    _make_read_only(work)
    shared = (work + _SHARED_MEMORY).encode()
    _call("mount", b"tmpfs", shared, b"tmpfs", ctypes.c_ulong(_NO_SETUID | _NO_DEVICES), _SHARED_OPTIONS)
    for place in [*own, work]:
        _attach(trees[place], work + place)
    for tree in trees.values():
        os.close(tree)
    os.chdir(work)
    _system_call(_PIVOT_ROOT[os.uname().machine], b".", b".")
    _call("umount2", b".", ctypes.c_int(_DETACH))  # the old root, which is now mounted on the new one
    os.chdir("/")


def _own_mounts() -> None:
    uid, gid = os.geteuid(), os.getegid()
    _call("unshare", ctypes.c_int(_NEW_MOUNTS if uid == 0 else _NEW_MOUNTS | _NEW_USER))
    if uid != 0:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            file = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(file, text.encode())
            os.close(file)
    _call("mount", b"none", b"/", None, ctypes.c_ulong(_RECURSIVE | _SLAVE), None)  # keep our mounts out of the host's


def _existing(paths: list[str], links: dict[str, str]) -> list[str]:
    """Return the resolved paths that exist. Add the links on the way to `links`."""
    places = []
    for path in paths:
        found: dict[str, str] = {}
        try:
            places.append(_followed(path, found))
        except FileNotFoundError:
            continue
        links.update(found)
    return places


def _outermost(places: list[str]) -> list[str]:
    """Return the places that lie in no other one."""
    outermost: list[str] = []
    for place in sorted(set(places), key=len):
        if not any(_lies_in(place, outer) for outer in outermost):
            outermost.append(place)
    return outermost


def _lies_in(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place.rstrip('/')}/")


def _followed(path: str, links: dict[str, str]) -> str:
    """Return a resolved path, and add the links on the way to `links`. Raise OSError."""
    waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    place = ""
    while waiting:
        part = waiting.pop()
        if part == "..":
            place = os.path.dirname(place).rstrip("/")
            continue
        place = f"{place}/{part}"
        if not stat.S_ISLNK(os.lstat(place).st_mode):
            continue
        if len(links) >= _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
        links[place] = target = os.readlink(place)
        waiting += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        place = "" if target.startswith("/") else os.path.dirname(place).rstrip("/")
    return place or "/"


def _tree(place: str) -> int:
    """Return a descriptor of a detached copy of all mounts at and below a place."""
    flags = _CLONE | _CLOSE_ON_EXEC | _OF_TREE
    return _system_call(_OPEN_TREE, ctypes.c_int(_HERE), place.encode(), ctypes.c_uint(flags))


def _make_place(root: str, place: str) -> None:
    """Create a folder or an empty file below `root` as the mount point of a place."""
    if os.path.isdir(place):
        os.makedirs(root + place, exist_ok=True)
        return
    os.makedirs(root + os.path.dirname(place), exist_ok=True)
    os.close(os.open(root + place, os.O_CREAT | os.O_RDONLY, 0o444))


def _attach(tree: int, path: str) -> None:
    nowhere = ctypes.c_int(_HERE)
    _system_call(_MOVE_MOUNT, ctypes.c_int(tree), b"", nowhere, path.encode(), ctypes.c_uint(_FROM_DESCRIPTOR))


def _make_read_only(root: str) -> None:
    """Make all present mounts at and below `root` read-only."""
    wanted = _Attributes(_READ_ONLY, 0, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    _system_call(
        _MOUNT_SETATTR, ctypes.c_int(_HERE), root.encode(), ctypes.c_uint(_OF_TREE), ctypes.byref(wanted), size
    )


def _system_call(number: int, *arguments: object) -> int:
    return _checked(f"call {number}", _LIBC.syscall(ctypes.c_long(number), *arguments))


def _call(name: str, *arguments: object) -> None:
    _checked(name, getattr(_LIBC, name)(*arguments))


def _checked(name: str, answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"{name}: {os.strerror(number)}")
    return int(answer)
