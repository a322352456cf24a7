"""Backups of a run: one archive with journal, settings and commits, from which the run goes on elsewhere.

The journal is copied first, in a state between two steps, and the bundle holds only commits that the copy knows. Data,
logs, prompts and answers are left out: data are prepared again, and no step needs the others. Every file in the archive
has its digest in the manifest, so that a damaged archive restores nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from git.exc import GitCommandError

from researcher.errors import BackupError, ResearcherError
from researcher.files import sync_tree
from researcher.journal.database import JOURNAL_FILE, open_database
from researcher.journal.reader import JournalReader
from researcher.journal.records import Run
from researcher.repository.backup_place import BackupPlace
from researcher.repository.commits import candidate_ref
from researcher.repository.git_command import create_empty, refs_of, run_git

FORMAT = 1
BEGINNING, END = "overnight-", ".tar.gz"
GIT_LIMIT_S = 300.0
_MANIFEST, _BUNDLE, _SHALLOW = "manifest.json", "subject.bundle", "shallow"
_WORK = ".backup"
_LEFT_OUT = ("lock",)  # of the files beside the journal


@dataclass(frozen=True)
class BackupManifest:
    """The content of an archive: the run, the moment of the backup in seconds since the epoch, and each file's SHA-256
    by its name."""

    format: int
    tag: str
    created_at: float
    written_at: float
    files: dict[str, str]


def backup_name(run: Run) -> str:
    """Return the name of a run's backup. Two runs of one tag were begun at different times."""
    return f"{BEGINNING}{run.tag}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(run.created_at))}{END}"


def write_backup(journal: Path, repository: Path, place: BackupPlace, at: float) -> str:
    """Back the run in the folder `journal` up, with the commits of its repository, and return the backup's name.

    A run may go on meanwhile. Raises BackupError; the backup before is untouched then.
    """
    work = journal / _WORK
    try:
        with _alone(journal):
            _make_empty(work)
            try:
                return _write(journal, repository, place, work, at)
            finally:
                shutil.rmtree(work)
    except OSError as error:
        raise BackupError(f"a backup cannot be written: {error}", "make room there, or name another place") from error
    except (sqlite3.DatabaseError, GitCommandError, ResearcherError) as error:
        raise BackupError(f"{journal} cannot be copied: {error}", "see `overnight status`") from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process writes a backup of this journal."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)


def _write(journal: Path, repository: Path, place: BackupPlace, work: Path, at: float) -> str:
    content = work / "content"
    content.mkdir()
    run, known = _copy_journal(journal, content)
    for path in journal.iterdir():
        if path.is_file() and not path.name.startswith((".", JOURNAL_FILE)) and path.name not in _LEFT_OUT:
            shutil.copyfile(path, content / path.name)
    _bundle(repository, run, known, content / _BUNDLE)
    if (shallow := repository / ".git" / _SHALLOW).exists():
        shutil.copyfile(shallow, content / _SHALLOW)
    files = {path.name: _digest(path) for path in sorted(content.iterdir())}
    manifest = BackupManifest(FORMAT, run.tag, run.created_at, at, files)
    (content / _MANIFEST).write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")
    archive = work / backup_name(run)
    with tarfile.open(archive, "w:gz", compresslevel=6) as packed:
        for name in (_MANIFEST, *files):
            packed.add(content / name, name)
    place.put(archive)
    return archive.name


