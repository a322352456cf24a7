"""Tests an overnight.toml against the files of its repository, and tells it to the user.

Only the functions about committed files run git, because the container that prepares the data has none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from researcher.files import read_text
from researcher.repository.repository import EDITABLE, Workspace
from services.adopt.subject_check import ShapeRefused
from services.adopt.task_file import read_task
from services.machine.state import StateError
from trainer.jobs.task import TASK_FILE, Task, TaskFault, changes, faults_in

NOT_THIS_RUN = (
    "the scores would not compare with those of the run, which stays as it is: restore the file, or begin another run "
    "in another state"
)


def sound_task(folder: Path, files_of: Callable[[str], Mapping[str, str]]) -> Task:
    """Return the task of a repository. `files_of` returns its Python files, by path, for the name of the edited one.

    Raises ShapeRefused with all faults, and what `files_of` raises.
    """
    if not (folder / TASK_FILE).is_file():
        raise ShapeRefused(f"{folder} has no {TASK_FILE} any more; restore it")
    task = read_task(read_text(folder / TASK_FILE))
    if not isinstance(task, Task):
        raise _refusal(task)
    if not (folder / task.edit).is_file():
        raise ShapeRefused(f"{TASK_FILE}, edit: {task.edit} is no file of {folder}; name a committed one")
    hashes = _hashes(files_of(task.edit))
    faults = (*faults_in(_resolved(task, folder), hashes, PurePosixPath(folder)), *_absent(task, folder))
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
    """Return the committed Python files, by their names. Raises SubjectError, also for uncommitted changes."""
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
        f"{len(task.fixed)} pinned files, {len(task.readable)} readable paths",
    )


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


def _refusal(faults: tuple[TaskFault, ...]) -> ShapeRefused:
    if len(faults) == 1:
        return ShapeRefused(str(faults[0]))
    return ShapeRefused(f"{len(faults)} faults: " + " ".join(f"({at}) {each}." for at, each in enumerate(faults, 1)))
