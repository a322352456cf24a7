"""The journal's database file: SQLite with ordered migrations, one writer lock by `flock`, and rows as dataclasses.

This module hides the connection and the mapping of columns. WAL with synchronous=FULL lets a committed step survive
kill -9 and power loss. Each decision is moved from the `-wal` file into the database file at once, so that a copy of
the one file holds it. Network file systems are not supported, because their locks are unreliable.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any

from researcher.errors import JournalError
from researcher.journal.records import (
    ASKED_TO_PAUSE,
    Confirmation,
    ConfirmationKind,
    ConfirmationVerdict,
    Decision,
    Experiment,
    Goal,
    PaidCall,
    Pause,
    PauseCause,
    Prices,
    Request,
    RequestState,
    Run,
    State,
    Trial,
)
from researcher.source.proposal import LlmCost
from trainer.jobs import Degree, Direction, Kind, Metric, Outcome

JOURNAL_FILE = "journal.db"
SUBJECT_LOCK = ".overnight-lock"
BUSY_S = 10.0  # the longest wait for another program's lock on the file
_CHECKPOINT_WAIT_MS = 500  # a reader that takes longer delays no decision; the next checkpoint moves what it left


class WriterLock:
    """The exclusive right to write one folder, a journal's or a subject's, held until the process ends."""

    def __init__(self, folder: Path, name: str = "lock") -> None:
        """Take the lock, a file of this name. Raises JournalError if another researcher holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / name
        # Open for reading: a file that is open for writing would keep a failing disk from being remounted read-only.
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            holder = self._path.read_text(encoding="ascii").strip() or "unknown"
            raise JournalError(
                f"another researcher (pid {holder}) works on {folder}; stop it, or choose another --state"
            ) from None

    def sign(self, pid: int) -> None:
        """Write the process id into the lock file, for the error message of a second researcher."""
        self._path.write_text(str(pid), encoding="ascii")

    def release(self) -> None:
        """Release the lock. The end of the process does the same."""
        os.close(self._descriptor)


def open_database(folder: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the database; a writer also creates and migrates it.

    Raises JournalError for a missing journal, a damaged one, or one of a newer version.
    """
    path = folder / JOURNAL_FILE
    if read_only:
        if not path.exists():
            raise JournalError(f"no journal in {folder}; nothing has run there yet")
        database = _open_for_reading(path)
        with _closed_on_error(database):
            if database.execute("PRAGMA user_version").fetchone() == (0,):
                raise JournalError(f"the journal in {folder} is just being made; try again")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        with _closed_on_error(database):
            _require_sound(database, folder)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA foreign_keys = ON")
            _migrate(database, path)
    database.row_factory = sqlite3.Row
    return database


@contextmanager
def _closed_on_error(database: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        database.close()
        raise


def _open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the database read-only.

    On a disk that refuses the shared file of readers, open the database file alone. It is complete without a `-wal`
    file.
    """
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=BUSY_S)
        with _closed_on_error(database):
            database.execute("PRAGMA user_version")
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
        database = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    return database


