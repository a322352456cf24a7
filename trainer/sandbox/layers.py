"""The layers of the sandbox, one row each, in the order in which a process applies them before it becomes a candidate.

A row names the layer as in results, applies it, and lists the acts that must fail behind it, which the self-test tries
before the first trial. To add a layer, add a row and its test. A row without a name prepares later rows. If the orders
or the kernel do not provide a layer, `apply` returns None and the layer is not reported. If a required layer fails,
`apply` raises OSError and the candidate does not start.

Standard library only, and little of it, because the guardian imports this module.
"""

from __future__ import annotations

import os
import resource

from trainer.sandbox import landlock, packed_caches, private_root, procfs, seccomp, syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Any

    from trainer.sandbox.launch import Orders
else:
    import _signal as signal  # without enums, which take a quarter of the guardian's start

_OPEN_FILES = 4096
_TASKS_A_PROCESS = 4
OWN_ROOT = "read-only-mounts"
_FOLDERS = ("subject", "home", "tmp", "cache")


class Becoming:
    """The process that becomes a candidate: its orders, its guardian's pid, and values that rows pass to later rows."""

    def __init__(self, orders: Orders, guardian: int, failed_fd: int) -> None:
        self.orders = orders
        self.guardian = guardian
        self.failed_fd = failed_fd
        self.untouchable: list[int] = []
        self.ruleset: int | None = None
        self.closed: list[tuple[str, int]] = []  # grants within folders of the candidate's user


class ActTargets:
    """The targets of the self-test's acts: a port and the pid of the worker, its folders and its password file."""

    def __init__(
        self, *, port: int, data: Path, private: Path, code: Path, results: Path | None, password: Path | None
    ) -> None:
        self.port = port
        self.worker = os.getpid()
        self.data = str(data)
        self.known_file = str(data / "manifest.json")
        self.private = str(private)
        self.code = str(code)
        self.results = None if results is None else str(results)
        self.password = None if password is None else str(password)


class Act:
    """An act that a candidate must not be able to do.

    The worker calls `target`, which returns None if there is nothing to try. The probe calls `attempt` in the sandbox,
    which raises OSError if the act is refused.
    """

    def __init__(self, words: str, target: Callable[[ActTargets], object], attempt: Callable[[Any], object]) -> None:
        self.words = words
        self.target = target
        self.attempt = attempt


class Layer:
    """One row. `apply` returns the layer's version or an empty text, or None if the layer is not applied."""

    def __init__(self, name: str | None, apply: Callable[[Becoming], str | None], acts: Iterable[Act] = ()) -> None:
        self.name = name
        self.apply = apply
        self.acts = tuple(acts)


def put_on(process: Becoming) -> list[str]:
    """Apply every row to this process, and return the names of the applied layers with their versions."""
    applied = []
    for layer in LAYERS:
        version = layer.apply(process)
        if layer.name is not None and version is not None:
            applied.append(f"{layer.name}-{version}" if version else layer.name)
    return applied


def write_files(folder: str, files: dict[str, str]) -> None:
    """Write a candidate's files below `folder`. Raise ValueError for a name that leaves the folder."""
    for name, text in files.items():
        if not name or name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"file name {name!r} leaves the work folder")
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8", newline="") as file:  # keep line ends as they are
            file.write(text)


def _own_session(_: Becoming) -> str:
    os.setsid()
    return ""


def _limit(process: Becoming) -> str:
    """Let the kernel kill the candidate first when memory runs out, and limit its files. RLIMIT_AS would break CUDA."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_FSIZE, process.orders["file_mib"] * 2**20)
    _bound(resource.RLIMIT_NOFILE, _OPEN_FILES)
    return ""


def _limit_processes(process: Becoming) -> str | None:
    """Limit processes if the candidate has a uid of its own, since RLIMIT_NPROC counts a uid's threads on the host.

    This limit backs up the supervisor, which counts processes only twice a second.
    """
    if process.orders["user"] is None:
        return None
    _bound(resource.RLIMIT_NPROC, process.orders["processes"] * _TASKS_A_PROCESS)
    return ""


def _bound(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (bound, bound))


def _make_folder(process: Becoming) -> None:
    """Create the work folder as the candidate's user, since root could create it where that user must not write."""
    user = process.orders["user"]
    if user is not None:
        os.setegid(user[1])
        os.seteuid(user[0])
    os.makedirs(process.orders["folder"])
    if user is not None:
        os.seteuid(0)
        os.setegid(0)


def _own_root(process: Becoming) -> str | None:
    if not process.orders["own_root"]:
        return None
    private_root.own_root(process.orders["grants"], process.orders["folder"])
    return ""


def _own_shared_memory(process: Becoming) -> str | None:
    """Report the /dev/shm that `private_root.own_root` has created."""
    return "" if process.orders["own_root"] else None


def _connect_output(process: Becoming) -> None:
    """Connect stdin to the new root's /dev/null and output to the log.

    With a descriptor of the old root, a candidate could change attributes there.
    """
    null = os.open(os.devnull, os.O_RDONLY)
    log = process.orders["log_fd"]
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)


