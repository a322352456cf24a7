"""The system call filter on the real kernel: what fails behind it and how, and what must go on working."""

from __future__ import annotations

import ast
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable

import pytest

from trainer.sandbox.seccomp import confine, program
from trainer.sandbox.syscalls import KernelRefused

MACHINE = os.uname().machine
STAYS_OR_LOOKS = (
    "shmat", "shmctl", "msgsnd", "msgrcv", "msgctl", "semop", "semtimedop", "semctl", "mq_unlink", "kcmp",
    "process_madvise", "process_mrelease", "migrate_pages", "pivot_root", "chroot", "open_tree", "open_tree_attr",
    "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr", "name_to_handle_at", "open_by_handle_at",
    "fanotify_init", "fanotify_mark", "userfaultfd", "memfd_secret", "personality", "syslog", "lookup_dcookie", "acct",
    "quotactl", "quotactl_fd", "swapon", "swapoff", "vhangup", "kexec_load", "kexec_file_load", "init_module",
    "finit_module", "delete_module",
)  # fmt: skip
STAYS_OR_LOOKS += ("modify_ldt", "iopl", "ioperm") if MACHINE == "x86_64" else ()
ATTRIBUTES = (
    "setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
    "file_setattr",
)  # fmt: skip
FILE_FLAGS = (0x40086602, 0x40046602, 0x401C5820, 0x40087602, 0x40806685, 0x800C6613, 0xC0506617)
REFUSED = {
    **{f"call({name!r}, 0, 0, 0, 0, 0)": errno.EPERM for name in STAYS_OR_LOOKS},
    **{f"call({name!r}, 0, 0, 0, 0, 0)": errno.EOPNOTSUPP for name in ATTRIBUTES},
    **{f"call({name!r}, 0, 0, 0, 0)": errno.ENOSYS for name in ("mincore", "cachestat", "fadvise64")},
    **{f"fcntl.fcntl(0, {command}, bytes(8))": errno.EPERM for command in (1024, 1026, 1036, 1038, 1040)},
    **{f"fcntl.ioctl(0, {command}, bytes(32))": errno.EPERM for command in FILE_FLAGS},
    **{f"call('madvise', 0, 0, {advice})": errno.EPERM for advice in (20, 21)},
    **{f"call('preadv2', 0, 0, 0, 0, 0, {flags})": errno.EPERM for flags in (8, 10)},
    **{f"call('seccomp', 1, {flags}, 0)": errno.EPERM for flags in (8, 9)},
}
SCHEDULING = {
    "os.sched_setaffinity(0, os.sched_getaffinity(0))": 0,
    "os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0))": 0,
    "os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))": 0,
    **{
        f"call({name!r}, {who}, 0, 0)": errno.EPERM
        for name in ("sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr")
        for who in ("os.getppid()", "1", "other.pid")
    },
}
ANSWERS = """
def answer(attempt):
    try:
        exec(attempt)
    except OSError as refusal:
        return refusal.errno
    return 0
print({attempt: answer(attempt) for attempt in json.loads(sys.argv[1])})
"""
BEHIND = """
import ctypes, errno, fcntl, json, os, resource, signal, socket, struct, subprocess, sys, threading
from trainer.sandbox import refused_calls, seccomp, syscalls
syscalls.forbid_new_privileges()
seccomp.confine([os.getppid()])
libc = ctypes.CDLL(None, use_errno=True)
X86 = os.uname().machine == "x86_64"
def call(name, *arguments):
    numbers = next(table[name] for table in (*refused_calls.REFUSED.values(), OTHERS) if name in table)
    if libc.syscall(ctypes.c_long(numbers[0 if X86 else 1]), *map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), name)
OTHERS = seccomp._SIGNALS | seccomp._SCHEDULING | {"clone": seccomp._CLONE, "prlimit64": seccomp._PRLIMIT64}
OTHERS |= {name: rule[0] for rules in (seccomp._BY_ARGUMENT, seccomp._BY_BIT) for name, rule in rules.items()}
"""


