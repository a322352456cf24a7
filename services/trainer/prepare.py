"""The one-shot `data`: prepares the text of the run in the data volume; existing data are only checked.

The text is the profile's, or that of the user's own repository at `REPOSITORY` if it has a prepare.py of its own, which
then runs once in the sandbox. With an overnight.toml the data are a task, with a copy of the files that it reads. All
GPU profiles share their text, so `auto` needs no GPU here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console

from researcher.errors import NotText
from researcher.files import read_text
from services.adopt.own_data import OtherData, Plan, Repository, held_data, rows_text
from services.adopt.static_values import Surroundings
from services.adopt.subject_check import ShapeRefused
from services.adopt.task_check import sound_task, task_lines
from services.machine.data import prepare_data
from services.machine.gpus import AUTO
from services.machine.subject import has_own_prepare
from services.trainer.start import STATE
from services.trainer.task_inputs import NotCopied, copy_inputs, is_copied, planned
from trainer.data import MANIFEST, DataError
from trainer.data.manifest import STAND_IN
from trainer.data.task_data import read_task_data, write_task_data
from trainer.jobs import Profile, ProfileError, profile_named
from trainer.jobs.task import TASK_FILE, changes

ANY_GPU = "80gb"
REPOSITORY = STATE / "user-repository"
_CACHE = ".cache"
_REMOVE = "to begin another run, remove the volumes data, subject and journal: `docker volume ls` lists them"


def main() -> int:
    """Prepare the text; return the exit code."""
    name = os.environ.get("PROFILE") or AUTO
    console = Console(stderr=False, soft_wrap=True, highlight=False)
    try:
        profile = profile_named(ANY_GPU if name == AUTO else name)
        closed = is_closed(REPOSITORY, console)
        if not closed and (REPOSITORY / TASK_FILE).is_file():
            require_readable({"SUBJECT_DIR": REPOSITORY})
            take_task(REPOSITORY, STATE / "data", _folder_of("KERNELS_CACHE"), console)
        elif not closed and has_own_prepare(REPOSITORY):
            cache = _folder_of("SUBJECT_CACHE")
            require_readable({"SUBJECT_DIR": REPOSITORY} | ({} if cache is None else {"SUBJECT_CACHE": cache}))
            take_over(python_files(REPOSITORY), REPOSITORY, profile, STATE / "data", cache, console)
        else:
            require_no_task(STATE / "data")
            prepare_data(profile, STATE / "data", None, console)
    except (DataError, ProfileError, ShapeRefused, OtherData, NotText, NotReadable, NotCopied) as error:
        console.print(f"data: {error}")
        return 1
    return 0


def _folder_of(key: str) -> Path | None:
    """Return the folder of the host that a key of gpu.env names; its path is the same here."""
    return Path(os.environ[key]) if os.environ.get(key) else None


class NotReadable(Exception):
    """A folder of the user is closed to this container's root, which has no rights beyond those of other users."""


def is_closed(repository: Path, console: Console) -> bool:
    """Return whether this container may not read the user's repository or the file that describes its data, and say so.

    The data are Overnight's then; the researcher, who may look, refuses a repository with data of its own.
    """
    is_open = not repository.is_dir() or (
        os.access(repository, os.R_OK | os.X_OK)
        and all(os.access(path, os.R_OK) for name in (TASK_FILE, STAND_IN) if (path := repository / name).exists())
    )
    if not is_open:
        console.print(
            "data: SUBJECT_DIR is closed to other users, so the text is Overnight's own; a repository with a "
            f"{STAND_IN} or {TASK_FILE} of its own needs `chmod -R o+rX`"
        )
    return not is_open


