"""The journal's questions: everything that was written down, for the loop and for any number of readers.

Rows come back as the dataclasses of `researcher.journal.records`; those that cannot change any more are read once. The
steps that write are in `researcher.journal.writer`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any, Self, TypeVar

from researcher.errors import JournalError
from researcher.journal.database import (
    confirmation_of,
    damage,
    experiment_of,
    open_database,
    paid_call_of,
    request_of,
    run_of,
    trial_of,
)
from researcher.journal.records import (
    Confirmation,
    Decision,
    Experiment,
    PaidCall,
    Request,
    RequestState,
    Run,
    State,
    Trial,
)
from researcher.source.proposal import Proposal
from trainer.jobs import Calibration, Kind, Outcome, TrialResult

Row = TypeVar("Row")
_RAN_OUT_READ = 16

# Sources, proposals and results stay in the file until asked for: a long run holds megabytes of them.
_TRIAL = (
    "SELECT id, experiment, confirmation, kind, number, attempt, faults, seed, score_to_beat, state, outcome, reason,"
    " val_bpb, heldout_bpb, unseen_bpb, wall_s, memory_mib, queued_at, finished_at, differed, machine, repeats,"
    " disturbed, failed, accident FROM trial"
)
_EXPERIMENT = (
    "SELECT id, number, parent, proposer, title, hypothesis, request, fingerprint, added_lines, state, commit_sha,"
    " outcome, decision, reason, score, margin, sigma, llm_endpoint, llm_model, llm_calls, llm_prompt_tokens,"
    " llm_answer_tokens, llm_s, llm_money, proposed_at, decided_at, applied_at FROM experiment"
)
# From an experiment to its parent, and so on to the baseline.
_LINEAGE = (
    "WITH RECURSIVE line (id, parent) AS (SELECT id, parent FROM experiment WHERE id = ? UNION ALL"
    " SELECT above.id, above.parent FROM experiment AS above JOIN line ON above.id = line.parent) SELECT id FROM line"
)


class JournalReader:
    """A journal opened for reading; safe beside the one writer."""

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        """Raises JournalError where nothing was written yet, or by a newer version."""
        self.folder = folder
        self._writable = writable
        with self._told():
            self._database = open_database(folder, read_only=not writable)
        self._applied: list[Experiment] = []
        self._measured = 0  # of those
        self._settled: list[Confirmation] = []
        self._closed: list[Trial] = []  # only the newest trial may be begun again
        self._scores: dict[int, list[float]] = {}  # of those

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> Run | None:
        """The run of this journal, or None before the first."""
        return next(iter(map(run_of, self._all("SELECT * FROM run ORDER BY id DESC LIMIT 1"))), None)

    def experiments(self) -> list[Experiment]:
        """All of them, oldest first."""
        open_ones = self._read_experiments()
        return [*self._applied, *open_ones]

    def recent(self, count: int) -> list[Experiment]:
        """The last `count`, oldest first."""
        return [experiment_of(row) for row in reversed(self._all(f"{_EXPERIMENT} ORDER BY id DESC LIMIT ?", count))]

    def experiment(self, experiment: int) -> Experiment:
        """By id. Raises JournalError when there is none."""
        return self._one(experiment_of, f"{_EXPERIMENT} WHERE id = ?", experiment)

    def numbered(self, number: int) -> Experiment:
        """By the number a person knows. Raises JournalError when there is none."""
        rows = self._all(f"{_EXPERIMENT} WHERE number = ? ORDER BY id DESC LIMIT 1", number)
        if not rows:
            raise JournalError(f"there is no experiment {number}; `overnight log` lists those there are")
        return experiment_of(rows[0])

    def lineage(self, experiment: int | None) -> tuple[int, ...]:
        """The ids of an experiment, its parent, and so on to the baseline; none for None."""
        return tuple(row["id"] for row in self._all(_LINEAGE, experiment))

    def source(self, experiment: int) -> str:
        """The candidate's train.py. Raises JournalError for a rejected proposal, which never became one."""
        (text,) = self._one(tuple, "SELECT source FROM experiment WHERE id = ? AND source IS NOT NULL", experiment)
        return str(text)

    def proposal(self, experiment: int) -> Proposal | None:
        """What was proposed; None for the baseline."""
        (text,) = self._one(tuple, "SELECT proposal FROM experiment WHERE id = ?", experiment)
        return None if text is None else Proposal.from_json(json.loads(text))

    def open_experiment(self) -> Experiment | None:
        """The one that is on its way, if any."""
        rows = self._all(f"{_EXPERIMENT} WHERE state <> 'applied'")
        return next(iter(map(experiment_of, rows)), None)

    def open_confirmation(self) -> Confirmation | None:
        """The one that is on its way, if any."""
        rows = self._all("SELECT * FROM confirmation WHERE state <> 'applied'")
        return next(iter(map(confirmation_of, rows)), None)

    def confirmations(self) -> list[Confirmation]:
        """All of them, oldest first."""
        known = self._settled[-1].id if self._settled else 0
        rows = self._all("SELECT * FROM confirmation WHERE id > ? ORDER BY id", known)
        fresh = [confirmation_of(row) for row in rows]
        found = [*self._settled, *fresh]
        self._settled += takewhile(lambda item: item.state is State.APPLIED, fresh)
        return found

    def trials(self, *, experiment: int | None = None, confirmation: int | None = None) -> list[Trial]:
        """All, those of one experiment's candidate, or those one confirmation asked for; oldest first."""
        open_ones = self._read_trials()
        found = [*self._closed, *open_ones]
        if experiment is not None:
            found = [trial for trial in found if trial.experiment == experiment]
        if confirmation is not None:
            found = [trial for trial in found if trial.confirmation == confirmation]
        return found

    def request(self, request: str) -> Request | None:
        """By its client-made id."""
        return next(map(request_of, self._all("SELECT * FROM request WHERE id = ?", request)), None)

    def trial(self, trial: int) -> Trial:
        """By id. Raises JournalError when there is none."""
        return self._one(trial_of, f"{_TRIAL} WHERE id = ?", trial)

    def running_trial(self) -> Trial | None:
        """The one that is queued or running, if any."""
        return next(map(trial_of, self._all(f"{_TRIAL} WHERE state = 'queued' ORDER BY id DESC LIMIT 1")), None)

    def result(self, trial: int) -> TrialResult | None:
        """All that a trainer said of a trial; None before it is finished."""
        (text,) = self._one(tuple, "SELECT result FROM trial WHERE id = ?", trial)
        return None if text is None else TrialResult.from_json(json.loads(text))

    def known_speed(self, repeats: int, trials: int) -> list[Calibration]:
        """Return how fast the machine was around the first `trials`, or around the first since it changed for good.

        It changed for good where a trial was measured on a different machine more than `repeats` times.
        """
        rows = self._all(
            "SELECT before_s, after_s FROM trial WHERE COALESCE(before_s, after_s) IS NOT NULL"
            " AND id >= (SELECT IFNULL(MAX(+id), 0) FROM trial WHERE differed > ?) ORDER BY id LIMIT ?",
            repeats,
            trials,
        )
        return [Calibration(row["before_s"], row["after_s"]) for row in rows]

    def trials_since(self, experiment: int) -> list[Trial]:
        """Those after the last one of an experiment's candidate, oldest first."""
        rows = self._all(
            f"{_TRIAL} WHERE id > (SELECT MAX(id) FROM trial WHERE experiment = ?) ORDER BY id", experiment
        )
        return [trial_of(row) for row in rows]

    def trials_after(self, trial: int) -> list[Trial]:
        """Those that were asked for after a trial (an id), oldest first."""
        return [trial_of(row) for row in self._all(f"{_TRIAL} WHERE id > ? ORDER BY id", trial)]

    def newest_time(self) -> float:
        """The latest of all times that are written down; 0 before the first."""
        (newest,) = self._one(
            tuple,
            "SELECT MAX(at) FROM (SELECT MAX(created_at, IFNULL(going_since, 0)) AS at FROM run"
            " UNION ALL SELECT MAX(proposed_at, IFNULL(decided_at, 0), IFNULL(applied_at, 0)) FROM experiment"
            " UNION ALL SELECT MAX(queued_at, IFNULL(finished_at, 0)) FROM trial"
            " UNION ALL SELECT MAX(started_at, IFNULL(decided_at, 0), IFNULL(applied_at, 0)) FROM confirmation"
            " UNION ALL SELECT MAX(received_at, IFNULL(done_at, 0)) FROM request)",
        )
        return newest or 0.0

    def trial_count(self) -> int:
        """How many trials were ever asked for."""
        (count,) = self._one(tuple, "SELECT COUNT(*) FROM trial")
        return int(count)

    def measured_count(self) -> int:
        """How many experiments were measured: not the baseline, not the rejected."""
        open_ones = self._read_experiments()
        return self._measured + sum(item.was_measured for item in open_ones)

    def measured_since(self, at: float, count: int) -> list[Experiment]:
        """The last `count` experiments that were measured and decided after a time, in the order of their decisions."""
        return sorted(self._measured_after(at), key=lambda item: item.decided_at or 0.0)[-count:]

    def keeps_since(self, at: float) -> int:
        """Keeps decided after a time, the baseline left out."""
        return sum(item.decision is Decision.KEEP for item in self._measured_after(at))

    def trial_hours_since(self, at: float) -> float:
        """Hours that candidates' first trials took since a time."""
        recent = (trial for trial in reversed(self.trials()) if (trial.finished_at or 0.0) > at)
        return sum(trial.wall_s or 0.0 for trial in recent if trial.kind is Kind.FIRST) / 3600

    def scores(self) -> dict[int, list[float]]:
        """Every trusted score, by experiment id."""
        open_ones = self._read_trials()
        found = dict(self._scores)
        for trial in open_ones:
            if trial.val_bpb is not None:
                found[trial.experiment] = [*found.get(trial.experiment, ()), trial.val_bpb]
        return found

    def tried(self, fingerprint: str) -> list[Experiment]:
        """The experiments with this code, oldest first."""
        return [item for item in self.experiments() if item.fingerprint == fingerprint]

    def not_kept(self, change: str) -> list[Experiment]:
        """Experiments that made the same change, on whatever code, and were not kept; oldest first."""
        rows = self._all(f"{_EXPERIMENT} WHERE change = ? AND decision IN ('discard', 'crash') ORDER BY id", change)
        return [experiment_of(row) for row in rows]

    def ran_out_of_memory(self) -> list[tuple[int, str]]:
        """Numbers and sources of the last that did, oldest first."""
        found = [item for item in self.experiments() if item.outcome is Outcome.OUT_OF_MEMORY]
        return [(item.number, self.source(item.id)) for item in found[-_RAN_OUT_READ:]]

    def paid_calls(self) -> list[PaidCall]:
        """Every question to the stronger model, oldest first."""
        return [paid_call_of(row) for row in self._all("SELECT * FROM paid_call ORDER BY id")]

    def requests(self, state: RequestState | None = None) -> list[Request]:
        """In the order they arrived."""
        rows = self._all("SELECT * FROM request WHERE ?1 IS NULL OR state = ?1 ORDER BY received_at, id", state)
        return [request_of(row) for row in rows]

    def _read_experiments(self) -> list[Experiment]:
        """Those from the first that may still change, oldest first; all before it are in `_applied` then."""
        known = self._applied[-1].id if self._applied else 0
        fresh = [experiment_of(row) for row in self._all(f"{_EXPERIMENT} WHERE id > ? ORDER BY id", known)]
        applied = [*takewhile(lambda item: item.state is State.APPLIED, fresh)]
        self._applied += applied
        self._measured += sum(item.was_measured for item in applied)
        return fresh[len(applied) :]

    def _read_trials(self) -> list[Trial]:
        """The same for trials and `_closed`."""
        known = self._closed[-1].id if self._closed else 0
        fresh = [trial_of(row) for row in self._all(f"{_TRIAL} WHERE id > ? ORDER BY id", known)]
        closed = [*takewhile(lambda trial: trial.finished, fresh[:-1])]
        self._closed += closed
        for trial in closed:
            if trial.val_bpb is not None:
                self._scores[trial.experiment] = [*self._scores.get(trial.experiment, ()), trial.val_bpb]
        return fresh[len(closed) :]

    def _measured_after(self, at: float) -> Iterator[Experiment]:
        """Measured experiments that were decided after a time, in the order of their ids."""
        return (item for item in self.experiments() if (item.decided_at or 0.0) > at and item.was_measured)

    def _all(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._told():
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A reader can do nothing about a journal that cannot be read; its writer knows more."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if self._writable:
                raise
            words = damage(error, self.folder) or f"the journal in {self.folder} cannot be read now: {error}"
            raise JournalError(words) from error

    def _one(self, parse: Callable[[sqlite3.Row], Row], statement: str, *values: Any) -> Row:
        rows = self._all(statement, *values)
        if not rows:
            raise JournalError(f"the journal has no such row: {statement} {values}")
        return parse(rows[0])
