"""Explains outages in one sentence: a full, read-only or failing disk, a locked journal, a missing or refusing Redis.

Each sentence says what failed, where, and the next step. An error of the program itself has no explanation and keeps
its traceback. A damaged journal is not an outage, because nothing may continue from it automatically; see
`researcher.journal.database`. `trainer.trial.disk_space` covers the trainer's disk.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

import redis
from git.exc import GitCommandError
from rq.exceptions import InvalidJobOperation, NoSuchJobError

from researcher.journal.database import error_is
from researcher.repository.git_command import GitFailed

OUTAGE_ERRORS = (
    OSError, sqlite3.DatabaseError, GitCommandError, redis.RedisError, NoSuchJobError, InvalidJobOperation,
)  # fmt: skip
GOES_ON = "The run goes on by itself as soon as that is fixed; nothing that was measured is lost"
_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
_FULL_BELOW_BYTES = 64 * 1024


def explain(error: BaseException, places: Iterable[Path], server: str) -> str | None:
    """Explain an error as one sentence, or return None if the error is not an outage.

    `places` are the folders that the run writes to: the journal's, and that of its repository. `server` is the address
    of Redis.
    """
    words = _words(error, list(places), server.partition("://")[2].rpartition("@")[2])
    return None if words is None else f"{words}. {GOES_ON}"


def _words(error: BaseException, places: list[Path], server: str) -> str | None:
    match error:
        case sqlite3.DatabaseError():
            return _of_journal(error, places[0])
        case redis.RedisError() | NoSuchJobError() | InvalidJobOperation():
            return _of_redis(error, server)
        case GitCommandError():
            known = [code for code in _OF_DISKS if os.strerror(code) in str(error.stderr)]
            place = _place_of(error.folder, places) if isinstance(error, GitFailed) else places[-1]
            return _of_disk(known[0] if known else _state(place), place, str(error.stderr).strip())
        case OSError() if error.filename is not None:
            return _of_disk(error.errno, _place_of(Path(os.fsdecode(error.filename)), places), str(error))
        case OSError():
            return _of_disk(error.errno, _worst(places), str(error))
    return None


def _of_journal(error: sqlite3.DatabaseError, folder: Path) -> str | None:
    if error_is(error, _LOCKED):
        return (
            f"another program holds the journal in {folder} locked. Next: close what has it open, a database browser "
            "or a backup"
        )
    if error_is(error, ("SQLITE_FULL",)):
        return _of_disk(errno.ENOSPC, folder, str(error))
    if error_is(error, ("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return _of_disk(_state(folder) or errno.EACCES, folder, str(error))
    if error_is(error, ("SQLITE_IOERR",)):
        return _of_disk(_state(folder) or errno.EIO, folder, str(error))
    return None


def _of_disk(code: int | None, place: Path, message: str) -> str | None:
    match code:
        case errno.ENOSPC:
            return f"the disk of {place} is full, {_free(place)} are free. Next: delete or move something on it"
        case errno.EDQUOT:
            return f"the quota of the disk of {place} is used up. Next: delete something there, or have it raised"
        case errno.EROFS:
            return (
                f"the disk of {place} is read-only. Next: `dmesg` tells whether it fails; if it is sound, "
                "remount it for writing"
            )
        case errno.EACCES | errno.EPERM:
            return f"uid {os.getuid()} may not write {place} ({message}). Next: give it the right with chown or chmod"
        case errno.EIO:
            return f"the disk of {place} fails ({message}). Next: look at `dmesg`, and copy away what can still be read"
        case _:
            return None


def _of_redis(error: BaseException, server: str) -> str | None:
    message, words = str(error), None
    match error:
        case NoSuchJobError() | InvalidJobOperation():
            words = f"lost a job of its queue ({message}). Next: nothing, the job is queued again"
        case redis.AuthenticationError() | redis.exceptions.AuthenticationWrongNumberOfArgsError():
            words = (
                f"refuses the password of this run ({message}). Next: write its password to the file that "
                "REDIS_PASSWORD_FILE names, or start Redis with the one that is there"
            )
        case redis.exceptions.NoPermissionError():
            words = f"denies this user a right ({message}). Next: give it the users that services/redis/acl.py writes"
        case redis.exceptions.OutOfMemoryError():
            words = "has used up its memory. Next: raise its maxmemory, or remove what fills it"
        case redis.ReadOnlyError():
            words = "is a replica, which takes no work. Next: name the primary in REDIS_URL"
        case redis.ResponseError() if message.startswith("MISCONF"):
            words = f"cannot write to its own disk ({message}). Next: make room where it keeps its files"
        case redis.BusyLoadingError():
            words = "is still reading its files. Next: wait"
        case redis.ConnectionError() | redis.TimeoutError():
            words = f"does not answer ({message}). Next: start it, or correct REDIS_URL"
    return None if words is None else f"Redis at {server} {words}"


def _place_of(file: Path, places: list[Path]) -> Path:
    """Return the run's folder that contains the file, or the file itself."""
    return next((place for place in places if file.is_relative_to(place)), file)


def _worst(places: list[Path]) -> Path:
    """Return the likely folder of an error without a file name: a read-only one, else the one with the least space."""
    return min(places, key=lambda place: (_state(place) != errno.EROFS, _statvfs(place).f_bavail))


def _state(place: Path) -> int | None:
    """Return the errno that describes the present fault of a folder's disk, or None."""
    seen = _statvfs(place)
    if seen.f_flag & os.ST_RDONLY:
        return errno.EROFS
    return errno.ENOSPC if seen.f_bavail * seen.f_frsize < _FULL_BELOW_BYTES or _lacks_inodes(seen) else None


def _free(place: Path) -> str:
    seen = _statvfs(place)
    free_kib = seen.f_bavail * seen.f_frsize // 1024
    room = f"{free_kib} KiB" if free_kib < 10_000 else f"{free_kib // 1024} MiB"
    return f"{room} but no inodes" if _lacks_inodes(seen) else room


def _lacks_inodes(seen: os.statvfs_result) -> bool:
    """Return True if the disk has no free inode. File systems without a fixed number of inodes report a total of 0."""
    return seen.f_files > 0 and seen.f_ffree == 0


def _statvfs(place: Path) -> os.statvfs_result:
    """Query the file system of the path, or of the nearest parent folder that exists."""
    return os.statvfs(next(path for path in (place, *place.absolute().parents) if path.exists()))