def _close_descriptors(process: Becoming) -> str:
    kept = {0, 1, 2, process.failed_fd, process.orders["caches_fd"], *process.orders["keep_fds"]}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:  # the descriptor that listed the folder is closed already
                continue
    for fd in process.orders["keep_fds"]:
        os.set_inheritable(fd, True)
    return ""


def _prepare_filters(process: Becoming) -> None:
    """Prepare seccomp and Landlock while this process may still read its ancestors and open the granted paths."""
    ancestors = procfs.ancestors(os.getpid())
    process.untouchable = sorted({*ancestors, *map(os.getpgid, ancestors)} - {0})
    process.ruleset, process.closed = landlock.prepare(process.orders["grants"])


def _become_user(process: Becoming) -> str | None:
    user = process.orders["user"]
    if user is None:
        return None
    syscalls.become(*user)
    return ""


def _die_with_guardian(process: Becoming) -> str:
    syscalls.die_with_parent(signal.SIGKILL, process.guardian)
    return ""


def _write_files(process: Becoming) -> None:
    """Write the candidate's files and caches after the change of user, so that the candidate's user creates and owns
    them.
    """
    folder, caches_fd = process.orders["folder"], process.orders["caches_fd"]
    for name in _FOLDERS:
        os.makedirs(os.path.join(folder, name))
    subject = os.path.join(folder, "subject")
    write_files(subject, process.orders["files"])
    if caches_fd is not None:
        packed_caches.unpack(caches_fd, os.path.join(folder, "cache"))
    os.chdir(subject)


def _forbid_new_privileges(_: Becoming) -> str:
    syscalls.forbid_new_privileges()
    return ""


def _drop_capabilities(_: Becoming) -> str:
    syscalls.drop_capabilities()
    return ""


def _confine_to_grants(process: Becoming) -> str | None:
    if process.ruleset is None:
        return None
    for path, rights in (*process.closed, (process.orders["folder"], landlock.ALL)):
        landlock.grant(process.ruleset, path, rights)
    landlock.confine(process.ruleset)
    return str(landlock.abi())


def _filter_calls(process: Becoming) -> str:
    seccomp.confine(process.untouchable, os.getpid() if process.orders["user"] is None else None)
    return ""


def _clean_environment(process: Becoming) -> str:
    """Replace the environment of this process, which the candidate's program inherits."""
    os.environ.clear()
    os.environ.update(process.orders["env"])
    return ""


def _connect(port: int) -> None:
    import socket  # noqa: PLC0415 - slow to import, and the guardian does not need it

    socket.create_connection(("127.0.0.1", port), timeout=2).close()


def _read(path: str) -> None:
    with open(path, "rb") as file:
        file.read(1)


def _write(folder: str) -> None:
    path = os.path.join(folder, f".probe-{os.getpid()}")
    with open(path, "x", encoding="ascii"):
        os.unlink(path)


def _open_for_writing(path: str) -> None:
    """Open a file for writing without writing to it."""
    os.close(os.open(path, os.O_WRONLY))


def _note(path: str) -> None:
    os.setxattr(path, "user.probe", b"1")
    os.removexattr(path, "user.probe")


def _set_times(path: str) -> None:
    times = os.stat(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _look_into(folder: str) -> None:
    os.close(os.open(folder, os.O_RDONLY))


def _find(folder: str) -> None:
    os.close(os.open(folder, os.O_PATH))


LAYERS = (
    Layer("own-session", _own_session),
    Layer("rlimits", _limit),
    Layer("process-limit", _limit_processes),
    Layer(None, _make_folder),
    Layer(
        OWN_ROOT,
        _own_root,
        [
            Act("set the times of the data", lambda here: here.known_file, _set_times),
            Act("look for results", lambda here: here.results, _find),
        ],
    ),
    Layer("own-shared-memory", _own_shared_memory),
    Layer(None, _connect_output),
    Layer("closed-descriptors", _close_descriptors),
    Layer(None, _prepare_filters),
    Layer("other-uid", _become_user),
    Layer("parent-death-signal", _die_with_guardian),
    Layer(None, _write_files),
    Layer("no-new-privileges", _forbid_new_privileges),
    Layer("no-capabilities", _drop_capabilities),
    Layer(
        "landlock",
        _confine_to_grants,
        [
            Act("read the trainer's environment", lambda here: f"/proc/{here.worker}/environ", _read),
            Act("open the kernel's settings for writing", lambda _: "/proc/sys/kernel/core_pattern", _open_for_writing),
            Act("read the password", lambda here: here.password, _read),
            Act("read the data that scores", lambda here: here.private, _look_into),
            Act("write results", lambda here: here.results, _write),
            Act("write the data", lambda here: here.data, _write),
            Act("write the trainer's code", lambda here: here.code, _write),
        ],
    ),
    Layer("clean-environment", _clean_environment),
    Layer(
        "seccomp",
        _filter_calls,
        [
            Act("connect to a port of this machine", lambda here: here.port, _connect),
            Act("signal the trainer", lambda here: here.worker, lambda pid: os.kill(pid, 0)),
            Act(
                "pin the trainer to a core",
                lambda here: here.worker,
                lambda pid: os.sched_setaffinity(pid, os.sched_getaffinity(0)),
            ),
            Act("note something at the data", lambda here: here.known_file, _note),
        ],
    ),
)
