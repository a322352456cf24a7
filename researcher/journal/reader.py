"""Reads the journal, for the loop and for any number of other readers.

Queries return the dataclasses of `researcher.journal.records`. Rows that can no longer change are read only once, and
are kept in the orders in which the loop asks for them, so that a step costs the same after five experiments and after
five thousand. `researcher.journal.writer` holds the steps that write.
"""

from __future__ import annotations

import json
import sqlite3
from bisect import bisect_right, insort_right
from collections import defaultdict
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
    MEASURED,
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

# These columns omit sources, proposals and results, which take megabytes in a long run; other queries read them.
_TRIAL = (
    "SELECT id, experiment, confirmation, kind, number, attempt, faults, seed, score_to_beat, state, outcome, reason,"
    f" {', '.join(MEASURED)}, queued_at, finished_at, differed, machine, repeats,"
    " disturbed, failed, accident FROM trial"
)
_EXPERIMENT = (
    "SELECT id, number, parent, proposer, title, hypothesis, request, fingerprint, added_lines, state, commit_sha,"
    " outcome, decision, reason, score, margin, sigma, llm_endpoint, llm_model, llm_calls, llm_prompt_tokens,"
    " llm_answer_tokens, llm_s, llm_money, proposed_at, decided_at, applied_at FROM experiment"
)


