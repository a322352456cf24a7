"""Tries what a candidate must not, and what it must be able to; one line of JSON for each answer.

A test puts the targets in the place of the empty ones, and this in the place of a train.py or before one. An answer is
`done`, the name of the error that stopped it, or `nothing` where there was nothing to find. It is the candidate's own
view, so it needs no trust: what it does not say it could not do.
"""

import ctypes
import errno
import fcntl
import getpass
import json
import mmap
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

TARGETS = {}
GUARDIAN = os.getppid()
WORKER = int(Path(f"/proc/{GUARDIAN}/stat").read_text().rpartition(")")[2].split()[1])
LIBC = ctypes.CDLL(None, use_errno=True)
COLUMN = ("x86_64", "aarch64").index(os.uname().machine)
CALLS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "io_uring_setup": (425, 425), "keyctl": (250, 219),
    "bpf": (321, 280), "perf_event_open": (298, 241), "unshare": (272, 97), "mount": (165, 40), "setns": (308, 268),
    "clone3": (435, 435), "shmget": (29, 194), "pidfd_send_signal": (424, 424), "shmat": (30, 196), "kcmp": (312, 272),
    "mincore": (27, 232), "fadvise64": (221, 223), "userfaultfd": (323, 282), "memfd_secret": (447, 447),
    "fanotify_init": (300, 262), "modify_ldt": (154, 10**6), "personality": (135, 92), "open_by_handle_at": (304, 265),
    "open_tree": (428, 428), "fsopen": (430, 430), "quotactl": (179, 60), "seccomp": (317, 277), "preadv2": (327, 286),
}  # fmt: skip
NEW_USER, NEW_NETWORK, ATTACH = 0x10000000, 0x40000000, 16


def call(name, *arguments):
    number = ctypes.c_long(CALLS[name][COLUMN])
    if LIBC.syscall(number, *(each if isinstance(each, bytes) else ctypes.c_long(each) for each in arguments)) < 0:
        raise OSError(ctypes.get_errno(), name)


def find(found):
    """`nothing` for an empty list."""
    if not found:
        raise LookupError
    print("found:", found)


def answer(attempt):
    try:
        attempt()
    except LookupError:
        return "nothing"
    except socket.gaierror:
        return "gaierror"
    except OSError as refusal:
        return errno.errorcode.get(refusal.errno, str(refusal))
    return "done"


def succeeds(attempt):
    return answer(attempt) == "done"


def read(path):
    if not Path(path).read_bytes():
        raise LookupError


def make(folder):
    path = Path(folder, f"made-by-{os.getpid()}")
    path.touch()
    path.unlink()


def connect(host, port):
    socket.create_connection((host, port), timeout=3).close()


def connect_unix(address):
    with socket.socket(socket.AF_UNIX) as calling:
        calling.connect(address)


def listen():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()


def rows():
    """A descriptor of the training rows."""
    return os.open(Path(TARGETS["data"], "train.npy"), os.O_RDONLY)


def read_and_see():
    """Does reading a file move a time that others can see? One that was never read, as far as its times tell."""
    path = Path(TARGETS["data"], "token_bytes.npy")
    before = path.stat().st_atime_ns
    path.read_bytes()
    if path.stat().st_atime_ns == before:
        raise LookupError


def read_what_is_in_memory():
    part = ctypes.create_string_buffer(1)
    vector = (ctypes.c_void_p * 2)(ctypes.addressof(part), 1)
    call("preadv2", rows(), ctypes.addressof(vector), 1, 0, 0, 8)


def copy_at_home():
    shutil.copy2("train.py", Path.home() / "copy.py")
    os.chmod(Path.home() / "copy.py", 0o600)
    (Path.home() / "copy.py").touch()


def map_rows():
    with mmap.mmap(rows(), 0, access=mmap.ACCESS_READ) as mapped:
        if not mapped[:1]:
            raise LookupError


