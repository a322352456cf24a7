"""Refuses system calls to a candidate, with one filter that neither the candidate nor its descendants can remove.

Promises: no sockets except of the family AF_UNIX; no io_uring, which could create sockets past the filter; no
namespaces; no access to other processes; no kernel objects that outlive the candidate; no file attributes; no query for
the files in memory. A refused call fails with an ordinary error. The exception is a handler for SIGCHLD, which is
accepted and not installed: its flags, in memory that no filter can read, could order the kernel to reap children unseen
and lose their processor seconds. As a consequence, dash never returns from `wait` for a background job. Does not cover:
files, modes and times; memory; signals to the candidate's own processes; Unix sockets with open modes in the file
system.

Standard library only, because the guardian imports this module.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from trainer.sandbox.refused_calls import REFUSED
from trainer.sandbox.syscalls import KernelRefused

# offsets in struct seccomp_data; of an argument only the lower half, which is all that these calls read
_NUMBER, _MACHINE, _ARGUMENT, _SECOND, _THIRD, _SIXTH = 0, 4, 16, 24, 32, 56

_SOCKETS = {"socket": (41, 198), "socketpair": (53, 199)}
_SIGNALS = {  # their first argument is a pid, or a negative process group
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
}
_SCHEDULING = {  # same argument; nothing else keeps these from all processes of the uid
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_EVERYBODY = 0xFFFFFFFF  # kill(-1)
_BY_ARGUMENT = {  # name: numbers, which argument, values that are refused
    "fcntl": (
        (72, 25),
        _SECOND,
        [
            *(8, 15),  # F_SETOWN, F_SETOWN_EX: the kernel then signals the new owner
            *(1024, 1026, 1040),  # F_SETLEASE, F_NOTIFY, F_SETDELEG: delay or watch other processes
            *(1036, 1038),  # F_SET_RW_HINT, F_SET_FILE_RW_HINT: a note on a file that stays
        ],
    ),
    "ioctl": (
        (16, 29),
        _SECOND,
        [
            *(0x8901, 0x8902),  # FIOSETOWN, SIOCSPGRP: set an owner
            *(0x40086602, 0x40046602, 0x401C5820, 0x40087602),  # set flags and version of a file: notes that stay
            *(0x40806685, 0x800C6613, 0xC0506617),  # fs-verity; a folder's encryption and its keys
        ],
    ),
    "madvise": ((28, 233), _THIRD, [20, 21]),  # MADV_COLD, MADV_PAGEOUT: drop pages of a file from memory
}
_BY_BIT = {  # name: numbers, which argument, the bit that is refused
    "preadv2": ((327, 286), _SIXTH, 8),  # RWF_NOWAIT: is this part of a file in memory?
    "seccomp": ((317, 277), _SECOND, 8),  # SECCOMP_FILTER_FLAG_NEW_LISTENER: answers calls of another process
}
_RT_SIGACTION, _SIGCHLD = (13, 134), 17
_SETPRIORITY = (141, 140)
_PRLIMIT64 = (302, 261)
_CLONE = (56, 220)
_SECCOMP = (317, 277)
_COLUMNS = {"x86_64": 0, "aarch64": 1}
_AUDIT_NAMES = (0xC000003E, 0xC00000B7)

_AF_UNIX = 1  # importing socket would cost the guardian milliseconds
_NEW_NAMESPACES = 0x7E020000  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET
_THREAD, _SHARED_FILES = 0x10000, 0x400  # CLONE_THREAD, CLONE_FILES
_X32 = 0x40000000
_SET_MODE_FILTER = 1
_SPEC_ALLOW = 4  # without it, kernels before 5.16 slow the candidate down, which lowers its score

_SECOND_UPPER = 28  # the upper half of the second argument, which is a pointer
_MOST_COMPARED = 250  # a jump in BPF skips 255 steps at most
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def confine(untouchable: list[int], schedules_only: int | None = None) -> None:
    """Apply the filter to this process for good, after new privileges were forbidden. Raise KernelRefused.

    `untouchable` are pids. The candidate can neither signal these processes and their groups nor change their
    scheduling. Under the same uid nothing else prevents this on kernels before 6.12. If `schedules_only` is a pid,
    cores and scheduling can be changed only for that process and the caller, since the user has other processes.
    """
    machine = os.uname().machine
    if machine not in _COLUMNS:
        raise KernelRefused(errno.ENOSYS, f"no system call filter for {machine}; candidates run on x86_64 and aarch64")
    steps = program(machine, untouchable, schedules_only)
    libc = ctypes.CDLL(None, use_errno=True)
    laid_out = _Program(len(steps) // 8, steps)
    number = ctypes.c_long(_SECCOMP[_COLUMNS[machine]])
    for flags in (_SPEC_ALLOW, 0):  # a kernel without the flag is not slowed down either
        if libc.syscall(number, ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(flags), ctypes.byref(laid_out)) == 0:
            return
    error = ctypes.get_errno()
    raise KernelRefused(
        error,
        f"seccomp: {os.strerror(error)}; candidates need a kernel with CONFIG_SECCOMP_FILTER, "
        "and a container that allows the call",
    )


def program(machine: str, untouchable: list[int], schedules_only: int | None = None) -> bytes:
    """Return the filter for an architecture, as a program in classic BPF."""
    column = _COLUMNS[machine]
    steps = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, _AUDIT_NAMES[column]), (_RETURN, 0, 0, _KILL_PROCESS)]
    steps += [(_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":  # the x32 calls have numbers of their own
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL_PROCESS)]
    for error, calls in REFUSED.items():
        for number in (numbers[column] for numbers in calls.values()):
            if number is not None:
                steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _FAIL | error)]
    for numbers in _SOCKETS.values():
        steps += _when(numbers[column], (_EQUAL, _AF_UNIX), _ALLOW, _FAIL | errno.EAFNOSUPPORT)
    steps += _without_handler(_RT_SIGACTION[column], _SIGCHLD)
    around = [_EVERYBODY, *untouchable, *(2**32 - pid for pid in untouchable)]
    for numbers in _SIGNALS.values():
        steps += _unless_among(numbers[column], around)
    for numbers in _SCHEDULING.values():
        own = [0, schedules_only] if schedules_only is not None else None
        steps += _only_among(numbers[column], own) if own else _unless_among(numbers[column], around)
    for numbers, argument, values in _BY_ARGUMENT.values():
        steps += _unless_among(numbers[column], values, argument)
    for numbers, argument, bit in _BY_BIT.values():
        steps += _when(numbers[column], (_ANY_BIT, bit), _FAIL | errno.EPERM, _ALLOW, argument)
    steps += _only_for_itself(_SETPRIORITY[column])
    steps += _when(_PRLIMIT64[column], (_EQUAL, 0), _ALLOW, _FAIL | errno.EPERM)
    steps += _shared_by_threads(_CLONE[column])
    steps += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _when(
    number: int, test: tuple[int, int], met: int, unmet: int, argument: int = _ARGUMENT
) -> list[tuple[int, int, int, int]]:
    """Return BPF steps for one call: return `met` or `unmet` by a test of an argument."""
    comparison, value = test
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, argument),
        (comparison, 0, 1, value),
        (_RETURN, 0, 0, met),
        (_RETURN, 0, 0, unmet),
    ]


def _unless_among(number: int, refused: list[int], argument: int = _ARGUMENT) -> list[tuple[int, int, int, int]]:
    """Return BPF steps for one call: EPERM if the argument is one of these. Raise KernelRefused for too many."""
    return _compared(number, refused, argument, met=_FAIL | errno.EPERM, unmet=_ALLOW)


def _only_among(number: int, allowed: list[int]) -> list[tuple[int, int, int, int]]:
    """Return BPF steps for one call: EPERM if the first argument is none of these."""
    return _compared(number, allowed, _ARGUMENT, met=_ALLOW, unmet=_FAIL | errno.EPERM)


def _compared(
    number: int, values: list[int], argument: int, *, met: int, unmet: int
) -> list[tuple[int, int, int, int]]:
    if len(values) > _MOST_COMPARED:
        raise KernelRefused(errno.E2BIG, f"{len(values)} processes to keep a candidate from; {_MOST_COMPARED} fit")
    compared = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [
        (_EQUAL, 0, len(compared) + 3, number),
        (_LOAD, 0, 0, argument),
        *compared,
        (_RETURN, 0, 0, unmet),
        (_RETURN, 0, 0, met),
    ]


def _without_handler(number: int, signal_number: int) -> list[tuple[int, int, int, int]]:
    """Return BPF steps for rt_sigaction: report success for a new handler of the signal without installing it.

    Programs give up if the call is refused. A query for the present handler, with a null second argument, is allowed.
    """
    return [
        (_EQUAL, 0, 8, number),
        (_LOAD, 0, 0, _ARGUMENT),
        (_EQUAL, 0, 5, signal_number),
        (_LOAD, 0, 0, _SECOND),
        (_EQUAL, 0, 2, 0),
        (_LOAD, 0, 0, _SECOND_UPPER),
        (_EQUAL, 1, 0, 0),
        (_RETURN, 0, 0, _FAIL | 0),
        (_RETURN, 0, 0, _ALLOW),
    ]


def _only_for_itself(number: int) -> list[tuple[int, int, int, int]]:
    """Return BPF steps for setpriority: allow only PRIO_PROCESS (0) of the calling process (0)."""
    return [
        (_EQUAL, 0, 6, number),
        (_LOAD, 0, 0, _ARGUMENT),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, _SECOND),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]


def _shared_by_threads(number: int) -> list[tuple[int, int, int, int]]:
    """Return BPF steps for clone: EPERM for a new namespace, and for a thread with descriptors of its own.

    The supervisor counts descriptors by process and would miss a thread's own.
    """
    return [
        (_EQUAL, 0, 6, number),
        (_LOAD, 0, 0, _ARGUMENT),
        (_ANY_BIT, 2, 0, _NEW_NAMESPACES),
        (_ANY_BIT, 0, 2, _THREAD),
        (_ANY_BIT, 1, 0, _SHARED_FILES),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