def behind_the_filter(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BEHIND + code], check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("socket.socket(socket.AF_INET)", errno.EAFNOSUPPORT),
        ("socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)", errno.EAFNOSUPPORT),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", errno.EAFNOSUPPORT),
        ("socket.socket(socket.AF_VSOCK)", errno.EAFNOSUPPORT),
        ("socket.socketpair(socket.AF_INET)", errno.EAFNOSUPPORT),
        *((f"call('io_uring_{name}', 0, 0, 0, 0)", errno.ENOSYS) for name in ("setup", "enter", "register")),
        ("call('clone3', 0, 0)", errno.ENOSYS),
        ("call('clone', 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)", errno.EPERM),
        ("call('clone', 0x40000000 | signal.SIGCHLD, 0, 0, 0, 0)", errno.EPERM),
        ("call('unshare', 0x10000000)", errno.EPERM),
        ("call('setns', 0, 0)", errno.EPERM),
        ("call('mount', 0, 0, 0, 0, 0)", errno.EPERM),
        ("call('umount2', 0, 0)", errno.EPERM),
        ("call('ptrace', 0, 0, 0, 0)", errno.EPERM),
        ("call('process_vm_readv', os.getpid(), 0, 0, 0, 0, 0)", errno.EPERM),
        ("call('process_vm_writev', os.getpid(), 0, 0, 0, 0, 0)", errno.EPERM),
        ("call('pidfd_getfd', 0, 0, 0)", errno.EPERM),
        ("call('bpf', 0, 0, 0)", errno.EPERM),
        ("call('perf_event_open', 0, 0, 0, 0, 0)", errno.EPERM),
        ("call('keyctl', 0, 0)", errno.EPERM),
        ("call('add_key', 0, 0, 0, 0, 0)", errno.EPERM),
        ("call('request_key', 0, 0, 0, 0)", errno.EPERM),
        ("call('shmget', 0, 4096, 0o1600)", errno.EPERM),
        ("call('msgget', 0, 0o1600)", errno.EPERM),
        ("call('semget', 0, 1, 0o1600)", errno.EPERM),
        ("call('mq_open', 0, 0, 0, 0)", errno.EPERM),
        *(
            (f"call('{name}', {who}, 0, 0)", errno.EPERM)
            for name in (
                "kill",
                "tkill",
                "tgkill",
                "rt_sigqueueinfo",
                "pidfd_open",
                "sched_setaffinity",
                "sched_setattr",
            )
            for who in ("os.getppid()", "-os.getppid()", "-1")
        ),
        ("os.setpriority(os.PRIO_PROCESS, os.getppid(), 0)", errno.EPERM),
        ("os.setpriority(os.PRIO_USER, 0, 0)", errno.EPERM),
        ("call('ioprio_set', 0, 0, 0)", errno.EPERM),
        ("call('clone', 0x10000 | 0x800 | 0x100, 0, 0, 0, 0)", errno.EPERM),
        ("call('pidfd_send_signal', os.open(f'/proc/{os.getppid()}', os.O_RDONLY), 0, 0, 0)", errno.EPERM),
        ("fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", errno.EPERM),
        ("fcntl.fcntl(0, 15, bytes(8))", errno.EPERM),
        ("fcntl.ioctl(socket.socketpair()[0], 0x8901, bytes(4))", errno.EPERM),
        ("fcntl.ioctl(socket.socketpair()[0], 0x8902, bytes(4))", errno.EPERM),
        ("resource.prlimit(os.getppid(), resource.RLIMIT_CORE)", errno.EPERM),
    ],
)
def test_call_is_refused(attempt: str, error: int) -> None:
    done = behind_the_filter(
        f"try:\n {attempt}\nexcept OSError as refusal:\n print(refusal.errno)\nelse:\n print('done')"
    )

    assert done.stdout.strip() == str(error), done.stderr


HANDLES_ENDED_CHILDREN = """
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
at = {place}
assert libc.mmap(at, 4096, 3, 0x100022, -1, 0) == at
ctypes.memmove(at, struct.pack("4Q", {handler}, {flags}, 0, 0), 32)
assert libc.syscall({number}, 17, ctypes.c_void_p(at), None, 8) == 0
child = os.fork()
if child == 0:
    os._exit(3)
assert os.waitpid(child, 0)[1] >> 8 == 3
"""


