"""The one-shot `data`: prepares the text of the run in the data volume; existing data are only checked.

The text is the profile's, or that of the user's own repository at `REPOSITORY` if it has a prepare.py of its own, which
then runs once in the sandbox. All GPU profiles share their text, so `auto` needs no GPU here.
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
from services.machine.data import prepare_data
from services.machine.gpus import AUTO
from services.machine.subject import has_own_prepare
from services.trainer.start import STATE
from trainer.data import DataError
from trainer.data.manifest import STAND_IN
from trainer.jobs import Profile, ProfileError, profile_named

ANY_GPU = "80gb"
REPOSITORY = STATE / "user-repository"
_CACHE = ".cache"


def main() -> int:
    """Prepare the text; return the exit code."""
    name = os.environ.get("PROFILE") or AUTO
    console = Console(stderr=False, soft_wrap=True, highlight=False)
    try:
        profile = profile_named(ANY_GPU if name == AUTO else name)
        cache = os.environ.get("SUBJECT_CACHE") or None
        files = None
        if not is_closed(REPOSITORY, console) and has_own_prepare(REPOSITORY):
            require_readable({"SUBJECT_DIR": REPOSITORY} | ({"SUBJECT_CACHE": Path(cache)} if cache else {}))
            files = own_files(REPOSITORY)
        if files is None:
            prepare_data(profile, STATE / "data", None, console)
        else:
            take_over(files, REPOSITORY, profile, STATE / "data", cache, console)
    except (DataError, ProfileError, ShapeRefused, OtherData, NotText, NotReadable) as error:
        console.print(f"data: {error}")
        return 1
    return 0


class NotReadable(Exception):
    """A folder of the user is closed to this container's root, which has no rights beyond those of other users."""


def is_closed(repository: Path, console: Console) -> bool:
    """Return whether this container may not read the user's repository or its prepare.py, and say so.

    The data are Overnight's then; the researcher, who may look, refuses a repository with a prepare.py of its own.
    """
    fixed = repository / STAND_IN
    closed = repository.is_dir() and (
        not os.access(repository, os.R_OK | os.X_OK) or (fixed.exists() and not os.access(fixed, os.R_OK))
    )
    if closed:
        console.print(
            "data: SUBJECT_DIR is closed to other users, so the text is Overnight's own; a repository with a "
            f"{STAND_IN} of its own needs `chmod -R o+rX`"
        )
    return closed


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


def own_files(repository: Path) -> dict[str, str] | None:
    """Return the Python files of a user's repository, None if it has no prepare.py of its own. Raises NotText."""
    if not has_own_prepare(repository):
        return None
    paths = (path for path in repository.rglob("*.py") if not any(part.startswith(".") for part in path.parts))
    return {str(path.relative_to(repository)): read_text(path) for path in sorted(paths)}


def take_over(
    files: dict[str, str], folder: Path, profile: Profile, data: Path, cache: str | None, console: Console
) -> None:
    """Make the data of a user's own repository in `folder`. `cache` is the folder of its downloads, at the path of the
    host.

    Raises ShapeRefused, OtherData and DataError.
    """
    home = home_of(Path(cache)) if cache else Path.home()
    os.environ["HOME"] = str(home)  # prepare.py builds its paths from it
    around = Surroundings(folder / STAND_IN, home, os.environ, gpu=profile.device != "cpu", container=True)
    repository = Repository(files, folder, readable=(Path(cache),) if cache else ())
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
            f"{data} holds the data of another {STAND_IN} or of other settings, and a run may rest on them; to begin "
            "another run, remove the volumes data, subject and journal: `docker volume ls` lists them"
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
