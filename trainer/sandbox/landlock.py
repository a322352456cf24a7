"""Restricts a candidate's file access with Landlock. Neither the candidate nor its descendants can lift it.

Promises: outside the granted paths, files can be neither opened nor created nor removed. With ABI 6 of the kernel, no
signal and no abstract socket reaches a process outside the sandbox either. An older ABI covers less, a kernel without
Landlock nothing; `abi` returns the version. Does not cover: files that are open already; `stat`; `chmod` of visible
files; Unix sockets in the file system.

Standard library only, and little of it, because the guardian imports this module.
"""

from __future__ import annotations

import ctypes
import os
import stat

from trainer.sandbox.syscalls import KernelRefused

# system calls; the numbers are the same on every architecture
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_LIBC = ctypes.CDLL(None, use_errno=True)  # opened once, because opening takes longer than the calls
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL
_FIRST = (1 << 13) - 1  # all rights of the first version
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


class _Beneath(ctypes.Structure):  # the kernel reads its first 12 bytes; the padding behind them does not count
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def abi() -> int:
    """Return the version of Landlock, or 0 if the kernel lacks Landlock or a container forbids the call."""
    version = _LIBC.syscall(ctypes.c_long(_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(_ASK_VERSION))
    return max(int(version), 0)


def prepare(grants: list[tuple[str, int]]) -> tuple[int | None, list[tuple[str, int]]]:
    """Create a ruleset, and return its descriptor, or None without Landlock, and the grants of paths that this process
    may not open. Raise KernelRefused.

    `grants` are paths with LIST, READ, USE or ALL, which hold for everything below. A path that does not exist is
    ignored. `confine` applies the ruleset.
    """
    version, closed = abi(), list[tuple[str, int]]()
    if version == 0:
        return None, closed
    rules = _Ruleset(_known_rights(), _TCP if version >= _TCP_SINCE else 0, _SCOPES if version >= _SCOPES_SINCE else 0)
    size = 8 * (1 + (version >= _TCP_SINCE) + (version >= _SCOPES_SINCE))
    ruleset = _call(_CREATE, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint(0))
    for path, rights in grants:
        try:
            grant(ruleset, path, rights)
        except PermissionError:
            closed.append((path, rights))
    return ruleset, closed


def confine(ruleset: int) -> None:
    """Apply a ruleset to this process for good, after new privileges were forbidden. Raise KernelRefused."""
    _call(_RESTRICT, ctypes.c_int(ruleset), ctypes.c_uint(0))
    os.close(ruleset)


def grant(ruleset: int, path: str, rights: int) -> None:
    """Grant rights on everything below a path. Ignore a path that does not exist."""
    rights &= _known_rights()
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _OF_FILES
        rule = _Beneath(rights, place)
        _call(_ADD, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), ctypes.byref(rule), ctypes.c_uint(0))
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
