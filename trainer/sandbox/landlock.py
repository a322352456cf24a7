"""What of the file system a candidate may see, as one wall that it and its descendants cannot take down.

Promises: files outside what is granted can be neither opened nor made nor removed; where the kernel can (ABI 6), no
signal and no abstract socket reaches a process outside either. Best effort by the kernel's ABI: an older one covers
less, none at all covers nothing, and `abi` says which. Does not cover what is open already, `stat`, `chmod` of what is
seen, and unix sockets that lie in the file system.

Standard library only, and little of it: the guardian imports it.
"""

from __future__ import annotations

import ctypes
import os
import stat

from trainer.sandbox.syscalls import KernelRefused

# the same numbers on every architecture
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_LIBC = ctypes.CDLL(None, use_errno=True)  # once: to open it for every path takes longer than the calls
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_FIRST = (1 << 13) - 1  # all that the first version knows
_ADDED = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL}
_TCP_SINCE, _TCP = 4, 0b11
_SCOPES_SINCE, _SCOPES = 6, 0b11  # abstract sockets, signals

LIST, READ, USE, ALL = (
    _READ_DIR,
    _READ_FILE | _READ_DIR | _EXECUTE,
    _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL,  # a device
    _FIRST | _REFER | _TRUNCATE | _IOCTL,
)


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """The kernel's version of Landlock; 0 where it has none, or a container does not let us ask."""
    version = _LIBC.syscall(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(_ASK_VERSION))
    return max(int(version), 0)


def prepare(grants: list[tuple[str, int]]) -> int | None:
    """The wall, not yet around anybody: a descriptor, or None where the kernel has no Landlock.

    `grants` are paths with LIST, READ, USE or ALL, for all that lies beneath; one that does not exist is passed over.
    To be made by a process that may open the paths. Raises KernelRefused.
    """
    version = abi()
    if version == 0:
        return None
    rules = _Ruleset(_known_rights(), _TCP if version >= _TCP_SINCE else 0, _SCOPES if version >= _SCOPES_SINCE else 0)
    size = 8 * (1 + (version >= _TCP_SINCE) + (version >= _SCOPES_SINCE))
    wall = _call(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint(0))
    for path, rights in grants:
        grant(wall, path, rights)
    return wall


def confine(wall: int) -> None:
    """Put it around this process for good; it must have given up new privileges. Raises KernelRefused."""
    _call(_RESTRICT, ctypes.c_int(wall), ctypes.c_uint(0))
    os.close(wall)


def grant(wall: int, path: str, rights: int) -> None:
    """All that lies beneath `path`; nothing where it does not exist."""
    rights &= _known_rights()
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        rule = _Beneath(rights, place)
        _call(_ADD, ctypes.c_int(wall), ctypes.c_int(_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint(0))
    finally:
        os.close(place)


def _known_rights() -> int:
    return _FIRST | sum(right for since, right in _ADDED.items() if abi() >= since)


def _call(number: int, *arguments: object) -> int:
    answer = _LIBC.syscall(ctypes.c_long(number), *arguments)
    if answer < 0:
        error = ctypes.get_errno()
        raise KernelRefused(error, f"Landlock, call {number}: {os.strerror(error)}")
    return int(answer)
