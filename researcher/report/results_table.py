"""What is rebuilt from the journal at will: results.tsv and progress.png, in the subject repository's root.

Each is written by temp + fsync + rename, so a reader sees the old file or the new one; deleting them loses nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile

from researcher.decision.standing import rolled_back_keeps
from researcher.journal.reader import JournalReader
from researcher.journal.records import State
from researcher.report.view import Row, rows_of

HEADER = "commit\tval_bpb\tmemory_gb\tstatus\tdescription"
NO_NUMBER = "—"
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class ResultsTable:
    """results.tsv of a run that goes on: the table users of this kind of loop know, with its five columns.

    Measured experiments, oldest first; an em dash for no number. Every keep of the walk is a `keep`; whether it is
    confirmed, provisional or rolled back ends its description. A line is made once, and again only after a check.
    """

    def __init__(self, history: JournalReader) -> None:
        self._history = history
        self._lines: list[str] = []
        self._until = 0  # the last experiment whose line cannot change but by a check
        self._checks: tuple[int | None, int] | None = None

    def text(self) -> str:
        """As the journal has it now."""
        history, run = self._history, self._history.run()
        if run is None:
            return f"{HEADER}\n"
        confirmations = history.confirmations()
        checks = (run.confirmed, sum(check.decided_at is not None for check in confirmations))
        if checks != self._checks:
            self._checks, self._lines, self._until = checks, [], 0
        experiments = history.experiments()
        fresh = [item for item in experiments if item.id > self._until]
        trials = [trial for trial in history.trials() if trial.experiment > self._until]
        rows = rows_of(run, fresh, trials, rolled_back_keeps(experiments, confirmations))
        settled = [*takewhile(lambda row: row.experiment.state is State.APPLIED, rows)]
        self._lines += _lines(settled)
        self._until = settled[-1].experiment.id if settled else self._until
        return "\n".join([HEADER, *self._lines, *_lines(rows[len(settled) :])]) + "\n"


def _lines(rows: Sequence[Row]) -> list[str]:
    return [_line(row) for row in rows if row.experiment.decision is not None and row.status != "rejected"]


def _line(row: Row) -> str:
    item, memory_gb, note = row.experiment, row.memory_gb, row.note
    return "\t".join(
        (
            (item.commit_sha or NO_NUMBER)[:7],
            NO_NUMBER if item.score is None else f"{item.score:.6f}",
            NO_NUMBER if memory_gb is None else f"{memory_gb:.1f}",
            row.status,
            _CONTROL.sub(" ", f"{item.title.strip()} ({note})" if note else item.title).strip(),
        )
    )
