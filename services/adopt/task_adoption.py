"""`overnight init` for any task: the repository's overnight.toml becomes the task of a run.

A repository without the file gets a proposal, which is written only if the user agrees, and counts once it is
committed. Nothing of the repository is run here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from researcher.files import read_text
from researcher.repository.git_command import git_succeeds, run_git
from services.adopt.adopt import Init, adopt, print_findings, settle_data
from services.adopt.subject_check import ShapeRefused
from services.adopt.task_check import NOT_THIS_RUN, committed_files, require_same_task, sound_task, task_lines
from services.adopt.task_file import task_text
from services.adopt.task_guess import guessed_task
from services.machine.state import RunConfig, State, StateError
from services.machine.subject import FIXED
from trainer.data import Manifest
from trainer.data.task_data import TaskData, read_task_data, write_task_data
from trainer.jobs import profile_named
from trainer.jobs.task import TASK_FILE


def take(state: State, options: Init, agreed: Callable[[str], bool], console: Console) -> Manifest | TaskData | None:
    """Take a repository with an overnight.toml, or without a prepare.py, as a task, and any other as a GPT training
    script. Return what trials run on, or None if the user refused. Raises StateError or ShapeRefused."""
    repository = options.repository
    _require_repository(repository.resolve())
    if state.root.is_relative_to(repository.resolve()):
        raise StateError(f"{state.root} lies in the repository, which a run never changes", "name another --state")
    if (repository / TASK_FILE).exists() or not (repository / FIXED).exists():
        return adopt_task(state, repository, options.profile, agreed, console)
    return adopt(state, options, agreed, console)


def _require_repository(folder: Path) -> None:
    """Raise ShapeRefused if the folder is no git repository."""
    if not folder.is_dir():
        raise ShapeRefused(f"{folder} is no folder; name the folder of your repository: --subject DIR")
    if git_succeeds(folder, "rev-parse", "--git-dir"):
        return
    whole = next((parent for parent in folder.parents if (parent / ".git").exists()), None)
    if whole is not None:
        raise ShapeRefused(
            f"{folder} is a folder in the repository {whole}, and a run needs a whole repository; copy the folder out "
            "of it, and run there: git init && git add . && git commit -m 'The task'"
        )
    raise ShapeRefused(f"{folder} is no git repository; run there: git init && git add . && git commit -m 'The task'")


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
    held = TaskData(sound_task(folder, partial(committed_files, folder), gpu=_on_gpu(profile)), str(folder))
    print_findings(task_lines(held.task), console)
    state.make()
    write_task_data(state.data, held)
    state.write(RunConfig(profile, None, str(folder), None, script=held.task.edit, task=held.task.to_json()))
    console.print(f"Next: overnight run --state {state.root}", soft_wrap=True)
    return held


def settle(state: State, choices: RunConfig, console: Console, *, begins: bool) -> Manifest | TaskData:
    """Return what the trials of a run use: the text, or the task, which must not have changed.

    Raises StateError, ShapeRefused or DataError.
    """
    if choices.task is None:
        return settle_data(state, choices, console)
    return settle_task(state, choices, begins=begins)


def settle_task(state: State, choices: RunConfig, *, begins: bool) -> TaskData:
    """Return the task of the run. Raises StateError if overnight.toml has changed since `overnight init`.

    If a run `begins`, the pinned files are tested, too: ShapeRefused names the changed ones. Later, the trainer tests
    them at every trial.
    """
    held, folder = read_task_data(state.data), Path(choices.subject)
    retry = f"overnight init --subject {folder} --state {state.root}"
    if held is None or held.task.to_json() != choices.task:
        raise StateError(f"the task of {folder} is damaged in {state.data}", f"take it again: {retry}")
    require_same_task(folder, held.task, retry=f"take it again: {retry}" if not state.has_begun else NOT_THIS_RUN)
    if begins:
        sound_task(folder, partial(committed_files, folder), gpu=_on_gpu(choices.profile))
    return held


def _on_gpu(profile: str) -> bool:
    return profile_named(profile).device != "cpu"


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
    print_findings(guess.found, console)
    console.print(f"Not sure: {', '.join(guess.unsure)}", soft_wrap=True)
    if agreed(f"Write this as {folder / TASK_FILE}?"):
        try:
            (folder / TASK_FILE).write_text(text, encoding="utf-8")
        except OSError as error:
            raise ShapeRefused(
                f"cannot write {TASK_FILE} into {folder}: {error.strerror}; write it yourself"
            ) from error
        raise ShapeRefused(
            f"{TASK_FILE} is written; check {', '.join(guess.unsure)} in it, commit it (git add {TASK_FILE} && git "
            "commit), and repeat `overnight init`"
        )
