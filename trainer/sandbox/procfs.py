"""Reads the process table from procfs: processes, their descendants and their ancestors.

Promises: a process counts as running, with its memory, while any of its threads lives. A process that vanishes between
two reads is skipped. Standard library only, because the guardian imports this module.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # the guardian starts faster without imports for types
if TYPE_CHECKING:
    from collections.abc import Container, Iterator

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20
_ENDED = (b"Z", b"X")


class Process:
    """One process. `processor_s` includes children for which it has waited, `own_s` does not. `began` is in ticks.

    It is a plain class, because importing dataclasses would double the time of the guardian's start.
    """

    __slots__ = ("began", "own_s", "parent", "pid", "processor_s", "rss_mib", "state")

    def __init__(
        self, pid: int, parent: int, state: str, own_s: float, processor_s: float, rss_mib: float, began: int
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.state = state
        self.own_s = own_s
        self.processor_s = processor_s
        self.rss_mib = rss_mib
        self.began = began


def process_table() -> dict[int, Process]:
    """Return all visible processes by pid.

    Older processes are mostly read first. If a parent waits for a child meanwhile, the child's time is missing once
    rather than counted twice.
    """
    found = (read(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {process.pid: process for process in found if process is not None}


def processes(without: Container[str] = ()) -> Iterator[Process]:
    """Yield each visible process as soon as it is read, the latest mostly first, except the pids in `without`."""
    for name in reversed(os.listdir("/proc")):
        if name.isdigit() and name not in without and (process := read(int(name))) is not None:
            yield process


def descendants(root: int, table: dict[int, Process] | None = None) -> list[Process]:
    """Return all descendants of `root`, including zombies, parents before children."""
    table = process_table() if table is None else table
    children: dict[int, list[Process]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        below = children.pop(waiting.pop(), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def ancestors(pid: int) -> list[int]:
    """Return the pids of a process's parent, grandparent and so on."""
    found: list[int] = []
    while (process := read(pid)) is not None and process.parent:
        pid = process.parent
        found.append(pid)
    return found


def processes_of(uid: int) -> list[int]:
    """Return the running processes of a user, without zombies."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                owner = os.stat(f"/proc/{name}").st_uid
            except FileNotFoundError:
                continue
            if owner == uid and (process := read(int(name))) is not None and process.state != "Z":
                found.append(process.pid)
    return found


def read(pid: int) -> Process | None:
    """Return one process, or None if it is not visible."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        if fields[0] == b"Z" and int(fields[17]) > 1:
            fields[0], fields[21] = _of_a_thread_that_lives(pid)
    except (FileNotFoundError, ProcessLookupError):
        return None
    ticks = [int(field) for field in fields[11:15]]
    return Process(
        pid=pid,
        parent=int(fields[1]),
        state=fields[0].decode(),
        own_s=(ticks[0] + ticks[1]) / _TICKS_PER_S,
        processor_s=sum(ticks) / _TICKS_PER_S,
        rss_mib=int(fields[21]) * _PAGE_MIB,
        began=int(fields[19]),
    )


def place(pid: int) -> str:
    """Return the folder in procfs with a process's memory, environment and descriptors.

    It is the process's own, or that of a living thread if the first thread has ended. Such a process looks like a
    zombie, without any of these.
    """
    folder = f"/proc/{pid}"
    try:
        if os.listdir(f"{folder}/task") == [str(pid)]:
            return folder
    except (FileNotFoundError, ProcessLookupError):
        return folder
    return next((thread for thread, fields in _threads(pid) if fields[0] not in _ENDED), folder)


def _of_a_thread_that_lives(pid: int) -> tuple[bytes, bytes]:
    """Return state and resident pages of a living thread, or of a zombie if there is none."""
    lives = next((fields for _, fields in _threads(pid) if fields[0] not in _ENDED), None)
    return (lives[0], lives[21]) if lives is not None else (b"Z", b"0")


def _threads(pid: int) -> Iterator[tuple[str, list[bytes]]]:
    """Yield the folder and the fields after the name for each thread, or nothing if the process is gone."""
    try:
        names = os.listdir(f"/proc/{pid}/task")
    except (FileNotFoundError, ProcessLookupError):
        return
    for name in names:
        try:
            with open(f"/proc/{pid}/task/{name}/stat", "rb") as file:
                yield f"/proc/{pid}/task/{name}", file.read().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
