"""The task of a user's repository: its editable file, its command, its metric and its limits.

`overnight.toml` holds a task, and `services.adopt.task_file` reads and writes that file. All checks here are functions
of values that return every fault with its place and its next step. A task either trusts the number that its command
prints, or names a second command that scores the output folder with data that the first one cannot read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from trainer.jobs.metric import Degree, Metric

TASK_FILE = "overnight.toml"
EDITED_IN_TRIALS = "train.py"  # the name of the edited file in every spec
PYTHON = "python"  # as the first word of a command: the interpreter of the trial
LONGEST_S = 24 * 3600.0
_METRIC_NAME = re.compile(r"[A-Za-z][\w.@/-]{0,63}", re.ASCII)
_ARGUMENT = re.compile(r"--?[A-Za-z][\w.-]*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COLUMNS = ("commit", "memory_gb", "status", "description")  # of results.tsv, beside the metric


@dataclass(frozen=True)
class ScoreCommand:
    """The command that scores the output folder of a candidate.

    Only this command may read `readable`, the data with which it scores. `output` is the folder that the candidate
    fills, relative to the repository.
    """

    command: tuple[str, ...]
    output: str
    readable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A task. Paths are relative to the repository, or absolute in `readable`.

    `seed` is the argument (`--seed`) or the variable of the environment (`SEED`) through which the command gets its
    seed. `fixed` maps files that no candidate may change to their sha256. `sigma_floor` is the smallest standard
    deviation over seeds that the decision rule uses, in the metric's unit.
    """

    edit: str
    command: tuple[str, ...]
    seconds: float
    seed: str
    sigma_floor: float
    metric: Metric
    fixed: dict[str, str]
    readable: tuple[str, ...] = ()
    score: ScoreCommand | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Task:
        """Parse plain JSON values. Raise ValueError (pydantic's ValidationError) that names each invalid field."""
        return _ADAPTER.validate_python(values)

    def hides(self, path: str, folder: PurePosixPath) -> bool:
        """Return whether only the score command may read this path of the repository `folder`."""
        hidden = () if self.score is None else self.score.readable
        return any(_overlap(folder / path, folder / secret) for secret in hidden)

    @property
    def degree(self) -> Degree:
        """The degree of trust in the scores of the task."""
        return Degree.CLAIMED if self.score is None else Degree.MEASURED

    def command_with(self, seed: int) -> tuple[str, ...]:
        """Return the command with its seed, if an argument carries it."""
        return (*self.command, self.seed, str(seed)) if self.seed.startswith("-") else self.command

    def variables_with(self, seed: int) -> dict[str, str]:
        """Return the variables that the command gets for its seed."""
        return {} if self.seed.startswith("-") else {self.seed: str(seed)}


_ADAPTER = TypeAdapter(Task)


@dataclass(frozen=True)
class TaskFault:
    """A fault of a task: its place in overnight.toml, one sentence, and the next step."""

    where: str
    fault: str
    next_step: str

    def __str__(self) -> str:
        return f"{TASK_FILE}, {self.where}: {self.fault}; {self.next_step}"


def changes(before: Task, after: Task) -> tuple[str, ...]:
    """Return a sentence for each key of overnight.toml that has changed, with both values."""
    old, new = _by_key(before.to_json()), _by_key(after.to_json())
    return tuple(
        f"{key} was {old.get(key, 'not set')}, and is {new.get(key, 'not set')} now"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    )


