"""What a candidate can do, attack by attack and cell by cell, in the three ways in which candidates run.

`tests/subjects/attacks.py` tries; this says what must come of it. Same uid: plain processes, as ourselves. Other uid:
plain processes started by root, under a uid of their own. Container: the shipped trainer. A cell that leans on Landlock
alone says since which version of it: below that root is told `done`, and only another uid or a container helps. Where a
candidate has a root of its own (the layer read-only-mounts), what was not granted is not even there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from trainer.sandbox.landlock import abi

ATTACKS = Path(__file__).parent / "subjects" / "attacks.py"


class Answer(Enum):
    """What an attack said, as the set of words for it."""

    DONE = frozenset({"done"})
    DENIED = frozenset({"EPERM", "EACCES", "EROFS"})
    AWAY = frozenset({"EPERM", "EACCES", "EROFS", "ENOENT"})  # closed, or not in its root
    NO_NOTE = frozenset({"ENOTSUP", "EOPNOTSUPP"})  # the filter's word for every attribute of a file
    NO_TABLES = frozenset({"EPERM", "ENOSYS"})  # other processors have no such call
    NO_FAMILY = frozenset({"EAFNOSUPPORT"})  # the filter's word for every socket but unix sockets
    NO_CALL = frozenset({"ENOSYS"})
    NO_USER = frozenset({"EPERM", "EINVAL"})  # no right, or in a user namespace of its own no such user
    NO_NAME = frozenset({"gaierror"})
    ABSENT = frozenset({"ENOENT"})
    NOTHING = frozenset({"nothing"})  # it looked, and found nothing
    MAYBE = frozenset({"done", "nothing"})  # as the disk is mounted


@dataclass(frozen=True)
class Cell:
    """The expected answer; where only Landlock gives it, since which version; and what a root of the candidate's own
    gives instead, whatever the kernel has of Landlock."""

    answer: Answer
    landlock: int = 0
    own_root: Answer | None = None

    def allows(self, word: str, version: int, *, own_root: bool) -> bool:
        """Without that Landlock root meets nothing; others may still meet root's modes, or a user namespace's walls."""
        if own_root and self.own_root is not None:
            return word in self.own_root.value
        if version >= self.landlock:
            return word in self.answer.value
        return word in Answer.DONE.value or (os.geteuid() != 0 and word in self.answer.value)


@dataclass(frozen=True)
class Elsewhere:
    """Too destructive for a candidate that tries on: the test below tests/ that asserts this cell."""

    test: str


@dataclass(frozen=True)
class Row:
    """One attack. `why` explains cells that differ, or an attack that gets through."""

    attack: str
    same_uid: Cell | Elsewhere
    other_uid: Cell | Elsewhere
    container: Cell | Elsewhere
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What the candidate said: an answer to each attack, and what it is."""

    answers: Mapping[str, str]
    nature: Mapping[str, Any]

    @classmethod
    def read(cls, log: str) -> Report:
        said: dict[str, dict[str, Any]] = {"ATTACK": {}, "NATURE": {}}
        for line in log.splitlines():
            kind, _, told = line.partition(" ")
            if kind in said:
                name, value = json.loads(told)
                said[kind][name] = value
        assert "writable" in said["NATURE"], f"it did not get to its end: {log[-3000:]}"
        return cls(said["ATTACK"], said["NATURE"])

    def unlike(self, mode: str, *, own_root: bool = False) -> list[str]:
        """Cells of a column (same_uid, other_uid, container) that are not as the table says, in words."""
        cells = {row.attack: cell for row in BATTERY if isinstance(cell := getattr(row, mode), Cell)}
        return [
            f"{attack}: {self.answers.get(attack)}, expected {cells.get(attack)}"
            for attack in sorted(cells.keys() | self.answers.keys())
            if attack not in cells
            or not cells[attack].allows(self.answers.get(attack, "not tried"), abi(), own_root=own_root)
        ]


def source(targets: Mapping[str, object]) -> str:
    """The candidate, told where everything is."""
    text = ATTACKS.read_text()
    assert text.count("TARGETS = {}") == 1
    return text.replace("TARGETS = {}", f"TARGETS = {dict(targets)!r}")


def never(attack: str, answer: Answer = Answer.DENIED, why: str = "") -> Row:
    """The same in every mode, whatever the kernel."""
    return Row(attack, Cell(answer), Cell(answer), Cell(answer), why)