def require_readable(folders: Mapping[str, Path]) -> None:
    """Raise NotReadable if a folder, or a file or folder in it that is not hidden, is closed. The keys are settings."""
    for key, folder in folders.items():
        for path in (folder, *_below(folder)):
            rights = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
            if path.exists() and not path.is_symlink() and not os.access(path, rights):
                raise NotReadable(
                    f"{path} is closed to other users, and the container that prepares the data is one; "
                    f"next: `chmod -R o+rX` the folder that {key} names"
                )


def _below(folder: Path) -> Iterator[Path]:
    for place, names, files in os.walk(folder):
        names[:] = [name for name in names if not name.startswith(".")]
        yield from (Path(place, name) for name in (*names, *files))


def python_files(repository: Path) -> dict[str, str]:
    """Return the Python files of a user's repository, by their paths. Raises NotText."""
    paths = (path for path in repository.rglob("*.py") if not any(part.startswith(".") for part in path.parts))
    return {str(path.relative_to(repository)): read_text(path) for path in sorted(paths)}


def take_task(repository: Path, data: Path, shared: Path | None, console: Console) -> None:
    """Make the data folder one of the task in a repository's overnight.toml. `shared` is a folder of the host that
    trials see at the same path.

    Raises ShapeRefused, NotCopied, and OtherData if a run may rest on what is there.
    """
    task = sound_task(repository, lambda _: python_files(repository), container=True)
    for line in task_lines(task):
        console.print(f"  {line}", markup=False)
    wanted, held = planned(task, repository, data, shared), read_task_data(data)
    if held == wanted and is_copied(wanted):
        console.print("data: nothing to do")
        return
    if held is None and (data / MANIFEST).exists():
        raise OtherData(f"{data} holds a text and no task; {_REMOVE}")
    if held is not None and held != wanted:
        words = "; ".join(changes(held.task, task)) or "the files that it reads have changed"
        raise OtherData(
            f"{data} holds the task as it was, and a run may rest on it ({words}); restore it, or {_REMOVE}"
        )
    copy_inputs(wanted, repository)
    write_task_data(data, wanted)
    console.print("data: the task is here, with a copy of the files that it reads")


def require_no_task(data: Path) -> None:
    """Raise OtherData if a folder holds a task, which a text would replace."""
    if read_task_data(data) is not None:
        raise OtherData(f"{data} holds the task of another repository; restore SUBJECT_DIR, or {_REMOVE}")


def take_over(
    files: dict[str, str], folder: Path, profile: Profile, data: Path, cache: Path | None, console: Console
) -> None:
    """Make the data of a user's own repository in `folder`. `cache` is the folder of its downloads, at the path of the
    host.

    Raises ShapeRefused, OtherData and DataError.
    """
    home = Path.home() if cache is None else home_of(cache)
    os.environ["HOME"] = str(home)  # prepare.py builds its paths from it
    around = Surroundings(folder / STAND_IN, home, os.environ, gpu=profile.device != "cpu", container=True)
    repository = Repository(files, folder, readable=() if cache is None else (cache,))
    plan = Plan.read(repository, profile, around)
    if cache is None:
        console.print("  no SUBJECT_CACHE in gpu.env: prepare.py finds nothing outside of its repository")
    for line in plan.found:
        console.print(f"  {line}")
    held = held_data(data)
    if held is not None and plan.made(held):
        console.print("data: nothing to do")
        return
    if held is not None:
        raise OtherData(
            f"{data} holds the data of another {STAND_IN} or of other settings, and a run may rest on them; {_REMOVE}"
        )
    places = ", ".join(map(str, (folder, *plan.wanted.readable)))
    console.print(f"data: runs {STAND_IN} once, without a network; it may read {places}, and write nothing that stays")
    console.print(f"data: {rows_text(plan.make(data, console, lambda _: None))}")


def home_of(cache: Path) -> Path:
    """Return the home folder of the user whose cache it is: the one above `.cache`, else the one above the cache."""
    parts = cache.parts
    return Path(*parts[: parts.index(_CACHE)]) if _CACHE in parts else cache.parent


if __name__ == "__main__":
    sys.exit(main())
