"""Copies the files that a task reads from the user's repository into the data volume, which the trainer mounts.

So the trainer sees nothing else of the repository, and all trials of a run read the same files. The folder of a copy is
named by a digest of its content: a copy is whole, or it is made again. A link inside a copied folder stays a link, so
that it opens nothing that the task keeps closed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainer.data.durable import file_sha256
from trainer.data.task_data import TaskData
from trainer.jobs.task import Task

FOLDER = "task"
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644  # candidates run as another user


class NotCopied(Exception):
    """The files that a task reads cannot be given to trials. The message says why, with the next step."""


def planned(task: Task, repository: Path, data: Path, shared: Path | None) -> TaskData:
    """Return the task with the folder below `data` where its files belong. Nothing is written.

    `shared` is a folder of the host that trials see at the same path. Raises NotCopied.
    """
    outside = [path for path in _readable(task) if path.startswith("/") and not _lies_in(path, shared)]
    if outside:
        raise NotCopied(
            f"the task reads {outside[0]}, and trials in containers see only the repository and KERNELS_CACHE; "
            "next: put it into the folder that SUBJECT_DIR names, or name its folder as KERNELS_CACHE in gpu.env"
        )
    try:
        return TaskData(task, str(data / FOLDER / _digest(repository, _inside(task))))
    except OSError as error:
        raise NotCopied(f"a file that the task reads cannot be read: {error}") from error


def is_copied(held: TaskData) -> bool:
    """Return whether the copy is there and whole."""
    place = Path(held.repository)
    return place.is_dir() and _digest(place, _inside(held.task)) == place.name


def copy_inputs(held: TaskData, repository: Path) -> None:
    """Copy the files, whole or not at all. Raises NotCopied."""
    place = Path(held.repository)
    draft = place.with_name(f"{place.name}.tmp")
    try:
        for stale in (stale for stale in (draft, place) if stale.exists()):
            shutil.rmtree(stale)
        draft.mkdir(parents=True)
        draft.parent.chmod(_FOLDER_MODE)
        for path in _inside(held.task):
            _copy(repository / path, draft / path)
        _open_to_trials(draft)
        draft.rename(place)
    except OSError as error:
        named = error.args[0][0] if isinstance(error, shutil.Error) else error
        raise NotCopied(f"the files that the task reads cannot be copied to {place.parent}: {named}") from error
    if not is_copied(held):
        raise NotCopied(
            f"the files that the task reads changed while they were copied; next: start again ({repository})"
        )


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, copy_function=shutil.copyfile, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _open_to_trials(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        Path(place).chmod(_FOLDER_MODE)
        for path in (Path(place, name) for name in names):
            if not path.is_symlink():
                path.chmod(_FILE_MODE)


def _readable(task: Task) -> tuple[str, ...]:
    return task.readable if task.score is None else (*task.readable, *task.score.readable)


def _inside(task: Task) -> tuple[str, ...]:
    return tuple(sorted({path for path in _readable(task) if not path.startswith("/")}))


def _lies_in(path: str, folder: Path | None) -> bool:
    return folder is not None and Path(path).is_relative_to(folder)


def _digest(folder: Path, paths: tuple[str, ...]) -> str:
    """Return a hash of the content of these files and folders, with their paths. Raises OSError and NotCopied."""
    digest = hashlib.sha256()
    for path in paths:
        for name, content in sorted(_contents((folder / path).resolve())):
            digest.update(f"{path}\0{name}\0{content}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _contents(top: Path) -> Iterator[tuple[str, str]]:
    """Yield the name of each entry below `top`, and a hash of its content, or the target of a link."""
    if not top.is_dir():
        yield "", file_sha256(top)
        return
    for place, folders, files in os.walk(top):
        for path in (Path(place, name) for name in (*folders, *files)):
            if path.is_symlink():
                yield str(path.relative_to(top)), f"-> {path.readlink()}"
            elif path.is_dir():
                yield str(path.relative_to(top)), "folder"
            elif path.is_file():
                yield str(path.relative_to(top)), file_sha256(path)
            else:
                raise NotCopied(f"{path} is neither a file nor a folder; next: leave it out of `readable`")
