"""What is wrong with a disk, a journal or Redis, in words; and what is a fault of ours and keeps its traceback."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
import redis
from git.exc import GitCommandError
from rq.exceptions import InvalidJobOperation

from researcher.files import write_whole
from researcher.loop.outages import GOES_ON, explain
from researcher.repository.git_command import GitFailed
from tests.fixtures.disks import Disk

SERVER = "redis://:secret@cache:6379/0"


def of_sqlite(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorname = name
    return error


def of_git(said: str) -> GitCommandError:
    return GitCommandError(["git", "reset"], 128, stderr=f"fatal: cannot create train.py: {said}")


def of_disk(code: int, *where: str) -> OSError:
    return OSError(code, os.strerror(code), *where)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (of_disk(errno.ENOSPC), "is full, "),
        (of_disk(errno.ENOSPC, "/proc/train.py"), "the disk of /proc/train.py is full, 0 KiB are free. Next: delete"),
        (of_disk(errno.EDQUOT), "the quota of the disk of"),
        (of_disk(errno.EROFS), "is read-only. Next: `dmesg`"),
        (of_disk(errno.EACCES, "/proc/train.py"), "may not write /proc/train.py"),
        (of_disk(errno.EIO), "fails ([Errno 5] Input/output error). Next: look at `dmesg`"),
        (of_git("No space left on device"), "is full, "),
        (of_git("Read-only file system"), "is read-only. Next: `dmesg`"),
        (of_git("Permission denied"), "Next: give it the right with chown or chmod"),
        (of_sqlite("SQLITE_FULL"), "is full, "),
        (of_sqlite("SQLITE_BUSY_SNAPSHOT"), "another program holds the journal in"),
        (of_sqlite("SQLITE_READONLY"), "Next: give it the right"),
        (of_sqlite("SQLITE_IOERR_FSYNC"), "fails (as SQLite says it). Next: look at `dmesg`"),
        (
            redis.AuthenticationError("WRONGPASS"),
            "Redis at cache:6379/0 refuses the password of this run (WRONGPASS)",
        ),
        (redis.exceptions.NoPermissionError("no HSET"), "denies this user a right (no HSET)"),
        (redis.exceptions.OutOfMemoryError("OOM"), "has used up its memory. Next: raise its maxmemory"),
        (redis.ReadOnlyError("replica"), "is a replica, which takes no work"),
        (redis.ResponseError("MISCONF Errors writing to the AOF file"), "cannot write to its own disk (MISCONF"),
        (redis.BusyLoadingError("loading"), "is still reading its files"),
        (InvalidJobOperation("no status"), "Redis at cache:6379/0 lost a job of its queue (no status). Next: nothing"),
        (redis.TimeoutError("timed out"), "Redis at cache:6379/0 does not answer (timed out). Next: start it"),
    ],
    ids=repr,
)
def test_bad_day_is_told_with_its_place_and_the_next_step(error: Exception, words: str, tmp_path: Path) -> None:
    said = explain(error, (tmp_path / "journal", tmp_path / "subject"), SERVER)

    assert said is not None
    assert words in said
    assert said.endswith(GOES_ON)
    assert "secret" not in said


def test_fault_of_git_names_the_folder_in_which_git_ran(tmp_path: Path) -> None:
    """Whichever disk has the least space."""
    places = (Path("/proc"), tmp_path / "subject")
    said = "fatal: sha1 file: No space left on device"

    own = explain(GitCommandError(["git", "reset"], 128, stderr=said), places, SERVER)
    of_user = explain(GitFailed(["git", "-C", "/sys/theirs", "gc"], 128, said.encode(), b""), places, SERVER)

    assert f"the disk of {tmp_path / 'subject'} is full" in (own or "")
    assert "the disk of /sys/theirs is full" in (of_user or "")


@pytest.mark.parametrize("size", ["64k"])
def test_file_that_a_full_disk_refuses_is_named(tmp_path: Path, size: str) -> None:
    disk = Disk(tmp_path / "disk", size)
    disk.fill()
    try:
        with pytest.raises(OSError, match="No space left") as caught:
            write_whole(disk.folder / "results.tsv", b"x" * 8192)
    finally:
        disk.remove()

    assert f"the disk of {disk.folder} is full" in (explain(caught.value, (Path("/proc"), disk.folder), SERVER) or "")


@pytest.mark.parametrize(
    "error",
    [
        of_disk(errno.ENOENT, "/proc/train.py"),
        of_disk(errno.EBADF),
        of_git("not something we can merge"),
        of_sqlite("SQLITE_CONSTRAINT"),
        of_sqlite("SQLITE_CORRUPT"),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        redis.ResponseError("unknown command"),
        AssertionError(),
    ],
    ids=repr,
)
def test_fault_of_ours_and_a_damaged_journal_are_no_bad_day(error: Exception, tmp_path: Path) -> None:
    assert explain(error, (tmp_path,), SERVER) is None
