"""The columns of the table of experiments, and results.tsv, which can be rebuilt from the journal at any time.

A new column is one line in `COLUMNS`, which adds it to results.json. `IN_RESULTS_TSV` lists the columns of results.tsv.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import takewhile

from researcher.decision.rules import rolled_back_keeps
from researcher.journal.reader import JournalReader
from researcher.journal.records import State
from researcher.report.view import Row, rows_of

# The columns of an experiment, by the keys of results.json.
COLUMNS: dict[str, Callable[[Row], str | float | None]] = {
    "number": lambda row: row.experiment.number,
    "status": lambda row: row.status,
    "confirmed": lambda row: row.confirmed,
    "rolled_back": lambda row: row.rolled_back,
    "outcome": lambda row: row.experiment.outcome,
    "note": lambda row: row.note,
    "val_bpb": lambda row: row.experiment.score,
    "delta": lambda row: row.delta,
    "memory_gb": lambda row: row.memory_gb,
    "commit": lambda row: row.experiment.commit_sha,
    "proposer": lambda row: row.experiment.proposer,
    "title": lambda row: row.experiment.title,
    "hypothesis": lambda row: row.experiment.hypothesis,
    "reason": lambda row: row.experiment.reason,
    "seconds": lambda row: row.took_s,
}
# The columns of results.tsv before the description, and the format of each.
IN_RESULTS_TSV = {"commit": ".7", "val_bpb": ".6f", "memory_gb": ".1f", "status": ""}
HEADER = "\t".join((*IN_RESULTS_TSV, "description"))
NO_NUMBER = "—"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def values_of(row: Row) -> dict[str, object]:
    """Return every column of an experiment, by name."""
    return {name: value(row) for name, value in COLUMNS.items()}


def cell(row: Row, column: str, form: str = "", none: str = NO_NUMBER) -> str:
    """Return a column of an experiment as text, in the format `form`, or `none` if it has no value."""
    value = COLUMNS[column](row)
    return none if value is None else format(value, form)


def all_columns_text(rows: Sequence[Row]) -> str:
    """Return every column of the experiments as tab-separated text with a header; a missing value is empty."""
    lines = ["\t".join(COLUMNS)]
    for row in rows:
        values = ("" if value is None else str(value) for value in values_of(row).values())
        lines.append("\t".join(_CONTROL.sub(" ", value) for value in values))
    return "\n".join(lines) + "\n"


class ResultsTable:
    """results.tsv of a running run, with the five columns that this kind of research loop commonly uses.

    It lists measured experiments, oldest first, with an em dash for a missing number. Each keep has the status `keep`;
    its description ends with confirmed, provisional or rolled back. A line is written once, and again only after a
    confirmation.
    """

    def __init__(self, history: JournalReader) -> None:
        self._history = history
        self._lines: list[str] = []
        self._until = 0  # only a confirmation changes lines up to this experiment
        self._decided: tuple[int | None, int] | None = None
        self._confirmed: tuple[int, ...] = ()

    def text(self) -> str:
        """Return the table for the present journal."""
        history, run = self._history, self._history.run()
        if run is None:
            return f"{HEADER}\n"
        confirmations = history.confirmations()
        decided = (run.confirmed, sum(each.decided_at is not None for each in confirmations))
        if decided != self._decided:
            self._decided, self._lines, self._until = decided, [], 0
            self._confirmed = history.lineage(run.confirmed)
        experiments = history.experiments()
        fresh = [item for item in experiments if item.id > self._until]
        trials = [trial for trial in history.trials() if trial.experiment > self._until]
        rows = rows_of(self._confirmed, fresh, trials, rolled_back_keeps(experiments, confirmations))
        applied = [*takewhile(lambda row: row.experiment.state is State.APPLIED, rows)]
        self._lines += _lines(applied)
        self._until = applied[-1].experiment.id if applied else self._until
        return "\n".join([HEADER, *self._lines, *_lines(rows[len(applied) :])]) + "\n"


def _lines(rows: Sequence[Row]) -> list[str]:
    return [_line(row) for row in rows if row.experiment.decision is not None and _has_trial(row)]


def _has_trial(row: Row) -> bool:
    return row.experiment.outcome is None or not row.experiment.outcome.is_without_trial


def _line(row: Row) -> str:
    title, note = row.experiment.title, row.note
    description = _CONTROL.sub(" ", f"{title.strip()} ({note})" if note else title).strip()
    return "\t".join((*(cell(row, name, form) for name, form in IN_RESULTS_TSV.items()), description))
