"""Linux calls that Python lacks: the parent-death signal, subreaper, undumpable processes, sealed memory files, and a
permanent change of user.

Standard library only, because the guardian imports this module before any other code runs.
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
    """Raised when a kernel call fails that a layer depends on. The message names the call."""


def die_with_parent(send: signal.Signals, parent: int) -> None:
    """Have the kernel signal this process when the thread that forked it ends; exit if the parent is gone already.

    A change of uid clears the setting, so set it again afterwards.
    """
    _prctl(_PR_SET_PDEATHSIG, send)
    if os.getppid() != parent:
        os._exit(1)


def become_subreaper() -> None:
    """Make every orphaned descendant a child of this process, also from another session or process group."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def become_undumpable() -> None:
    """Close this process's memory, environment and descriptors to other processes of the user.

    Forks inherit the setting; a started program does not.
    """
    _prctl(_PR_SET_DUMPABLE, 0)


def forbid_new_privileges() -> None:
    """Forbid for good that a program started by this process or a descendant gains rights."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def become(uid: int, gid: int) -> None:
    """Become another user for good, with the group `gid` alone. All capabilities are lost with uid 0."""
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def drop_capabilities() -> None:
    """Drop all capabilities. With new privileges forbidden, no program gives them back."""
    nothing = (ctypes.c_uint32 * 6)()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"capset: {os.strerror(number)}")


def sealed_memory(name: str, size_bytes: int) -> int:
    """Create a memory file of a fixed size in bytes. The seal stops a peer from shrinking it, which would kill a reader
    with SIGBUS.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size_bytes)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def growing_memory(name: str) -> int:
    """Create a memory file that its writer may enlarge up to its file size limit."""
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


def freeze_memory(fd: int) -> None:
    """Forbid all changes of a memory file. Raise OSError while a process has it mapped for writing."""
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)


def frozen_copy(fd: int, name: str) -> int:
    """Return a copy of a memory file that no process can change, open for reading only.

    The copy shares only the content with the original: no offset, attribute, lock or time.
    """
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
