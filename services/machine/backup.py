"""The commands `overnight backup` and `overnight restore`: the run of a state folder to a place, and back.

A restore unpacks everything beside the parts of the state first, and moves the journal last, so that a killed one
leaves a state without a run. Data are not in a backup: `overnight run` prepares them again, and the researcher refuses
others than those of the run.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from researcher.decision.goal import moment_text
from researcher.journal.database import WriterLock, holds_run
from researcher.repository.backup import BackupManifest, find_backup, unpack_backup, write_backup
from researcher.repository.backup_place import RCLONE, BackupPlace, checked_place, place_of
from services.machine.runs import finish_interrupted
from services.machine.state import State, StateError
from services.machine.subject import repository_of

_RESTORING = ".restoring"


def absolute_place(text: str) -> str:
    """Return the text of a place with an absolute folder. Raises BadValue for a remote without a name."""
    return checked_place(text if text.startswith(RCLONE) else str(Path(text).expanduser().resolve()))


def back_up(state: State, place: str, console: Console) -> None:
    """Write a backup of the run, which may go on meanwhile. Raises BackupError, and StateError without a run."""
    repository = repository_of(state)
    name = write_backup(state.journal, repository, place_of(place), time.time())
    console.print(f"written: {name} at {place}", soft_wrap=True)


def restore_run(state: State, source: str, name: str | None, subject: Path | None, console: Console) -> None:
    """Restore a run into a state that holds none. `source` is a place, or the file of a backup; `name` chooses one of
    several, and `subject` is the new path of the user's repository. Raises BackupError and StateError."""
    place = place_of(source)
    if not source.startswith(RCLONE) and Path(source).is_file():
        place, name = place_of(str(Path(source).parent)), Path(source).name
    found = find_backup(place, source) if name is None else name
    state.make()
    lock = WriterLock(state.root)
    lock.sign(os.getpid())
    try:
        finish_interrupted(state)
        manifest = _restore(state, place, found, subject)
    finally:
        lock.release()
    console.print(
        f"run {manifest.tag} is restored, with all that was decided until {moment_text(manifest.written_at)}. "
        f"Next: overnight run --state {state.root}",
        soft_wrap=True,
    )


def _restore(state: State, place: BackupPlace, name: str, subject: Path | None) -> BackupManifest:
    fresh = State(state.root / _RESTORING)
    _require_room(state, fresh)
    if fresh.root.exists():
        shutil.rmtree(fresh.root)
    fresh.root.mkdir(mode=0o700)
    try:
        archive = fresh.root / name
        place.get(name, archive)
        manifest = unpack_backup(archive, fresh.journal, fresh.subject)
        _require_sources(state, fresh, subject)
    except BaseException:
        shutil.rmtree(fresh.root)
        raise
    fresh.subject.rename(state.subject)
    _put_journal(fresh.journal, state.journal)
    shutil.rmtree(fresh.root)
    return manifest


def _require_room(state: State, fresh: State) -> None:
    """Raise StateError if the state holds a run, or a part of one. What a killed restore moved is removed."""
    if holds_run(state.journal):
        raise StateError(f"{state.root} holds a run, which is not overwritten", "name another --state")
    if fresh.journal.exists() and state.subject.exists() and not fresh.subject.exists():
        shutil.rmtree(state.subject)
    if state.subject.exists():
        raise StateError(f"{state.subject} is there without a journal", "move it away, or name another --state")


def _require_sources(state: State, fresh: State, subject: Path | None) -> None:
    """Check that the user's repository, text and own data are here. Write the repository's new path."""
    choices = fresh.choices()
    if choices is None:
        return
    if subject is not None:
        choices = replace(choices, subject=str(subject.resolve()))
        fresh.write(choices)
    user = state.user_repository(choices)
    if user is not None and not user.is_dir():
        raise StateError(f"your repository {user} is not here", "clone it there, or name its folder with --subject")
    text = choices.text_folder()
    if text is not None and not text.is_dir():
        raise StateError(f"your text {text} is not here", "copy it there, then the same command again")
    is_own = choices.constants is not None or choices.task is not None
    if is_own and not (state.data / "manifest.json").exists():
        raise StateError(
            f"the data of the run came from {user}, and {state.data} holds none",
            f"overnight init --subject {user} --state {state.root}, then the same command again",
        )


def _put_journal(fresh: Path, journal: Path) -> None:
    """Move the files of the journal, the database last."""
    for path in sorted(fresh.iterdir(), key=lambda path: path.name == "journal.db"):
        path.rename(journal / path.name)