def always(attack: str, why: str = "") -> Row:
    return never(attack, Answer.DONE, why)


def walled(attack: str) -> Row:
    """Under our own uid nothing but Landlock and a root of its own stand in the way; a user of its own meets modes and
    owners first."""
    same = Cell(Answer.DENIED, landlock=1, own_root=Answer.AWAY)
    return Row(attack, same, Cell(Answer.DENIED, own_root=Answer.AWAY), Cell(Answer.DENIED))


def open_to_all(attack: str, why: str) -> Row:
    """Modes let everybody in: only Landlock or a root of its own closes it."""
    plain = Cell(Answer.DENIED, landlock=1, own_root=Answer.AWAY)
    return Row(attack, plain, plain, replace(plain, own_root=None), why)


def owners(attack: str, why: str) -> Row:
    """What an owner may do to his files: under our own uid only a root of its own, which is read-only, closes it."""
    return Row(attack, Cell(Answer.DONE, own_root=Answer.AWAY), *[Cell(Answer.DENIED, own_root=Answer.AWAY)] * 2, why)


def at_tests(attack: str, same_uid: str, other_uid: str, container: str, why: str = "") -> Row:
    return Row(attack, Elsewhere(same_uid), Elsewhere(other_uid), Elsewhere(container), why)


_FAULT = "trainer/test_faults.py::test_fault_has_its_outcome_and_leaves_nothing"
_CONTAINER = "compose/test_isolation.py::test_candidate_that_takes_"
_TOO_MUCH = f"{_CONTAINER}too_much_is_ended_and_the_worker_lives_on"