def _by_key(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested tables by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _by_key(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def faults_of(task: Task) -> tuple[TaskFault, ...]:
    """Return the faults of a task that need no look at the repository."""
    return (*_faults_of_paths(task), *_faults_of_values(task), *_faults_of_score(task))


def faults_in(task: Task, hashes: Mapping[str, str], folder: PurePosixPath) -> tuple[TaskFault, ...]:
    """Return the faults of a task in the repository `folder`, whose tracked files have these sha256, by path."""
    return (*_faults_of_files(task, hashes), *_faults_of_hidden(task, folder))


def _faults_of_paths(task: Task) -> Iterator[TaskFault]:
    inside = [("edit", task.edit), *(("fixed", name) for name in task.fixed)]
    inside += [] if task.score is None else [("score.output", task.score.output)]
    for where, path in inside:
        if not _is_inside(path):
            yield TaskFault(where, f"{path!r} is no path inside the repository", "write it relative, without `..`")
    anywhere = [("readable", path) for path in task.readable]
    anywhere += [] if task.score is None else [("score.readable", path) for path in task.score.readable]
    for where, path in anywhere:
        if not (_is_inside(path) or _is_absolute(path)):
            yield TaskFault(where, f"{path!r} is no plain path", "write it absolute, or relative without `..`")
    if task.edit in task.fixed:
        yield TaskFault("fixed", f"{task.edit} is the file that candidates edit", "leave it out of `fixed`")
    elif EDITED_IN_TRIALS in task.fixed:
        yield TaskFault("fixed", f"in trials, {EDITED_IN_TRIALS} is the name of {task.edit}", "rename the pinned file")


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and path.isprintable() and "\\" not in path and not {"..", "/", "//", ".git"} & {*parts}


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and path.isprintable() and ".." not in PurePosixPath(path).parts


def _faults_of_values(task: Task) -> Iterator[TaskFault]:
    commands = [("command", task.command)] + ([] if task.score is None else [("score.command", task.score.command)])
    for where, command in commands:
        if not command or not all(word and word.isprintable() for word in command):
            yield TaskFault(where, "it has no words, or an empty one", f'write it as a list: ["{PYTHON}", "train.py"]')
    if not (_ARGUMENT.fullmatch(task.seed) or _VARIABLE.fullmatch(task.seed)):
        yield TaskFault("seed", f"{task.seed!r} is neither", "write an argument, `--seed`, or a variable, `SEED`")
    if not 1 <= task.seconds <= LONGEST_S:
        yield TaskFault("seconds", f"{task.seconds:g} is not in 1 to {LONGEST_S:g}", "give the seconds of one trial")
    if not (task.sigma_floor > 0 and math.isfinite(task.sigma_floor)):
        yield TaskFault(
            "sigma_floor", f"{task.sigma_floor:g} is not above 0", "give half of the least gain of interest"
        )
    for path, digest in task.fixed.items():
        if not _SHA256.fullmatch(digest):
            yield TaskFault("fixed", f"{path} has no sha256", f"write what `sha256sum {path}` prints")
    name = task.metric.name
    if not _METRIC_NAME.fullmatch(name):
        yield TaskFault("metric.name", f"{name!r} cannot be found in output", "use letters, digits and . _ @ / -")
    elif name in _COLUMNS:
        yield TaskFault("metric.name", f"{name} is another column of results.tsv", "choose another name")
    if not task.metric.unit.isprintable():
        yield TaskFault("metric.unit", "it has control characters", "write it as plain text")


def _faults_of_score(task: Task) -> Iterator[TaskFault]:
    if task.score is None:
        return
    known = (task.edit, *task.fixed, *task.readable, *task.score.readable)
    shared = [path for path in known if _is_inside(task.score.output) and _overlap(task.score.output, path)]
    if shared:
        yield TaskFault(
            "score.output", f"{task.score.output} is not apart from {shared[0]}", "name a folder of its own"
        )
    yield from _faults_of_hidden(task, PurePosixPath())
    words = {str(PurePosixPath(word)) for word in task.score.command}
    if task.edit in words:
        yield TaskFault("score.command", f"it runs {task.edit}, which candidates edit", "score in a fixed file")
    elif not words & {*task.fixed} and not task.score.readable:
        yield TaskFault(
            "score.command", "it runs no fixed file and reads no data of its own", "pin its script in `fixed`"
        )


def _faults_of_hidden(task: Task, folder: PurePosixPath) -> Iterator[TaskFault]:
    """Yield the data of the score command that the candidate could read, with all paths taken from `folder`."""
    hidden = () if task.score is None else task.score.readable
    for secret in hidden:
        open_to = [
            path for path in (task.edit, *task.fixed, *task.readable) if _overlap(folder / secret, folder / path)
        ]
        if open_to:
            yield TaskFault(
                "score.readable", f"the candidate could read {secret} through {open_to[0]}", "keep both in two folders"
            )


def _overlap(one: str | PurePosixPath, other: str | PurePosixPath) -> bool:
    """Return True if one path is the other, or lies in it."""
    ours, theirs = PurePosixPath(one), PurePosixPath(other)
    return ours.is_relative_to(theirs) or theirs.is_relative_to(ours)


def _faults_of_files(task: Task, hashes: Mapping[str, str]) -> Iterator[TaskFault]:
    if task.edit not in hashes:
        yield TaskFault("edit", f"{task.edit} is no committed Python file", "name one")
    for path, digest in task.fixed.items():
        if path not in hashes:
            yield TaskFault("fixed", f"{path} is no committed Python file", "name one, and data in `readable`")
        elif hashes[path] != digest:
            step = f"restore it, or pin it again: {path} = {hashes[path]}"
            yield TaskFault("fixed", f"{path} has changed since it was pinned", step)
    if task.score is None:
        return
    for word in task.score.command:
        if word in hashes and word not in task.fixed and word != task.edit:
            yield TaskFault("score.command", f"{word} is not pinned", "add it to `fixed`")
