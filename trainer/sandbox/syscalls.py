"""The few Linux calls that Python does not offer: parent-death signal, subreaper, a closed process, memory files that
cannot shrink; and changing to another user for good.

Standard library only: the guardian imports it before anything else runs.
"""

from __future__ import annotations

import ctypes
import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION_3 = 0x20080522


class KernelRefused(OSError):
    """A kernel call that a layer depends on failed; the message names it."""


def die_with_parent(send: signal.Signals, parent: int) -> None:
    """Have the kernel send `send` to this process when the thread that forked it ends; exit if it is gone already.

    A uid change clears this, so it must be set again after one.
    """
    _prctl(_PR_SET_PDEATHSIG, send)
    if os.getppid() != parent:
        os._exit(1)


def become_subreaper() -> None:
    """Make every orphaned descendant a child of this process, whatever session or group it moved to."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def become_undumpable() -> None:
    """No process of this user may look into this one: not at its memory, its environment, its descriptors. Forks stay
    so; a program that is started does not."""
    _prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """No program that this process or a descendant starts gains a right by being started, for good."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become(uid: int, gid: int) -> None:
    """Take another user for good, with no group but `gid`; every capability goes with uid 0."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Root becomes a user like any other for good: with new privileges forbidden, no program gives them back."""
    nothing = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"capset: {os.strerror(number)}")


def sealed_memory(name: str, size_bytes: int) -> int:
    """A memory file of fixed size: a peer that shrank it would kill its reader with SIGBUS; the kernel forbids it."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def growing_memory(name: str) -> int:
    """A memory file that its writer makes as large as it needs, up to the limit of its files."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def freeze_memory(fd: int) -> None:
    """Nobody changes it from now on; OSError while somebody has it mapped for writing."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def frozen_copy(fd: int, name: str) -> int:
    """A new memory file with the same content, open for reading alone, that nobody can change; nothing else of the old
    one comes along: no offset, no attribute, no lock, no time."""
    copy = growing_memory(name)
    try:
        size, done = os.fstat(fd).st_size, 0
        while done < size and (sent := os.sendfile(copy, fd, done, size - done)):
            done += sent
        freeze_memory(copy)
        return os.open(f"/proc/self/fd/{copy}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(copy)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) != 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"prctl({option}, {value}): {os.strerror(number)}")
