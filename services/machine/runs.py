"""The runs of one state folder: the one that it holds, and the earlier ones, which other runs have replaced.

An earlier run lies whole in a folder of its own below `runs/`. That folder is a state folder, too: every command shows
or continues the run there with --state. Its data are a link to those of the state around it, so that all runs share
them. A move that was interrupted is finished by the next start.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from researcher.errors import JournalError
from researcher.journal.database import JOURNAL_FILE, WriterLock, holds_run
from researcher.journal.reader import JournalReader
from researcher.journal.records import Run
from services.machine.state import DATA, State, StateError

# The journal comes last: until then no start takes the state for an empty one.
_PARTS = ("subject", "trials", "logs", "redis/appendonlydir", "journal")
_MOVING, _DELETED = ".moving", ".deleted"
_PASSABLE = 0o711  # a candidate of another user may pass through, as in the state folder itself


def run_in(state: State) -> Run | None:
    """Return the run of a state, None if none has begun. Raises JournalError if its journal cannot be read."""
    if not holds_run(state.journal):
        return None
    with JournalReader(state.journal) as history:
        return history.run()


def earlier_runs(state: State) -> list[State]:
    """Return the earlier runs of a state, sorted by the names of their folders."""
    found = (path.parent.parent for path in state.runs.glob(f"*/journal/{JOURNAL_FILE}"))
    return [State(folder) for folder in sorted(found) if not folder.name.startswith(".")]


def require_outermost(state: State) -> None:
    """Raise StateError for an earlier run, in whose folder no other run begins."""
    if state.is_earlier_run:
        around = state.root.parent.parent
        raise StateError(f"{state.root} is an earlier run of {around}", f"begin another run with --state {around}")


def tag_of_another(state: State, wanted: str | None, branches: Iterable[str], *, is_deleted: bool = False) -> str:
    """Return the tag of a run that begins beside the runs of a state and these branches of the user's repository.

    If the present run `is_deleted`, its tag is free.
    Raises StateError if a run of the state has the wanted tag, and SubjectError if a branch is in its way.
    """
    from researcher.repository.earlier_runs import free_tag  # noqa: PLC0415 - imports git

    taken = dict(_tags([*earlier_runs(state), *([] if is_deleted else [state])]))
    if wanted in taken:
        raise StateError(
            f"{taken[wanted]} holds run {wanted}", f"continue it with --state {taken[wanted]}, or choose another --tag"
        )
    used = {f"overnight/{tag}" for tag in taken} if wanted is None else set()
    return free_tag(wanted, {*branches, *used}, time.strftime("%b%d").lower())


def _tags(states: Iterable[State]) -> Iterator[tuple[str, Path]]:
    """Yield the tag and the folder of each run whose journal can be read."""
    for each in states:
        with suppress(JournalError):
            run = run_in(each)
            if run is not None:
                yield run.tag, each.root


def set_aside(state: State) -> State:
    """Move the run of a state below `runs/`, and return it. The caller holds the lock of the state.

    Raises JournalError if a researcher works on the run, and StateError if a part cannot be moved; then nothing is.
    """
    from researcher.repository.earlier_runs import record_place  # noqa: PLC0415 - imports git

    moving = _gathered(state)
    if not (moving / DATA).is_symlink():
        (moving / DATA).symlink_to(Path("..", "..", DATA))
    target = _free_folder(state, run_in(State(moving)))
    moving.rename(target)
    earlier = State(target)
    record_place(earlier.journal)
    return earlier


def delete(state: State) -> None:
    """Delete the run of a state, and leave its data, its earlier runs and the user's repository. Raises as
    `set_aside`."""
    _remove(_gathered(state).rename(state.runs / _DELETED))


def finish_interrupted(state: State) -> None:
    """Finish what `set_aside` or `delete` of a killed start left undone."""
    doomed, moving = state.runs / _DELETED, state.runs / _MOVING
    if not (doomed.exists() or moving.exists()):
        return
    lock = WriterLock(state.root)
    try:
        if doomed.exists():
            _remove(doomed)
        if moving.exists():
            set_aside(state)
    finally:
        lock.release()


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise StateError(f"{folder} cannot be deleted ({error})", "delete it, then start again") from error


def _gathered(state: State) -> Path:
    """Move the parts of a run together, and return their folder."""
    moving = state.runs / _MOVING
    for folder in (state.runs, moving):
        folder.mkdir(exist_ok=True)
        folder.chmod(_PASSABLE)
    (moving / "redis").mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        if state.journal.exists():
            held.callback(WriterLock(state.journal).release)
            choices = state.choices()
            if choices is not None:
                state.write(choices)  # an earlier version wrote the repository's path, which changes
        _move(state.root, moving)
    return moving


def _move(root: Path, moving: Path) -> None:
    try:
        for part in _PARTS:
            if (root / part).exists():
                (root / part).rename(moving / part)
    except OSError as error:
        for part in _PARTS:
            if (moving / part).exists():
                (moving / part).rename(root / part)
        (moving / DATA).unlink(missing_ok=True)
        (moving / "redis").rmdir()
        moving.rmdir()
        raise StateError(
            f"the run in {root} cannot be moved ({error})", "repair that, or begin another run in another --state"
        ) from error


def _free_folder(state: State, run: Run | None) -> Path:
    if run is None:
        raise StateError(f"{state.runs / _MOVING} holds no run", "move it away")
    name = f"{run.tag}-{time.strftime('%Y-%m-%d', time.localtime(run.created_at))}"
    numbered = (state.runs / (name if number == 1 else f"{name}-{number}") for number in range(1, 1000))
    return next(folder for folder in numbered if not folder.exists())