def lock_at_home():
    with open("locked", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        fcntl.lockf(file, fcntl.LOCK_EX)


def keep_in_a_nameless_file():
    fd = os.memfd_create("kept")
    os.write(fd, b"x")
    os.close(fd)


def listen_at_home():
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("own")  # by a short name: an address has room for 107 characters
        listening.listen()
        connect_unix("own")


def others():
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]


def send_through_a_folder_of_procfs():
    """Signals through a descriptor need no pidfd_open: the process's folder is one."""
    folder = os.open(f"/proc/{WORKER}", os.O_RDONLY | os.O_DIRECTORY)
    try:
        call("pidfd_send_signal", folder, 0, 0, 0)
    finally:
        os.close(folder)


def have_the_kernel_signal():
    """A socket that has become readable signals its owner, whoever that is."""
    here, there = socket.socketpair()
    with here, there:
        fcntl.fcntl(here, fcntl.F_SETOWN, WORKER)
        fcntl.fcntl(here, fcntl.F_SETSIG, signal.SIGURG)  # one that is ignored
        fcntl.fcntl(here, fcntl.F_SETFL, os.O_ASYNC)
        there.send(b"x")


def fork_and_talk():
    here, there = socket.socketpair()
    with here, there:
        subprocess.run([sys.executable, "-c", "print('hello')"], stdout=there, check=True)
        if here.recv(5) != b"hello":
            raise LookupError


def share_memory():
    from multiprocessing import get_context

    queue = get_context("fork").Queue()
    get_context("fork").Process(target=queue.put, args=(1,)).start()
    if queue.get(timeout=20) != 1:
        raise LookupError


def run_thread():
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


def leave_a_daemon():
    """Forked twice, in a session of its own, with no environment that could mark it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve("/bin/sleep", ["sleep", TARGETS["daemon"]], {})
        os._exit(0)
    os.wait()


def writable():
    """Folders in which a file can be made: the usual ones, every mount, and two levels below what can be listed.

    Twenty at most: a line of a log has an end.
    """
    usual = [
        "/",
        "/tmp",
        "/var/tmp",
        "/dev/shm",
        "/dev/mqueue",
        "/home",
        "/root",
        "/run",
        "/run/lock",
        "/run/overnight",
    ]
    usual += ["/run/secrets", "/state", "/state/data", os.getcwd(), TARGETS["work"], TARGETS["data"], TARGETS["trials"]]
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    level = {place for place in (*usual, *mounts) if not place.startswith(("/proc", "/sys"))}
    tried = set()
    for _ in range(3):
        tried |= level
        level = set().union(*map(folders_in, level)) - tried
    return sorted(folder for folder in tried if succeeds(lambda place=folder: make(place)))[:20]


def folders_in(folder):
    """Those that can be seen, without the kernel's own."""
    try:
        with os.scandir(folder) as entries:
            found = {entry.path for entry in entries if entry.is_dir(follow_symlinks=False)}
            return found - {"/proc", "/sys"}
    except OSError:
        return set()


def nature():
    """What it is, rather than what it can."""
    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
    ends_with = ctypes.c_int()
    LIBC.prctl(2, ctypes.byref(ends_with), 0, 0, 0)
    return {
        "uids": os.getresuid(),
        "gids": os.getresgid(),
        "groups": os.getgroups(),
        "capabilities": int(status["CapEff"], 16) | int(status["CapPrm"], 16) | int(status["CapInh"], 16),
        "no_new_privileges": status["NoNewPrivs"],
        "seccomp": status["Seccomp"],
        "environment": sorted(os.environ),
        "descriptors": sorted(os.readlink(f"/proc/self/fd/{fd}").split(":")[0] for fd in HELD),
        "leads its session": os.getsid(0) == os.getpid(),
        "ends with its guardian by": ends_with.value,
        "out of memory first": Path("/proc/self/oom_score_adj").read_text().strip(),
        "core_bytes": resource.getrlimit(resource.RLIMIT_CORE),
        "file_bytes": resource.getrlimit(resource.RLIMIT_FSIZE),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "tasks": resource.getrlimit(resource.RLIMIT_NPROC),
        "writable": writable(),
    }