@pytest.mark.parametrize("place", ["0x200000000", "0x12345000"])  # of the first the lower half is a null pointer's
@pytest.mark.parametrize(("handler", "flags"), [(1, 0), (0, 2)], ids=["ignored", "SA_NOCLDWAIT"])
def test_no_child_is_reaped_by_the_kernel_whatever_its_parent_orders(handler: int, flags: int, place: str) -> None:
    number = {"x86_64": 13, "aarch64": 134}[os.uname().machine]

    done = behind_the_filter(HANDLES_ENDED_CHILDREN.format(handler=handler, flags=flags, place=place, number=number))

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "attempt",
    [
        "socket.socket(socket.AF_UNIX).bind(b'\\0overnight-' + str(os.getpid()).encode())",
        "socket.socketpair()",
        "os.kill(0, 0)",
        "os.nice(1)",
        "os.sched_setaffinity(0, os.sched_getaffinity(0))",
        "resource.prlimit(0, resource.RLIMIT_CORE, (0, 0))",
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))",
        "t = threading.Thread(target=print); t.start(); t.join()",
        "assert os.waitpid(os.fork() or os._exit(0), 0)[1] == 0",
        "subprocess.run(['true'], check=True)",
        "os.close(os.memfd_create('m'))",
        "fcntl.fcntl(1, fcntl.F_SETFL, fcntl.fcntl(1, fcntl.F_GETFL))",
        "fcntl.ioctl(socket.socketpair()[0], 0x541B, bytes(4))",
        "os.kill(os.getpid(), 0)",
        "signal.signal(signal.SIGCHLD, print); assert signal.getsignal(signal.SIGCHLD) is print",
        "signal.signal(signal.SIGUSR1, lambda *_: os._exit(0)); os.kill(os.getpid(), signal.SIGUSR1); os._exit(1)",
        "assert subprocess.run(['sh', '-c', 'x=$(sleep 0.1; echo 1); test $x = 1']).returncode == 0",
        "assert subprocess.run(['bash', '-c', 'trap : CHLD; sleep 0 & wait; x=$(echo 1); test $x']).returncode == 0",
        "os.sched_setaffinity(os.getpid(), os.sched_getaffinity(0))",
        "open('/proc/self/status').read()",
        "import mmap; mmap.mmap(-1, 4096).madvise(mmap.MADV_DONTNEED)",
        "fcntl.flock(os.memfd_create('m'), fcntl.LOCK_EX)",
        "fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 2**16)",
        "fcntl.fcntl(os.memfd_create('m', os.MFD_ALLOW_SEALING), fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)",
        "os.preadv(os.open('/bin/sh', os.O_RDONLY), [bytearray(1)], 0)",
        "import shutil, tempfile; shutil.copy2('/bin/sh', tempfile.mkdtemp())",
    ],
)
def test_call_goes_on_working(attempt: str) -> None:
    done = behind_the_filter(attempt)

    assert done.returncode == 0, done.stderr


def test_notes_that_stay_looks_at_others_and_what_nobody_needs_are_refused() -> None:
    assert answers(BEHIND, REFUSED) == REFUSED


def test_who_may_schedule_only_itself_cannot_do_so_to_others() -> None:
    """Whatever it could do to another process of its user, such as one that it did not know of."""
    begin = "other = subprocess.Popen(['sleep', '60'])\n"
    confine = "seccomp.confine([os.getppid()], os.getpid())\n"
    code = BEHIND.replace("seccomp.confine([os.getppid()])\n", begin + confine)

    assert answers(code, SCHEDULING, "other.kill()") == SCHEDULING


def answers(before: str, attempts: Iterable[str], after: str = "") -> dict[str, int]:
    """The error of each attempt, 0 for none, all made by one process."""
    code = before + ANSWERS + after
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(attempts))], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answered: dict[str, int] = ast.literal_eval(done.stdout)
    return answered


def test_what_a_candidate_starts_stays_behind_the_filter() -> None:
    done = behind_the_filter(
        "sys.exit(subprocess.run([sys.executable, '-c', 'import socket; socket.socket()']).returncode)"
    )

    assert done.returncode == 1
    assert "Address family not supported" in done.stderr


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 calls are a second entry of x86-64 alone")
def test_second_entry_of_the_kernel_is_closed() -> None:
    done = behind_the_filter("libc.syscall(ctypes.c_long(0x40000000 | 39))")

    assert done.returncode == -signal.SIGSYS


def test_filter_of_another_architecture_kills_the_process() -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[MACHINE]
    swap = (
        f"steps = seccomp.program({other!r}, []); seccomp.program = lambda *_: steps; seccomp.confine([os.getppid()])"
    )

    done = subprocess.run([sys.executable, "-c", BEHIND.replace("seccomp.confine([os.getppid()])", swap)], check=False)

    assert done.returncode == -signal.SIGSYS


def test_unknown_architecture_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "here", "6", "1", "riscv64")))

    with pytest.raises(KernelRefused, match="no system call filter for riscv64"):
        confine([])


def test_more_processes_than_a_filter_can_name_are_refused_not_left_out() -> None:
    with pytest.raises(KernelRefused, match="2001 processes to keep a candidate from; 250 fit"):
        program(MACHINE, list(range(1, 1001)))