BATTERY = (
    # Networks: the system call filter, in every mode
    never("connect to the queue's server", Answer.NO_FAMILY),
    never("connect to an address outside", Answer.NO_FAMILY),
    never("ask a name server", Answer.NO_NAME),
    never("send a datagram", Answer.NO_FAMILY),
    never("listen on a TCP port", Answer.NO_FAMILY),
    never("ask the kernel for routes", Answer.NO_FAMILY),
    Row(
        "connect to an abstract unix socket of a service",
        *[Cell(Answer.DENIED, landlock=6)] * 3,
        "they have no owner and no mode: only Landlock's scope closes them, from Linux 6.12",
    ),
    Row(
        "connect to a unix socket that lies open to all",
        *[Cell(Answer.DONE, own_root=Answer.AWAY)] * 3,
        "loaders with workers need unix sockets, so the filter lets them through; Landlock can ask about their paths "
        "on kernels of 2026 only, and we do not ask. Without a root of its own keep none where candidates run",
    ),
    # Other processes
    never("read the worker's environment", why="also without Landlock: it is undumpable"),
    Row(
        "read anybody's environment",
        Cell(Answer.NOTHING, landlock=1),
        Cell(Answer.NOTHING),
        Cell(Answer.NOTHING),
        "without Landlock, that of every process with our uid and no more rights than a candidate",
    ),
    never("open the worker's memory"),
    never("read the worker's memory by a call"),
    Row(
        "count the worker's descriptors",
        Cell(Answer.DENIED if os.geteuid() else Answer.DONE),
        Cell(Answer.DENIED),
        Cell(Answer.DENIED),
        "an undumpable process belongs to root in procfs; root under its own uid may list it, and learns numbers",
    ),
    never("open what the worker holds"),
    never("trace the worker"),
    never("signal the worker"),
    never("signal the guardian"),
    never("signal the first process"),
    never("signal everybody"),
    never("signal the worker through procfs"),
    never("have the kernel signal the worker"),
    never("limit the worker"),
    never("renice the worker"),
    never("pin the worker to a core"),
    never("pin a neighbour to a core", why="under our own uid it schedules itself alone"),
    never("make a neighbour idle"),
    never("use System V memory of a neighbour"),
    never("compare itself with the worker"),
    walled("offer the worker to the memory killer"),
    walled("open the kernel's settings for writing"),
    # Itself
    never("find a password in its environment", Answer.NOTHING),
    never("become another user", Answer.NO_USER),
    always("start a program", "torch.compile starts a compiler; whatever is started stays behind the same walls"),
    always("leave a daemon", "it starts, and is dead when the trial ends"),
    # Files
    walled("read the password"),
    walled("read the validation rows"),
    walled("read the machine's secrets"),
    open_to_all("read another's result", "no secret; where their modes let everybody read, only these close them"),
    Row(
        "look whether there are results",
        *[Cell(Answer.DONE, own_root=Answer.AWAY)] * 2,
        Cell(Answer.DONE),
        "Landlock does not ask about names: how many there are tells a trial which it is; all that count are examined",
    ),
    walled("write a result"),
    owners(
        "change the mode of the results",
        "Landlock does not ask about modes: a candidate of our own uid could close our files, or open them to others",
    ),
    owners("set the times of the training rows", "nor about times: a memory for its replica and the next trial"),
    never("note something at the training rows", Answer.NO_NOTE),
    never("note something at what it was given", Answer.NO_NOTE, "its replica is given the weights too"),
    never("leave a hint at the training rows"),
    never("take a lease on the training rows"),
    Row(
        "see what was read by its time",
        Cell(Answer.MAYBE, own_root=Answer.NOTHING),
        Cell(Answer.MAYBE, own_root=Answer.NOTHING),
        Cell(Answer.NOTHING),
        "every file that can be read holds a bit where the kernel notes when it was",
    ),
    never("ask which parts of a file are in memory", Answer.NO_CALL),
    never("read what is in memory and nothing else"),
    never("throw a file out of memory", Answer.NO_CALL),
    walled("write the data"),
    walled("write the trainer's code"),
    replace(walled("write the repository"), container=Cell(Answer.ABSENT)),
    walled("write beside its work"),
    open_to_all("write the general /tmp", "its mode lets everybody write"),
    always(
        "leave a file in shared memory",
        "loaders with workers need it. A user of its own has nothing left there by the next trial, nor has a candidate "
        "whose layers say own-shared-memory; else, under our own uid, nobody can tell whose a file is, and it stays",
    ),
    # The kernel: the system call filter, in every mode
    never("make a user namespace"),
    never("make a network namespace"),
    never("start a process by clone3", Answer.NO_CALL),
    never("mount"),
    never("enter a namespace"),
    never("set up io_uring", Answer.NO_CALL),
    never("use the kernel's keys"),
    never("load a program into the kernel"),
    never("count events of the processor"),
    never("leave System V memory"),
    never("stop the kernel at a page of its own"),
    never("have memory that nobody may look at"),
    never("watch a whole disk"),
    never("change the processor's tables", Answer.NO_TABLES),
    never("run without random addresses"),
    never("open a file by its number"),
    never("copy mounts"),
    never("make a file system"),
    never("sync quotas"),
    never("answer the calls of another process"),
    # What honest scripts need
    always("read the training rows"),
    always("write at home"),
    always("talk to itself by a unix socket"),
    always("start and hear a process"),
    always("share memory with a process"),
    always("run a thread"),
    always("name its user"),
    always("copy a file with its times"),
    always("map the training rows"),
    always("lock a file of its own"),
    always("keep memory in a file without a name"),
    always("choose its own cores"),
    always("write to nowhere"),
    # What would take the machine along
    at_tests(
        "start 400 processes",
        f"{_FAULT}[same-uid-forks_without_end]",
        f"{_FAULT}[other-uid-forks_without_end]",
        f"{_TOO_MUCH}[forks]",
        "the trainer counts twice a second; a uid of its own and a container have the kernel's limit behind that",
    ),
    at_tests(
        "take all memory",
        f"{_FAULT}[same-uid-hogs_memory]",
        f"{_FAULT}[other-uid-hogs_memory]",
        f"{_CONTAINER}all_memory_is_out_of_memory_and_the_worker_lives_on",
        "ended by the trainer; in a container the kernel may be quicker, and takes the candidate first",
    ),
    at_tests(
        "fill the disk with one file",
        f"{_FAULT}[same-uid-fills_the_disk_with_one_file]",
        f"{_FAULT}[same-uid-fills_the_disk_with_one_file]",
        f"{_TOO_MUCH}[one-file]",
        "a limit of the kernel's, on every uid alike",
    ),
    at_tests(
        "fill the disk with many files",
        f"{_FAULT}[same-uid-fills_the_disk_with_files]",
        f"{_FAULT}[other-uid-fills_the_disk_with_files]",
        f"{_TOO_MUCH}[many-files]",
        "ended by the trainer; a container's work folder has a size instead",
    ),
)