TRIES = {
    # networks
    "connect to the queue's server": lambda: connect(*TARGETS["server"]),
    "connect to an address outside": lambda: connect("192.0.2.1", 80),
    "ask a name server": lambda: socket.getaddrinfo("example.org", 80),
    "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", 9)),
    "listen on a TCP port": listen,
    "ask the kernel for routes": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "connect to an abstract unix socket of a service": lambda: connect_unix("\0" + TARGETS["abstract"]),
    "connect to a unix socket that lies open to all": lambda: connect_unix(TARGETS["path"]),
    # other processes
    "read the worker's environment": lambda: read(f"/proc/{WORKER}/environ"),
    "read anybody's environment": lambda: find(
        [pid for pid in others() if succeeds(lambda pid=pid: read(f"/proc/{pid}/environ"))]
    ),
    "open the worker's memory": lambda: os.close(os.open(f"/proc/{WORKER}/mem", os.O_RDONLY)),
    "read the worker's memory by a call": lambda: call("process_vm_readv", WORKER, 0, 0, 0, 0, 0),
    "count the worker's descriptors": lambda: os.listdir(f"/proc/{WORKER}/fd"),
    "open what the worker holds": lambda: os.close(os.open(f"/proc/{WORKER}/fd/0", os.O_RDONLY)),
    "trace the worker": lambda: call("ptrace", ATTACH, WORKER, 0, 0),
    "signal the worker": lambda: os.kill(WORKER, 0),
    "signal the guardian": lambda: os.kill(GUARDIAN, 0),
    "signal the first process": lambda: os.kill(1, 0),
    "signal everybody": lambda: os.kill(-1, 0),
    "signal the worker through procfs": send_through_a_folder_of_procfs,
    "have the kernel signal the worker": have_the_kernel_signal,
    "limit the worker": lambda: resource.prlimit(WORKER, resource.RLIMIT_CORE),
    "renice the worker": lambda: os.setpriority(os.PRIO_PROCESS, WORKER, 0),
    "pin the worker to a core": lambda: os.sched_setaffinity(WORKER, os.sched_getaffinity(0)),
    "pin a neighbour to a core": lambda: os.sched_setaffinity(TARGETS["neighbour"], os.sched_getaffinity(0)),
    "make a neighbour idle": lambda: os.sched_setscheduler(TARGETS["neighbour"], os.SCHED_IDLE, os.sched_param(0)),
    "use System V memory of a neighbour": lambda: call("shmat", 0, 0, 0),
    "compare itself with the worker": lambda: call("kcmp", os.getpid(), WORKER, 0, 0, 0),
    "open the kernel's settings for writing": lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY)),
    "offer the worker to the memory killer": lambda: Path(f"/proc/{WORKER}/oom_score_adj").write_text("1000"),
    # itself
    "find a password in its environment": lambda: find(
        [name for name, value in os.environ.items() if "REDIS" in name or "PASSWORD" in name or "sesame" in value]
    ),
    "become another user": lambda: os.setresuid(*[0 if os.getuid() else 1] * 3),
    "start a program": lambda: subprocess.run(["true"], check=True),
    "leave a daemon": leave_a_daemon,
    # files
    "read the password": lambda: read(TARGETS["password"]),
    "read the validation rows": lambda: os.scandir(Path(TARGETS["data"], "private")).close(),
    "read the machine's secrets": lambda: read("/etc/shadow"),
    "read another's result": lambda: os.scandir(TARGETS["trials"]).close(),
    "write a result": lambda: make(TARGETS["trials"]),
    "change the mode of the results": lambda: os.chmod(TARGETS["trials"], os.stat(TARGETS["trials"]).st_mode),
    "look whether there are results": lambda: os.stat(TARGETS["trials"]),
    "set the times of the training rows": lambda: os.utime(Path(TARGETS["data"], "train.npy"), (1, 1)),
    "note something at the training rows": lambda: os.setxattr(Path(TARGETS["data"], "train.npy"), "user.a", b"1"),
    "note something at what it was given": lambda: [os.setxattr(fd, "user.a", b"1") for fd in HELD[3:]],
    "leave a hint at the training rows": lambda: fcntl.fcntl(rows(), 1036, (2).to_bytes(8, "little")),
    "take a lease on the training rows": lambda: fcntl.fcntl(rows(), fcntl.F_SETLEASE, fcntl.F_RDLCK),
    "see what was read by its time": read_and_see,
    "ask which parts of a file are in memory": lambda: call("mincore", 0, 0, 0),
    "read what is in memory and nothing else": read_what_is_in_memory,
    "throw a file out of memory": lambda: call("fadvise64", rows(), 0, 0, 4),
    "write the data": lambda: make(TARGETS["data"]),
    "write the trainer's code": lambda: make(TARGETS["code"]),
    "write the repository": lambda: make(TARGETS["repository"]),
    "write beside its work": lambda: make(Path(TARGETS["work"]).parent),
    "write the general /tmp": lambda: make("/tmp"),
    "leave a file in shared memory": lambda: Path(TARGETS["shared"]).touch(),
    # the kernel
    "make a user namespace": lambda: call("unshare", NEW_USER),
    "make a network namespace": lambda: call("unshare", NEW_NETWORK),
    "start a process by clone3": lambda: call("clone3", 0, 0),
    "mount": lambda: call("mount", 0, 0, 0, 0, 0),
    "enter a namespace": lambda: call("setns", 0, 0),
    "set up io_uring": lambda: call("io_uring_setup", 0, 0),
    "use the kernel's keys": lambda: call("keyctl", 0, 0),
    "load a program into the kernel": lambda: call("bpf", 0, 0, 0),
    "count events of the processor": lambda: call("perf_event_open", bytes(128), 0, -1, -1, 0),
    "leave System V memory": lambda: call("shmget", 0, 4096, 0o1600),
    "stop the kernel at a page of its own": lambda: call("userfaultfd", 1),
    "have memory that nobody may look at": lambda: call("memfd_secret", 0),
    "watch a whole disk": lambda: call("fanotify_init", 0x200, 0),
    "change the processor's tables": lambda: call("modify_ldt", 0, 0, 0),
    "run without random addresses": lambda: call("personality", 0x40000),
    "open a file by its number": lambda: call("open_by_handle_at", 0, 0, 0),
    "copy mounts": lambda: call("open_tree", -100, b"/\0", 1),
    "make a file system": lambda: call("fsopen", b"tmpfs\0", 0),
    "sync quotas": lambda: call("quotactl", 0x80000100, 0, 0, 0),
    "answer the calls of another process": lambda: call("seccomp", 1, 8, 0),
    # what honest scripts need
    "read the training rows": lambda: read(Path(TARGETS["data"], "train.npy")),
    "write at home": lambda: make(Path.home()),
    "talk to itself by a unix socket": listen_at_home,
    "start and hear a process": fork_and_talk,
    "share memory with a process": share_memory,
    "run a thread": run_thread,
    "name its user": getpass.getuser,
    "copy a file with its times": copy_at_home,
    "map the training rows": map_rows,
    "lock a file of its own": lock_at_home,
    "keep memory in a file without a name": keep_in_a_nameless_file,
    "choose its own cores": lambda: os.sched_setaffinity(0, os.sched_getaffinity(0)),
    "write to nowhere": lambda: Path("/dev/null").write_text("x"),
}

HELD = [fd for fd in range(256) if succeeds(lambda fd=fd: os.fstat(fd))]
for attack, attempt in TRIES.items():
    print("ATTACK", json.dumps([attack, answer(attempt)]))
for trait, value in nature().items():
    print("NATURE", json.dumps([trait, value]), flush=True)
