"""The journal's file: SQLite with ordered migrations, one writer held by `flock`, and rows as dataclasses.

Hides the connection and the mapping of columns; `researcher.journal` holds the steps. WAL with synchronous=FULL: a
committed step survives kill -9 and power loss. Not for network file systems, whose locks cannot be trusted.
"""

from __future__ import annotations

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import IO, Any

from researcher.errors import JournalError
from researcher.experiment import (
    CheckKind,
    Confirmation,
    Decision,
    Experiment,
    Prices,
    Request,
    RequestState,
    Run,
    State,
    Trial,
    Verdict,
)
from researcher.proposal import LlmCost, Proposer
from trainer.jobs import Kind, Outcome

JOURNAL_FILE = "journal.db"


class WriterLock:
    """The right to write one journal, held until the process ends."""

    def __init__(self, folder: Path) -> None:
        """Raises JournalError when another researcher holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = (folder / "lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            raise JournalError(
                f"another researcher (pid {holder}) works on {folder}; stop it, or choose another --state"
            ) from None

    def sign(self, pid: int) -> None:
        """Leave a name for the error message of whoever comes second."""
        self._file.truncate(0)
        self._file.write(str(pid))
        self._file.flush()

    def release(self) -> None:
        """Give it back; the end of the process does the same."""
        self._file.close()


def open_database(folder: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open, and for a writer create and migrate. Raises JournalError for a journal of a newer version or none."""
    path = folder / JOURNAL_FILE
    if read_only:
        if not path.exists():
            raise JournalError(f"no journal in {folder}; nothing has run there yet")
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        if database.execute("PRAGMA user_version").fetchone() == (0,):
            database.close()
            raise JournalError(f"the journal in {folder} is just being made; try again")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(path, timeout=10, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        _migrate(database, path)
    database.row_factory = sqlite3.Row
    return database


def _migrate(database: sqlite3.Connection, path: Path) -> None:
    scripts = sorted(item.name for item in resources.files("researcher").joinpath("migrations").iterdir())
    scripts = [name for name in scripts if name.endswith(".sql")]
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > len(scripts):
        raise JournalError(f"{path} was written by a newer version (schema {version}); upgrade, or use another --state")
    for number, name in enumerate(scripts[version:], start=version + 1):
        script = resources.files("researcher").joinpath("migrations", name).read_text()
        database.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield database
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def run_of(row: sqlite3.Row) -> Run:
    """Column for column."""
    values = _plain(row, Run)
    values["prices"] = Prices(row["price_per_hour"], row["price_per_kwh"], row["price_per_mtoken"])
    return Run(**values)


def experiment_of(row: sqlite3.Row) -> Experiment:
    """Column for column; the LLM's columns become one cost."""
    values = _plain(row, Experiment)
    values["proposer"] = _maybe(Proposer, row["proposer"])
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
    )


def trial_of(row: sqlite3.Row) -> Trial:
    """Column for column."""
    values = _plain(row, Trial)
    values["kind"] = Kind(row["kind"])
    values["finished"] = row["state"] == "finished"
    values["outcome"] = _maybe(Outcome, row["outcome"])
    return Trial(**values)


def confirmation_of(row: sqlite3.Row) -> Confirmation:
    """Column for column."""
    values = _plain(row, Confirmation)
    values["kind"] = CheckKind(row["kind"])
    values["state"] = State(row["state"])
    values["verdict"] = _maybe(Verdict, row["verdict"])
    return Confirmation(**values)


def request_of(row: sqlite3.Row) -> Request:
    """Column for column."""
    return Request(**(_plain(row, Request) | {"state": RequestState(row["state"])}))


def _plain(row: sqlite3.Row, kind: Any) -> dict[str, Any]:
    names = {item.name for item in fields(kind)}
    return {name: row[name] for name in row.keys() if name in names}  # noqa: SIM118 - a Row iterates over values


def _maybe(kind: Any, value: Any) -> Any:
    return None if value is None else kind(value)
