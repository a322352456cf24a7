"""Tests an overnight.toml against the files of its repository, and tells it to the user.

Only the functions about committed files run git, because the container that prepares the data has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from researcher.files import read_text
from researcher.repository.git_command import git_succeeds
from researcher.repository.repository import EDITABLE, Workspace
from researcher.source.syntax import parse
from services.adopt import packages
from services.adopt.conditions import placed
from services.adopt.subject_check import ShapeRefused
from services.adopt.task_file import read_task
from services.machine.state import StateError
from trainer.jobs.task import PYTHON, TASK_FILE, ScoreCommand, Task, TaskFault, changes, faults_in
from trainer.sandbox.landlock import READ
from trainer.sandbox.visible_paths import grants

NOT_THIS_RUN = (
    "the scores would not compare with those of the run, which stays as it is: restore the file, or begin another run "
    "in another state"
)


def sound_task(
    folder: Path, files_of: Callable[[str], Mapping[str, str]], *, gpu: bool = False, container: bool = False
) -> Task:
    """Return the task of a repository. `files_of` returns its Python files, by path, for the name of the edited one.

    With `gpu`, packages that only a machine with a GPU imports must be here, too. In a `container` the image has them.
    Raises ShapeRefused with all faults, and what `files_of` raises.
    """
    if not (folder / TASK_FILE).is_file():
        raise ShapeRefused(f"{folder} has no {TASK_FILE} any more; restore it")
    task = read_task(read_text(folder / TASK_FILE))
    if not isinstance(task, Task):
        raise _refusal(task)
    if not (folder / task.edit).is_file():
        raise ShapeRefused(f"{TASK_FILE}, edit: {task.edit} is no file of {folder}; name a committed one")
    files, resolved = files_of(task.edit), _resolved(task, folder)
    faults = (
        *faults_in(resolved, _hashes(files), PurePosixPath(folder)),
        *_absent(task, folder),
        *_open_to_all(resolved),
        *_missing_packages(task, files, gpu=gpu, container=container),
    )
    if faults:
        raise _refusal(faults)
    return task


def require_same_task(folder: Path, task: Task, *, retry: str) -> None:
    """Raise StateError with the differences if the repository's overnight.toml holds another task, or faults.

    A repository without the file is no longer the place of the task, whose run continues without it.
    """
    if not (folder / TASK_FILE).exists():
        return
    found = read_task(read_text(folder / TASK_FILE))
    if found == task:
        return
    words = changes(task, found) if isinstance(found, Task) else map(str, found)
    raise StateError(f"{TASK_FILE} of {folder} has changed: {'; '.join(words)}", retry)


def require_committed(folder: Path, task: Task, *, begins: bool) -> None:
    """Raise StateError if overnight.toml has changed since its data were made.

    If a run `begins`, also raise it if the last commit lacks a file of the task, or has another pinned one.
    """
    require_same_task(folder, task, retry=NOT_THIS_RUN if not begins else "start the stack again")
    if not begins:
        return
    faults = faults_in(task, _hashes(committed_files(folder, task.edit)), PurePosixPath(folder))
    if faults:
        raise StateError(str(_refusal(faults)), "commit the files, and start the stack again")


def committed_files(folder: Path, edit: str) -> dict[str, str]:
    """Return the committed Python files, by their names. Raises ShapeRefused if overnight.toml is not among them, and
    SubjectError, also for uncommitted changes."""
    if not git_succeeds(folder, "cat-file", "-e", f"HEAD:{TASK_FILE}"):
        raise ShapeRefused(
            f"{TASK_FILE} is not in the last commit of {folder}; a run takes it from there: git add {TASK_FILE} && "
            "git commit"
        )
    workspace = Workspace(folder, script=edit)
    try:
        workspace.require_clean()
        workspace.require_portable(workspace.head())
        files = workspace.files(workspace.head())
    finally:
        workspace.close()
    return {name: text for name, text in files.items() if name != EDITABLE} | {edit: files[EDITABLE]}


def task_lines(task: Task) -> tuple[str, ...]:
    """Return what a user should know of a task, as lines."""
    return (
        f"edits {task.edit}, runs `{' '.join(task.command)}` for at most {task.seconds:g} s",
        f"{task.metric.name}: {task.metric.explained(task.degree)}",
        _scored_by(task.score),
        f"no candidate may change: {_listed(task.fixed)}",
        f"candidates may read, beside the commit: {_listed(task.readable)}",
    )


def _scored_by(score: ScoreCommand | None) -> str:
    if score is None:
        return "no command measures the value; a table [score] would name one"
    hidden = f", which alone may read {_listed(score.readable)}" if score.readable else ""
    return f"measured by `{' '.join(score.command)}`{hidden}"


def _listed(paths: Iterable[str]) -> str:
    return ", ".join(paths) or "nothing"


def _hashes(files: Mapping[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}


def _resolved(task: Task, folder: Path) -> Task:
    """Return the task with absolute readable paths, so that no link hides where they lead."""

    def resolved(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(str((folder / path).resolve()) for path in paths)

    score = None if task.score is None else replace(task.score, readable=resolved(task.score.readable))
    return replace(task, readable=resolved(task.readable), score=score)


def _absent(task: Task, folder: Path) -> tuple[TaskFault, ...]:
    paths = [("readable", path) for path in task.readable]
    paths += [] if task.score is None else [("score.readable", path) for path in task.score.readable]
    return tuple(
        TaskFault(where, f"{path} is not there", "create it, or leave it out")
        for where, path in paths
        if not (folder / path).exists()
    )


def _open_to_all(task: Task) -> Iterator[TaskFault]:
    """Yield the data of the score command, given by absolute paths, that the sandbox lets every candidate read."""
    read = [Path(path).resolve() for path, right in grants(None) if right & READ == READ]
    for secret in () if task.score is None else task.score.readable:
        if folder := next((path for path in read if Path(secret).is_relative_to(path)), None):
            fault = f"every candidate can read {secret}, since Python or the system needs {folder}"
            yield TaskFault("score.readable", fault, "keep these data elsewhere")


def _missing_packages(task: Task, files: Mapping[str, str], *, gpu: bool, container: bool) -> Iterator[TaskFault]:
    """Yield the packages that the scripts of the commands import for sure, and that this Python lacks."""
    own = {PurePosixPath(part).stem for name in files for part in PurePosixPath(name).parts}
    own |= {PurePosixPath(path).stem for path in task.readable}
    commands = [("command", task.command), *([] if task.score is None else [("score.command", task.score.command)])]
    named: set[str] = set()
    for where, (program, *arguments) in commands:
        for script in (argument for argument in arguments if argument in files and program == PYTHON):
            nodes = placed(parse(files[script], script))
            needed, _ = packages.missing(list(packages.imports(nodes)), own, gpu=gpu)
            for name in (name for name in needed if name not in named):
                named.add(name)
                fault = f"{script} imports {name}, which is not here"
                yield TaskFault(where, fault, packages.install_step(name, container=container))


def _refusal(faults: tuple[TaskFault, ...]) -> ShapeRefused:
    if len(faults) == 1:
        return ShapeRefused(str(faults[0]))
    return ShapeRefused(f"{len(faults)} faults: " + "; ".join(f"({at}) {each}" for at, each in enumerate(faults, 1)))
