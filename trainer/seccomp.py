"""The system calls that a candidate may not make, as one filter that it and its descendants cannot take off.

Promises: no socket but of the family AF_UNIX, no io_uring to make one behind the filter's back, no namespace, no look
into other processes, nothing that outlives them in the kernel. Refused calls fail as they do where the kernel lacks
them, but for one: a handler for ended children is accepted and never installed, because with it a process could order
the kernel, in memory where no filter reads it, to reap its children unseen, and their processor seconds with them.
Does not cover files, memory, signals, or unix sockets that lie open in the file system.

Standard library only: the guardian imports it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from trainer.linux import KernelRefused

# name: number on x86-64, on aarch64
_REFUSED = {
    errno.EPERM: {
        "ptrace": (101, 117),
        "process_vm_readv": (310, 270),
        "process_vm_writev": (311, 271),
        "pidfd_getfd": (438, 438),
        "unshare": (272, 97),
        "setns": (308, 268),
        "mount": (165, 40),
        "umount2": (166, 39),
        "bpf": (321, 280),
        "perf_event_open": (298, 241),
        "keyctl": (250, 219),
        "add_key": (248, 217),
        "request_key": (249, 218),
        "shmget": (29, 194),  # System V memory and queues outlive their maker: a channel between two trials
        "msgget": (68, 186),
        "semget": (64, 190),
        "mq_open": (240, 180),
        "ioprio_set": (251, 30),
        "pidfd_send_signal": (424, 424),  # takes a process's folder in procfs too, which names no pid
    },
    errno.ENOSYS: {
        "io_uring_setup": (425, 425),
        "io_uring_enter": (426, 426),
        "io_uring_register": (427, 427),
        "clone3": (435, 435),  # its flags lie in memory, where no filter can read them; libc then takes clone
    },
}
_SOCKETS = {"socket": (41, 198), "socketpair": (53, 199)}
_TO_A_PROCESS = {  # their first argument is a process, or a group with its sign turned
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}
_EVERYBODY = 0xFFFFFFFF  # kill(-1)
_TO_AN_OWNER = {  # name: numbers, second arguments that give a descriptor an owner, whom the kernel then signals
    "fcntl": ((72, 25), [8, 15]),
    "ioctl": ((16, 29), [0x8901, 0x8902]),
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
_X32 = 0x40000000
_SET_MODE_FILTER = 1
_SPEC_ALLOW = 4  # without it kernels before 5.16 slow the candidate down, and its speed is what is measured

# offsets in struct seccomp_data; of an argument the lower half, all that these calls read
_NUMBER, _MACHINE, _ARGUMENT, _SECOND = 0, 4, 16, 24
_SECOND_UPPER = 28  # the other half, of a pointer
_MOST_COMPARED = 250  # a jump goes 255 steps at most
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL_PROCESS, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def confine(untouchable: list[int]) -> None:
    """Put the filter on this process for good; it must have given up new privileges. Raises KernelRefused.

    `untouchable` are processes that get neither a signal nor another priority from behind it, nor do their groups:
    under one uid nothing else prevents that on kernels before 6.12.
    """
    machine = os.uname().machine
    if machine not in _COLUMNS:
        raise KernelRefused(errno.ENOSYS, f"no system call filter for {machine}; candidates run on x86_64 and aarch64")
    steps = program(machine, untouchable)
    libc = ctypes.CDLL(None, use_errno=True)
    laid_out = _Program(len(steps) // 8, steps)
    number = ctypes.c_long(_SECCOMP[_COLUMNS[machine]])
    for flags in (_SPEC_ALLOW, 0):  # a kernel that does not know the flag knows no such slowness
        if libc.syscall(number, ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(flags), ctypes.byref(laid_out)) == 0:
            return
    error = ctypes.get_errno()
    raise KernelRefused(
        error,
        f"seccomp: {os.strerror(error)}; candidates need a kernel with CONFIG_SECCOMP_FILTER, "
        "and a container that allows the call",
    )


def program(machine: str, untouchable: list[int]) -> bytes:
    """The filter for an architecture, in classic BPF."""
    column = _COLUMNS[machine]
    steps = [(_LOAD, 0, 0, _MACHINE), (_EQUAL, 1, 0, _AUDIT_NAMES[column]), (_RETURN, 0, 0, _KILL_PROCESS)]
    steps += [(_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":  # the x32 calls have numbers of their own
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL_PROCESS)]
    for error, calls in _REFUSED.items():
        for numbers in calls.values():
            steps += [(_EQUAL, 0, 1, numbers[column]), (_RETURN, 0, 0, _FAIL | error)]
    for numbers in _SOCKETS.values():
        steps += _when(numbers[column], (_EQUAL, _AF_UNIX), _ALLOW, _FAIL | errno.EAFNOSUPPORT)
    for numbers in _TO_A_PROCESS.values():
        steps += _unless_among(numbers[column], [_EVERYBODY, *untouchable, *(2**32 - pid for pid in untouchable)])
    for numbers, commands in _TO_AN_OWNER.values():
        steps += _unless_among(numbers[column], commands, _SECOND)
    steps += _without_handler(_RT_SIGACTION[column], _SIGCHLD)
    steps += _only_for_itself(_SETPRIORITY[column])
    steps += _when(_PRLIMIT64[column], (_EQUAL, 0), _ALLOW, _FAIL | errno.EPERM)
    steps += _when(_CLONE[column], (_ANY_BIT, _NEW_NAMESPACES), _FAIL | errno.EPERM, _ALLOW)
    steps += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _when(number: int, test: tuple[int, int], met: int, unmet: int) -> list[tuple[int, int, int, int]]:
    """For one call: what a test of its first argument decides."""
    comparison, value = test
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _ARGUMENT),
        (comparison, 0, 1, value),
        (_RETURN, 0, 0, met),
        (_RETURN, 0, 0, unmet),
    ]


def _unless_among(number: int, refused: list[int], argument: int = _ARGUMENT) -> list[tuple[int, int, int, int]]:
    """For one call: EPERM where an argument, the first, is one of these. Raises KernelRefused for too many."""
    if len(refused) > _MOST_COMPARED:
        raise KernelRefused(errno.E2BIG, f"{len(refused)} processes to keep a candidate from; {_MOST_COMPARED} fit")
    compared = [(_EQUAL, len(refused) - at, 0, value) for at, value in enumerate(refused)]
    return [
        (_EQUAL, 0, len(compared) + 3, number),
        (_LOAD, 0, 0, argument),
        *compared,
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]


def _without_handler(number: int, signal_number: int) -> list[tuple[int, int, int, int]]:
    """For rt_sigaction: nothing is done where a handler, the second argument, is given for the signal, and success is
    answered; programs give up where they are refused. Asking for the present handler, with no new one, is allowed."""
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
    """For setpriority: a process (0), the calling one (0)."""
    return [
        (_EQUAL, 0, 6, number),
        (_LOAD, 0, 0, _ARGUMENT),
        (_EQUAL, 0, 3, 0),
        (_LOAD, 0, 0, _SECOND),
        (_EQUAL, 0, 1, 0),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]