def _require_sound(database: sqlite3.Connection, folder: Path) -> None:
    """Check the database before anything is written. Otherwise an overwritten page may be found only after hours."""
    (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise JournalError(_damage_reported(found.partition("\n")[2], folder))


def error_is(error: sqlite3.DatabaseError, names: tuple[str, ...]) -> bool:
    """Return True if SQLite's error name begins with one of `names`; extended codes begin with the plain code's name.

    Errors of Python's own module have no such name.
    """
    return getattr(error, "sqlite_errorname", "").startswith(names)


def damage(error: sqlite3.DatabaseError, folder: Path) -> str | None:
    """Return the message for a damaged journal with the next step, or None for any other error."""
    return _damage_reported(str(error), folder) if error_is(error, ("SQLITE_CORRUPT", "SQLITE_NOTADB")) else None


def _damage_reported(found: str, folder: Path) -> str:
    return (
        f"the journal {folder / JOURNAL_FILE} is damaged ({found}); nothing more is written to it. What was measured "
        "is still there: every candidate is a commit of the subject (`git for-each-ref refs/overnight`), results.tsv "
        f"lies beside train.py, and the trainer keeps each result as a file. Next: copy {folder} away; "
        f"`sqlite3 {JOURNAL_FILE} .recover` rescues what can be read; or start again with another --state"
    )


def _migrate(database: sqlite3.Connection, path: Path) -> None:
    scripts = sorted(item.name for item in resources.files("researcher.journal").joinpath("migrations").iterdir())
    scripts = [name for name in scripts if name.endswith(".sql")]
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise JournalError(f"{path} was written by a newer version (schema {version}); upgrade, or use another --state")
    for number, name in enumerate(scripts[version:], start=version + 1):
        script = resources.files("researcher.journal").joinpath("migrations", name).read_text(encoding="utf-8")
        database.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run a block as one transaction, which is committed as a whole or rolled back."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        if database.in_transaction:  # a full disk has rolled it back already
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


@contextmanager
def checkpointed_transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Run a block as one transaction, then move all committed steps from the `-wal` file into the database file."""
    with transaction(database) as opened:
        yield opened
    database.execute(f"PRAGMA busy_timeout = {_CHECKPOINT_WAIT_MS}")
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    database.execute(f"PRAGMA busy_timeout = {int(BUSY_S * 1000)}")


def holds_run(folder: Path) -> bool:
    """Return True if a run has begun in the journal of `folder`, or if the journal is too damaged to tell."""
    path = folder / JOURNAL_FILE
    if not path.exists():
        return False
    try:
        with closing(_open_for_reading(path)) as database:
            has_table = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'run'").fetchone()
            return bool(has_table and database.execute("SELECT 1 FROM run").fetchone())
    except sqlite3.DatabaseError:
        return True


def run_of(row: sqlite3.Row) -> Run:
    """Build a Run from a row; message and cause become one pause."""
    values = _plain(row, Run)
    values["pause"] = _pause_of(row)
    values["prices"] = Prices(row["price_per_hour"], row["price_per_mtoken"])
    if "goal_until" in row.keys():  # noqa: SIM118 - a Row iterates over values; an older journal has no such columns
        values["goal"] = Goal(row["goal_experiments"], row["goal_until"], row["goal_max_cost"])
    if "metric_name" in row.keys() and row["metric_name"] is not None:  # noqa: SIM118 - likewise
        values["metric"] = Metric(row["metric_name"], Direction(row["metric_direction"]), row["metric_unit"])
    degree = values.pop("degree", None)
    return Run(**values) if degree is None else Run(**values, degree=Degree(degree))


_ASKED_TO_PAUSE_BEFORE = "a person asked for it"  # the text in journals of versions without causes


def _pause_of(row: sqlite3.Row) -> Pause | None:
    """Build the pause of a row. An older version wrote no cause: its message shows a user's pause or an outage."""
    message = row["paused"]
    if message is None:
        return None
    cause = row["pause_cause"] if "pause_cause" in row.keys() else None  # noqa: SIM118 - a Row iterates over values
    if cause is None:
        return ASKED_TO_PAUSE if message == _ASKED_TO_PAUSE_BEFORE else Pause(PauseCause.OUTAGE, message)
    return Pause(PauseCause(cause), message)


def experiment_of(row: sqlite3.Row) -> Experiment:
    """Build an Experiment from a row; the LLM's columns become one cost."""
    values = _plain(row, Experiment)
    values["state"] = State(row["state"])
    values["outcome"] = _maybe(Outcome, row["outcome"])
    values["decision"] = _maybe(Decision, row["decision"])
    values["cost"] = _cost_of(row)
    return Experiment(**values)


def _cost_of(row: sqlite3.Row) -> LlmCost | None:
    if row["llm_calls"] is None:
        return None
    return LlmCost(
        endpoint=row["llm_endpoint"],
        model=row["llm_model"],
        calls=row["llm_calls"],
        prompt_tokens=row["llm_prompt_tokens"],
        answer_tokens=row["llm_answer_tokens"],
        seconds=row["llm_s"],
        money=row["llm_money"],
    )


def trial_of(row: sqlite3.Row) -> Trial:
    """Build a Trial from a row."""
    values = _plain(row, Trial)
    values["kind"] = Kind(row["kind"])
    values["finished"] = row["state"] == "finished"
    values["outcome"] = _maybe(Outcome, row["outcome"])
    return Trial(**values)


def confirmation_of(row: sqlite3.Row) -> Confirmation:
    """Build a Confirmation from a row."""
    values = _plain(row, Confirmation)
    values["kind"] = ConfirmationKind(row["kind"])
    values["state"] = State(row["state"])
    values["verdict"] = _maybe(ConfirmationVerdict, row["verdict"])
    return Confirmation(**values)


def paid_call_of(row: sqlite3.Row) -> PaidCall:
    """Build a PaidCall from a row."""
    return PaidCall(**_plain(row, PaidCall))


def request_of(row: sqlite3.Row) -> Request:
    """Build a Request from a row."""
    return Request(**(_plain(row, Request) | {"state": RequestState(row["state"])}))


def _plain(row: sqlite3.Row, kind: Any) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {name: row[name] for name in row.keys() if name in names}  # noqa: SIM118 - a Row iterates over values


def _maybe(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)