def _copy_journal(journal: Path, content: Path) -> tuple[Run, set[str]]:
    """Copy the journal, and return its run with the refs of the candidates that the copy knows."""
    with (
        closing(open_database(journal, read_only=True)) as source,
        closing(sqlite3.connect(content / JOURNAL_FILE)) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")  # one whole file, without a -wal beside it
    with JournalReader(content) as history:
        run = history.run()
        if run is None:
            raise BackupError(f"no run has begun in {journal}", "back it up once its baseline is measured")
        return run, {candidate_ref(run, item) for item in history.experiments() if not item.is_baseline}


def _bundle(repository: Path, run: Run, known: set[str], bundle: Path) -> None:
    candidates = f"refs/{run.branch}/"
    names = [name for name in refs_of(repository, "refs/") if not name.startswith(candidates) or name in known]
    run_git(
        repository,
        *("bundle", "create", "--quiet", str(bundle), "--stdin"),
        stdin="".join(f"{name}\n" for name in names).encode(errors="surrogateescape"),
        limit_s=GIT_LIMIT_S,
    )


def backups_at(place: BackupPlace, named: str) -> list[str]:
    """Return the names of the backups at a place, sorted. Raises BackupError if the place cannot be read."""
    try:
        return sorted(name for name in place.names() if name.startswith(BEGINNING) and name.endswith(END))
    except OSError as error:
        raise BackupError(f"{named} cannot be read: {error.strerror}", "name the place of a backup") from error


def find_backup(place: BackupPlace, named: str) -> str:
    """Return the name of the only backup at a place. Raises BackupError if there is none, or several."""
    found = backups_at(place, named)
    if not found:
        raise BackupError(f"{named} holds no backup", f"a backup is named {BEGINNING}TAG-TIME{END}")
    if len(found) > 1:
        raise BackupError(f"{named} holds {', '.join(found)}", "name one of these files, with --name")
    return found[0]


def unpack_backup(archive: Path, journal: Path, repository: Path) -> BackupManifest:
    """Restore a backup into two new folders. Raises BackupError if it is not whole; the folders are useless then."""
    journal.mkdir(mode=0o700)
    try:
        manifest = _unpack(archive, journal)
        with JournalReader(journal) as history:
            run = history.run()
        assert run is not None, "a backup without a run is not written"
        _restore_repository(journal, repository, run)
        sync_tree(journal.parent)
    except (EOFError, KeyError, TypeError, ValueError, tarfile.TarError, zlib.error) as error:
        raise _damaged(archive, str(error)) from error
    except GitCommandError as error:
        raise _damaged(archive, f"git: {error.stderr.strip()}") from error
    except OSError as error:
        if error.errno is None:  # gzip's own error
            raise _damaged(archive, str(error)) from error
        raise BackupError(
            f"the backup cannot be unpacked: {error}", "make room there, then the same command"
        ) from error
    return manifest


def _damaged(archive: Path, found: str) -> BackupError:
    return BackupError(
        f"the backup {archive.name} is damaged ({found}), and nothing was restored", "restore an older copy of it"
    )


def _unpack(archive: Path, folder: Path) -> BackupManifest:
    """Unpack the files that the manifest names, and compare their digests."""
    with tarfile.open(archive, "r:gz") as packed:
        with _member(packed, _MANIFEST) as described:
            values = json.loads(described.read())
        if values["format"] != FORMAT:
            raise BackupError(
                f"{archive.name} has format {values['format']}, and this version reads {FORMAT}", "upgrade Overnight"
            )
        manifest = BackupManifest(**values)
        for name, digest in manifest.files.items():
            if Path(name).name != name:
                raise ValueError(f"{name!r} is no name of a file")
            with _member(packed, name) as content, (folder / name).open("xb") as file:
                shutil.copyfileobj(content, file)
            if _digest(folder / name) != digest:
                raise ValueError(f"{name} is not what was backed up")
    return manifest


def _member(packed: tarfile.TarFile, name: str) -> IO[bytes]:
    """Open a file of an archive. Raises KeyError if it is missing, and ValueError for anything but a file."""
    found = packed.extractfile(name)
    if found is None:
        raise ValueError(f"{name} is no file")
    return found


def _restore_repository(journal: Path, repository: Path, run: Run) -> None:
    repository.mkdir()
    create_empty(repository)
    if (journal / _SHALLOW).exists():
        (journal / _SHALLOW).rename(repository / ".git" / _SHALLOW)
    bundle = journal / _BUNDLE
    run_git(repository, "fetch", "--quiet", "--update-head-ok", "--no-tags", str(bundle), "+refs/*:refs/*")
    bundle.unlink()
    run_git(repository, "symbolic-ref", "HEAD", f"refs/heads/{run.branch}")
    run_git(repository, "reset", "--hard", "--quiet")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
