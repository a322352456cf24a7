"""The columns of the table of experiments, and results.tsv, which can be rebuilt from the journal at any time.

A new column is one line in `COLUMNS`, which adds it to results.json. `IN_RESULTS_TSV` lists the columns of results.tsv.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import takewhile

from researcher.decision.rules import rolled_back_keeps
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Experiment, State
from researcher.report.view import Row, rows_of
from trainer.jobs import BITS_PER_BYTE, Metric

# The columns of an experiment, by the keys of results.json.
COLUMNS: dict[str, Callable[[Row], str | float | None]] = {
    "number": lambda row: row.experiment.number,
    "status": lambda row: row.status,
    "confirmed": lambda row: row.confirmed,
    "rolled_back": lambda row: row.rolled_back,
    "outcome": lambda row: row.experiment.outcome,
    "note": lambda row: row.note,
    "value": lambda row: row.value,
    "delta": lambda row: row.change,
    "memory_gb": lambda row: row.memory_gb,
    "commit": lambda row: row.experiment.commit_sha,
    "proposer": lambda row: row.experiment.proposer,
    "title": lambda row: row.experiment.title,
    "hypothesis": lambda row: row.experiment.hypothesis,
    "reason": lambda row: row.experiment.reason,
    "seconds": lambda row: row.took_s,
}
# The columns of results.tsv before the description, and the format of each. The value stands under the metric's name.
IN_RESULTS_TSV = {"commit": ".7", "value": ".6f", "memory_gb": ".1f", "status": ""}
NO_NUMBER = "—"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def values_of(row: Row) -> dict[str, object]:
    """Return every column of an experiment, by name."""
    return {name: value(row) for name, value in COLUMNS.items()}


def cell(row: Row, column: str, form: str = "", none: str = NO_NUMBER) -> str:
    """Return a column of an experiment as text, in the format `form`, or `none` if it has no value."""
    value = COLUMNS[column](row)
    return none if value is None else format(value, form)


def header(metric: Metric) -> str:
    """Return the first line of results.tsv."""
    return "\t".join((*(metric.name if name == "value" else name for name in IN_RESULTS_TSV), "description"))


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
    its description ends with confirmed, provisional or rolled back. A line is made once, and that of a keep again after
    each confirmation.
    """

    def __init__(self, history: JournalReader) -> None:
        self._history = history
        self._lines: list[str] = []  # one for each applied experiment, "" for those that are not listed
        self._keeps: dict[int, Experiment] = {}  # by their places in `_lines`
        self._decided: tuple[int | None, int] | None = None
        self._confirmed: tuple[int, ...] = ()
        self._rolled_back: dict[int, str] = {}
        self._metric = BITS_PER_BYTE

    def text(self) -> str:
        """Return the table for the present journal."""
        history, run = self._history, self._history.run()
        if run is None:
            return f"{header(BITS_PER_BYTE)}\n"
        self._metric = run.metric
        confirmations, experiments = history.confirmations(), history.experiments()
        decided = (run.confirmed, sum(each.decided_at is not None for each in confirmations))
        if decided != self._decided:
            self._decided = decided
            self._confirmed = history.lineage(run.confirmed)
            self._rolled_back = rolled_back_keeps(experiments, confirmations)
            for place, keep in self._keeps.items():
                self._lines[place] = self._line(keep)
        fresh = experiments[len(self._lines) :]
        applied = [*takewhile(lambda item: item.state is State.APPLIED, fresh)]
        self._keeps |= {
            place: item for place, item in enumerate(applied, len(self._lines)) if item.decision is Decision.KEEP
        }
        self._lines += map(self._line, applied)
        lines = [*self._lines, *map(self._line, fresh[len(applied) :])]
        return "\n".join([header(run.metric), *filter(None, lines)]) + "\n"

    def _line(self, item: Experiment) -> str:
        """Return the line of an experiment, or "" if the table does not list it."""
        if item.decision is None or (item.outcome is not None and item.outcome.is_without_trial):
            return ""
        (row,) = rows_of(
            self._confirmed, [item], self._history.trials(experiment=item.id), self._rolled_back, self._metric
        )
        return _line(row)


def _line(row: Row) -> str:
    title, note = row.experiment.title, row.note
    description = _CONTROL.sub(" ", f"{title.strip()} ({note})" if note else title).strip()
    return "\t".join((*(cell(row, name, form) for name, form in IN_RESULTS_TSV.items()), description))