class JournalReader:
    """A journal opened for reading. Readers may run beside the one writer."""

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        """Open the journal.

        Raises JournalError if it does not exist yet, is damaged, or was written by a newer version.
        """
        self.folder = folder
        self._writable = writable
        with self._reported():
            self._database = open_database(folder, read_only=not writable)
        self._applied: list[Experiment] = []
        self._by_id: dict[int, Experiment] = {}  # those of `_applied`, as the next three
        self._by_code: dict[str, list[Experiment]] = defaultdict(list)
        self._measured: list[Experiment] = []  # in the order of their decisions
        self._out_of_memory: list[Experiment] = []
        self._decided: list[Confirmation] = []
        self._closed: list[Trial] = []  # finished trials but the newest, which may be measured again
        self._closed_of: dict[tuple[str, int], list[Trial]] = defaultdict(list)
        self._closed_until: list[float] = []  # for each of `_closed`: the latest end of a trial up to it
        self._scores: dict[int, list[float]] = {}  # scores of `_closed`

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> Run | None:
        """Return the latest run of this journal, or None before the first."""
        return next(iter(map(run_of, self._all("SELECT * FROM run ORDER BY id DESC LIMIT 1"))), None)

    def experiments(self) -> list[Experiment]:
        """Return all experiments, oldest first."""
        open_ones = self._read_experiments()
        return [*self._applied, *open_ones]

    def recent(self, count: int) -> list[Experiment]:
        """Return the last `count` experiments, oldest first."""
        return [experiment_of(row) for row in reversed(self._all(f"{_EXPERIMENT} ORDER BY id DESC LIMIT ?", count))]

    def experiment(self, experiment: int) -> Experiment:
        """Return the experiment with this id. Raises JournalError if there is none."""
        return self._by_id.get(experiment) or self._one(experiment_of, f"{_EXPERIMENT} WHERE id = ?", experiment)

    def numbered(self, number: int) -> Experiment:
        """Return the experiment with this number, as users see it. Raises JournalError if there is none."""
        rows = self._all(f"{_EXPERIMENT} WHERE number = ? ORDER BY id DESC LIMIT 1", number)
        if not rows:
            raise JournalError(f"there is no experiment {number}; `overnight log` lists those there are")
        return experiment_of(rows[0])

    def lineage(self, experiment: int | None) -> tuple[int, ...]:
        """Return the ids of an experiment, its parent, and so on to the baseline. For None the tuple is empty."""
        self._read_experiments()
        line: list[int] = []
        while experiment is not None:
            line.append(experiment)
            experiment = self.experiment(experiment).parent
        return tuple(line)

    def source(self, experiment: int) -> str:
        """Return the candidate's train.py. Raises JournalError for a rejected proposal, which has no candidate."""
        (text,) = self._one(tuple, "SELECT source FROM experiment WHERE id = ? AND source IS NOT NULL", experiment)
        return str(text)

    def proposal(self, experiment: int) -> Proposal | None:
        """Return the proposal of an experiment, or None for the baseline."""
        (text,) = self._one(tuple, "SELECT proposal FROM experiment WHERE id = ?", experiment)
        return None if text is None else Proposal.from_json(json.loads(text))

    def open_experiment(self) -> Experiment | None:
        """Return the experiment in progress, or None."""
        rows = self._all(f"{_EXPERIMENT} WHERE state <> 'applied'")
        return next(iter(map(experiment_of, rows)), None)

    def open_confirmation(self) -> Confirmation | None:
        """Return the confirmation in progress, or None."""
        rows = self._all("SELECT * FROM confirmation WHERE state <> 'applied'")
        return next(iter(map(confirmation_of, rows)), None)

    def confirmations(self) -> list[Confirmation]:
        """Return all confirmations, oldest first."""
        known = self._decided[-1].id if self._decided else 0
        rows = self._all("SELECT * FROM confirmation WHERE id > ? ORDER BY id", known)
        fresh = [confirmation_of(row) for row in rows]
        found = [*self._decided, *fresh]
        self._decided += takewhile(lambda item: item.state is State.APPLIED, fresh)
        return found

    def trials(self, *, experiment: int | None = None, confirmation: int | None = None) -> list[Trial]:
        """Return all trials, those of one experiment's candidate, or those of one confirmation; oldest first."""
        open_ones = self._read_trials()
        if experiment is not None:
            open_ones = [trial for trial in open_ones if trial.experiment == experiment]
            return [*self._closed_of.get(("experiment", experiment), ()), *open_ones]
        if confirmation is not None:
            open_ones = [trial for trial in open_ones if trial.confirmation == confirmation]
            return [*self._closed_of.get(("confirmation", confirmation), ()), *open_ones]
        return [*self._closed, *open_ones]

    def request(self, request: str) -> Request | None:
        """Return the request with this id, which the client made, or None."""
        return next(map(request_of, self._all("SELECT * FROM request WHERE id = ?", request)), None)

    def trial(self, trial: int) -> Trial:
        """Return the trial with this id. Raises JournalError if there is none."""
        return self._one(trial_of, f"{_TRIAL} WHERE id = ?", trial)

    def running_trial(self) -> Trial | None:
        """Return the trial that is queued or running, or None."""
        queued = f"{_TRIAL} WHERE run = (SELECT MAX(id) FROM run) AND state = 'queued' ORDER BY id DESC LIMIT 1"
        return next(map(trial_of, self._all(queued)), None)

    def result(self, trial: int) -> TrialResult | None:
        """Return the trainer's whole result of a trial, or None before the trial is finished."""
        (text,) = self._one(tuple, "SELECT result FROM trial WHERE id = ?", trial)
        return None if text is None else TrialResult.from_json(json.loads(text))

    def known_speed(self, repeats: int, trials: int) -> list[Calibration]:
        """Return the calibrations of the first `trials`, or of the first since the machine changed permanently.

        The machine changed permanently if its speed differed in more than `repeats` attempts at one trial.
        """
        rows = self._all(
            "SELECT before_s, after_s FROM trial WHERE COALESCE(before_s, after_s) IS NOT NULL"
            " AND id >= (SELECT IFNULL(MAX(+id), 0) FROM trial WHERE differed > ?) ORDER BY id LIMIT ?",
            repeats,
            trials,
        )
        return [Calibration(row["before_s"], row["after_s"]) for row in rows]

    def known_clocks_mhz(self, repeats: int, trials: int) -> list[float]:
        """Return the clocks of the GPU in the trials that `known_speed` counts."""
        clock = "json_extract(result, '$.gpu_use.clock_mhz')"
        rows = self._all(
            f"SELECT {clock} AS mhz FROM trial WHERE {clock} IS NOT NULL"
            " AND id >= (SELECT IFNULL(MAX(+id), 0) FROM trial WHERE differed > ?) ORDER BY id LIMIT ?",
            repeats,
            trials,
        )
        return [row["mhz"] for row in rows]

    def trials_since(self, experiment: int) -> list[Trial]:
        """Return the trials after the last trial of an experiment's candidate, oldest first."""
        rows = self._all(
            f"{_TRIAL} WHERE id > (SELECT MAX(id) FROM trial WHERE experiment = ?) ORDER BY id", experiment
        )
        return [trial_of(row) for row in rows]

    def trials_after(self, trial: int) -> list[Trial]:
        """Return the trials that were added after a trial (an id), oldest first."""
        return [trial_of(row) for row in self._all(f"{_TRIAL} WHERE id > ? ORDER BY id", trial)]

    def newest_time(self) -> float:
        """Return the latest time in the journal, in seconds since the epoch; 0 for an empty journal."""
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
        """Return the number of all trials ever added."""
        (count,) = self._one(tuple, "SELECT COUNT(*) FROM trial")
        return int(count)

    def measured_count(self) -> int:
        """Return the number of measured experiments, without the baseline and rejected proposals."""
        open_ones = self._read_experiments()
        return len(self._measured) + sum(item.was_measured for item in open_ones)

    def measured_since(self, at: float, count: int) -> list[Experiment]:
        """Return the last `count` measured experiments decided after a time, in the order of their decisions."""
        return self._measured_after(at, count)[-count:]

    def decisions_since(self, at: float) -> list[Decision]:
        """Return the decisions on measured experiments after a time, in their order, without the baseline."""
        return [item.decision for item in self._measured_after(at) if item.decision is not None]

    def trial_hours_since(self, at: float) -> float:
        """Return the hours of candidates' first trials that finished after a time."""
        open_ones = self._read_trials()
        recent = [*self._closed[bisect_right(self._closed_until, at) :], *open_ones]
        firsts = (trial for trial in reversed(recent) if trial.kind is Kind.FIRST and (trial.finished_at or 0.0) > at)
        return sum(trial.wall_s or 0.0 for trial in firsts) / 3600

    def scores(self) -> dict[int, list[float]]:
        """Return all trusted scores by experiment id."""
        open_ones = self._read_trials()
        found = dict(self._scores)
        for trial in open_ones:
            if trial.val_bpb is not None:
                found[trial.experiment] = [*found.get(trial.experiment, ()), trial.val_bpb]
        return found

    def tried(self, fingerprint: str) -> list[Experiment]:
        """Return the experiments with this code, oldest first."""
        open_ones = self._read_experiments()
        return [*self._by_code.get(fingerprint, ()), *(item for item in open_ones if item.fingerprint == fingerprint)]

    def not_kept(self, change: str) -> list[Experiment]:
        """Return experiments with the same change, on any code, that were discarded or failed, oldest first."""
        rows = self._all(f"{_EXPERIMENT} WHERE change = ? AND decision IN ('discard', 'crash') ORDER BY id", change)
        return [experiment_of(row) for row in rows]

    def ran_out_of_memory(self) -> list[tuple[int, str]]:
        """Return the numbers and sources of the last experiments that ran out of memory, oldest first."""
        open_ones = self._read_experiments()
        found = [*self._out_of_memory, *(item for item in open_ones if item.outcome is Outcome.OUT_OF_MEMORY)]
        return [(item.number, self.source(item.id)) for item in found[-_RAN_OUT_READ:]]

    def paid_calls(self) -> list[PaidCall]:
        """Return all questions to the stronger model, oldest first."""
        return [paid_call_of(row) for row in self._all("SELECT * FROM paid_call ORDER BY id")]

    def requests(self, state: RequestState | None = None) -> list[Request]:
        """Return the requests, all or those in one state, in the order of their arrival."""
        rows = self._all("SELECT * FROM request WHERE ?1 IS NULL OR state = ?1 ORDER BY received_at, id", state)
        return [request_of(row) for row in rows]

    def _read_experiments(self) -> list[Experiment]:
        """Return the experiments from the first that may still change, oldest first. Earlier ones are in `_applied`."""
        known = self._applied[-1].id if self._applied else 0
        fresh = [experiment_of(row) for row in self._all(f"{_EXPERIMENT} WHERE id > ? ORDER BY id", known)]
        applied = [*takewhile(lambda item: item.state is State.APPLIED, fresh)]
        self._applied += applied
        for item in applied:
            self._by_id[item.id] = item
            if item.fingerprint is not None:
                self._by_code[item.fingerprint].append(item)
            if item.was_measured:
                insort_right(self._measured, item, key=_decided_at)
            if item.outcome is Outcome.OUT_OF_MEMORY:
                self._out_of_memory.append(item)
        return fresh[len(applied) :]

    def _read_trials(self) -> list[Trial]:
        """Return the trials that may still change, oldest first, and move all others to `_closed`."""
        known = self._closed[-1].id if self._closed else 0
        fresh = [trial_of(row) for row in self._all(f"{_TRIAL} WHERE id > ? ORDER BY id", known)]
        closed = [*takewhile(lambda trial: trial.finished, fresh[:-1])]
        self._closed += closed
        for trial in closed:
            self._closed_of["experiment", trial.experiment].append(trial)
            if trial.confirmation is not None:
                self._closed_of["confirmation", trial.confirmation].append(trial)
            self._closed_until.append(max([trial.finished_at or 0.0, *self._closed_until[-1:]]))
            if trial.val_bpb is not None:
                self._scores[trial.experiment] = [*self._scores.get(trial.experiment, ()), trial.val_bpb]
        return fresh[len(closed) :]

    def _measured_after(self, at: float, count: int | None = None) -> list[Experiment]:
        """Return the measured experiments that were decided after a time, in the order of their decisions.

        With `count`, at least so many of the last ones.
        """
        open_ones = [item for item in self._read_experiments() if item.was_measured and _decided_at(item) > at]
        first = bisect_right(self._measured, at, key=_decided_at)
        if count is not None:
            first = max(first, len(self._measured) - count)
        return sorted([*self._measured[first:], *open_ones], key=_decided_at)

    def _all(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        with self._reported():
            return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn a database error into a JournalError for readers.

        The writer gets the original error, which it can act on.
        """
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


def _decided_at(item: Experiment) -> float:
    return item.decided_at or 0.0
