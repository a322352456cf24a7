"""`overnight init` for any task: the repository's overnight.toml becomes the task of a run.

A repository without the file gets a proposal, which is written only if the user agrees, and counts once it is
committed. Nothing of the repository is run here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

from rich.console import Console

from researcher.files import read_text
from researcher.repository.git_command import git_succeeds, run_git
from researcher.repository.repository import EDITABLE, Workspace
from researcher.source.syntax import parse
from services.adopt import packages
from services.adopt.adopt import Init, adopt
from services.adopt.conditions import placed
from services.adopt.subject_check import ShapeRefused
from services.adopt.task_file import read_task, task_text
from services.adopt.task_guess import guessed_task
from services.machine.state import RunConfig, State, StateError
from services.machine.subject import FIXED
from trainer.data import Manifest
from trainer.data.task_data import TaskData, read_task_data, write_task_data
from trainer.jobs import profile_named
from trainer.jobs.task import PYTHON, TASK_FILE, Task, TaskFault, faults_in
from trainer.sandbox.landlock import READ
from trainer.sandbox.visible_paths import grants


def take(state: State, options: Init, agreed: Callable[[str], bool], console: Console) -> Manifest | TaskData | None:
    """Take a repository with an overnight.toml, or without a prepare.py, as a task, and any other as a GPT training
    script. Return what trials run on, or None if the user refused. Raises StateError or ShapeRefused."""
    repository = options.repository
    if (repository / TASK_FILE).exists() or not (repository / FIXED).exists():
        return adopt_task(state, repository, options.profile, agreed, console)
    return adopt(state, options, agreed, console)


def adopt_task(
    state: State, repository: Path, profile: str, agreed: Callable[[str], bool], console: Console
) -> TaskData | None:
    """Make the state one of this task; None if the user refused a proposal. Raises StateError or ShapeRefused."""
    if state.has_begun:
        raise StateError(f"a run has begun in {state.root}", "name another --state for `overnight init`")
    folder = repository.resolve()
    if not (folder / TASK_FILE).exists():
        _propose(folder, agreed, console)
        return None
    held = TaskData(_sound_task(folder, profile), str(folder))
    for line in _lines(held.task):
        console.print(f"  {line}", soft_wrap=True, markup=False)
    state.make()
    write_task_data(state.data, held)
    state.write(RunConfig(profile, None, str(folder), None, script=held.task.edit, task=held.task.to_json()))
    console.print(f"Next: overnight run --state {state.root}", soft_wrap=True)
    return held


def settle_task(state: State, choices: RunConfig) -> TaskData:
    """Return the task of the run. Raises StateError if the repository's pinned files or overnight.toml have changed
    since `overnight init`; once a run has begun, the trainer tests the pinned files at every trial."""
    held = read_task_data(state.data)
    retry = f"overnight init --subject {choices.subject} --state {state.root}"
    if held is None or held.task.to_json() != choices.task:
        raise StateError(f"the task of {choices.subject} is damaged in {state.data}", f"take it again: {retry}")
    if not state.has_begun and _sound_task(Path(choices.subject), choices.profile) != held.task:
        raise StateError(f"{TASK_FILE} of {choices.subject} has changed", f"take it again: {retry}")
    return held


def _propose(folder: Path, agreed: Callable[[str], bool], console: Console) -> None:
    """Show the proposal for a repository, and write it if the user agrees. Then raise ShapeRefused: it is to be edited
    and committed first."""
    names = run_git(folder, "ls-files", "-z", "*.py").decode(errors="replace").split("\0")
    files = {name: read_text(folder / name) for name in names if (folder / name).is_file()}
    guess = guessed_task(files, tuple(path.name for path in folder.iterdir() if path.is_dir()))
    if guess is None:
        raise ShapeRefused(f"{folder} has no Python file that could be edited; write {TASK_FILE} for its task")
    text = task_text(guess.task)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    for line in guess.found:
        console.print(f"  {line}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"Not sure: {', '.join(guess.unsure)}", soft_wrap=True)
    if agreed(f"Write this as {folder / TASK_FILE}?"):
        (folder / TASK_FILE).write_text(text, encoding="utf-8")
        raise ShapeRefused(f"{TASK_FILE} is written; edit it, commit it, and repeat `overnight init`")


def _sound_task(folder: Path, profile: str) -> Task:
    """Return the task of a repository, for trials of a profile. Raises ShapeRefused with all its faults."""
    task = read_task(read_text(folder / TASK_FILE))
    if not isinstance(task, Task):
        raise _refusal(task)
    if not git_succeeds(folder, "cat-file", "-e", f"HEAD:{TASK_FILE}"):
        raise ShapeRefused(
            f"{TASK_FILE} is not in the last commit of {folder}; a run takes it from there: git add {TASK_FILE} && "
            "git commit"
        )
    if not (folder / task.edit).is_file():
        raise ShapeRefused(f"{TASK_FILE}, edit: {task.edit} is no file of {folder}; name a committed one")
    files = _files(folder, task.edit)
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    resolved = _resolved(task, folder)
    faults = (
        *faults_in(resolved, hashes, PurePosixPath(folder)),
        *_absent(task, folder),
        *_open_to_all(resolved),
        *_missing_packages(task, files, gpu=profile_named(profile).device != "cpu"),
    )
    if faults:
        raise _refusal(faults)
    return task


def _files(folder: Path, edit: str) -> dict[str, str]:
    """Return the committed Python files, by their names. Raises SubjectError, also for uncommitted changes."""
    workspace = Workspace(folder, script=edit)
    try:
        workspace.require_clean()
        workspace.require_portable(workspace.head())
        files = workspace.files(workspace.head())
    finally:
        workspace.close()
    return {name: text for name, text in files.items() if name != EDITABLE} | {edit: files[EDITABLE]}


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
    read = [Path(path).resolve() for path, right in grants(Path(os.devnull)) if right & READ == READ]
    for secret in () if task.score is None else task.score.readable:
        if folder := next((path for path in read if Path(secret).is_relative_to(path)), None):
            fault = f"every candidate can read {secret}, since Python or the system needs {folder}"
            yield TaskFault("score.readable", fault, "keep these data elsewhere")


def _missing_packages(task: Task, files: Mapping[str, str], *, gpu: bool) -> Iterator[TaskFault]:
    """Yield the packages that the scripts of the commands import for sure, and that Overnight's Python lacks."""
    own = {PurePosixPath(part).stem for name in files for part in PurePosixPath(name).parts}
    own |= {PurePosixPath(path).stem for path in task.readable}
    commands = [("command", task.command), *([] if task.score is None else [("score.command", task.score.command)])]
    told: set[str] = set()
    for where, (program, *words) in commands:
        for script in (word for word in words if word in files and program == PYTHON):
            nodes = placed(parse(files[script], script))
            needed, _ = packages.missing(list(packages.imports(nodes)), own, gpu=gpu)
            for name in (name for name in needed if name not in told):
                told.add(name)
                fault = f"{script} imports {name}, which is not here"
                yield TaskFault(where, fault, packages.install_step(name, container=False))


def _refusal(faults: tuple[TaskFault, ...]) -> ShapeRefused:
    if len(faults) == 1:
        return ShapeRefused(str(faults[0]))
    return ShapeRefused(f"{len(faults)} faults: " + " ".join(f"({at}) {each}." for at, each in enumerate(faults, 1)))


def _lines(task: Task) -> tuple[str, ...]:
    return (
        f"edits {task.edit}, runs `{' '.join(task.command)}` for at most {task.seconds:g} s",
        f"{task.metric.name}: {task.metric.explained(task.degree)}",
        f"{len(task.fixed)} pinned files, {len(task.readable)} readable paths",
    )
