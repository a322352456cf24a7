"""Reads one run for the page: the report, everything about one experiment, and the loss curve of the running trial.

All reading happens in one thread, because a journal's connection belongs to the thread that opened it. A report is
reused for a moment that grows with the time that it takes, so that many browsers and a long run cost little.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import redis

from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.journal.records import Trial
from researcher.prompting.transcripts import Exchange, UnreadableTranscript, stored_exchanges
from researcher.report.snapshot import Report
from researcher.report.view import Row, RunReport
from researcher.source.proposal import Proposal
from services.machine.state import State
from services.redis.acl import DASHBOARD
from services.views.client import ClientError, open_bus
from services.views.follow import OpenJournal
from trainer.jobs import LossPoint, RedisClient, TrialResult

if TYPE_CHECKING:
    from services.dashboard.learned import KnobLine, Knowledge

FRESH_S = 1.0
MOST_OF_THE_TIME = 20  # a report is reused for so many times the seconds that it took
LOG_BYTES = 64_000


class NoSuchExperiment(Exception):
    """The run has no experiment with this number."""


@dataclass(frozen=True)
class MeasuredTrial:
    """A trial with its whole result; None until it has ended."""

    trial: Trial
    result: TrialResult | None


@dataclass(frozen=True)
class ExperimentDetail:
    """Everything about one experiment. Sources are None without a candidate, and `exchanges` is empty without an LLM.

    `curve` is the training loss of its first trial, and `compared_curve` that of the version that it had to beat. `log`
    is the end of the log of its newest trial.
    """

    run_report: RunReport
    row: Row
    parent: Row | None
    source: str | None
    parent_source: str | None
    proposal: Proposal | None
    trials: tuple[MeasuredTrial, ...]
    exchanges: tuple[Exchange, ...]
    curve: tuple[LossPoint, ...]
    compared_curve: tuple[LossPoint, ...]
    log: str


@dataclass(frozen=True)
class Snapshot:
    """A report, and the curves of the running trial and of the incumbent."""

    report: Report
    live_curve: tuple[LossPoint, ...] = ()
    incumbent_curve: tuple[LossPoint, ...] = ()


class RunData:
    """Reads the run in a state folder. Its methods may be called from any thread."""

    def __init__(self, state: State, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = state
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="run-data")
        self._journal = OpenJournal(state.journal)
        self._bus: RedisClient | None = None
        self._snapshot: Snapshot | None = None
        self._fresh_until = 0.0
        self._live_trial: str | None = None
        self._live_curve: list[LossPoint] = []
        self._curves: dict[int, tuple[LossPoint, ...]] = {}  # of finished trials, by their ids
        self._knowledge: tuple[float, Knowledge] | None = None  # with the moment at which its run began

    def close(self) -> None:
        """Close the journal and end the thread."""
        self._thread.submit(self._journal.close).result()
        self._thread.shutdown()

    def snapshot(self) -> Snapshot:
        """Return the present state. Raises StateError for a state folder that cannot be read."""
        return self._thread.submit(self._read_snapshot).result()

    def detail(self, number: int) -> ExperimentDetail:
        """Return everything about one experiment. Raises NoSuchExperiment, and JournalError."""
        return self._thread.submit(self._read_detail, number).result()

    def source(self, number: int) -> str:
        """Return an experiment's train.py. Raises NoSuchExperiment, also for a rejected proposal, and JournalError."""
        return self._thread.submit(self._read_source, number).result()

    def knobs(self) -> tuple[KnobLine, ...]:
        """Return what moving each knob did; empty before the baseline is measured. Raises JournalError."""
        return self._thread.submit(self._read_knobs).result()

    def bus(self) -> RedisClient | None:
        """Return a client of the run's Redis, or None while there is none."""
        return self._thread.submit(self._open_bus).result()

    def _read_snapshot(self) -> Snapshot:
        began = self._clock()
        if self._snapshot is not None and began < self._fresh_until:
            return self._snapshot
        choices = self.state.choices()
        report = self._journal.report(self._open_bus(), None if choices is None else choices.trial_profile())
        if report.live is not None and not report.live.answers:
            self._bus = None  # the next report asks for the address and the password again
        self._follow_live_trial(report)
        self._snapshot = Snapshot(replace(report, at=time.time()), tuple(self._live_curve), self._best_curve(report))
        now = self._clock()
        self._fresh_until = now + max(FRESH_S, MOST_OF_THE_TIME * (now - began))
        return self._snapshot

    def _open_bus(self) -> RedisClient | None:
        if self._bus is None:
            with suppress(ClientError, redis.RedisError, OSError):  # the report then says that the run is not running
                self._bus = open_bus(self.state, DASHBOARD.name)
        return self._bus

    def _follow_live_trial(self, report: Report) -> None:
        """Collect the losses that the running trial has published since this process began."""
        live = report.live
        if live is None or live.trial != self._live_trial:
            self._live_trial, self._live_curve = None if live is None else live.trial, []
        progress = None if live is None else live.progress
        if progress is None or progress.loss is None or progress.step is None:
            return
        if not self._live_curve or self._live_curve[-1].step < progress.step:
            self._live_curve.append(LossPoint(progress.step, progress.progress, progress.loss))

    def _best_curve(self, report: Report) -> tuple[LossPoint, ...]:
        """Return the losses of the incumbent; empty without one, and while the journal cannot be read."""
        incumbent = None if report.run_report is None else report.run_report.incumbent
        if incumbent is None:
            return ()
        try:
            with self._journal.reader() as history:
                return self._curve_of(history, incumbent)
        except JournalError:
            return ()  # the next report says why

    def _curve_of(self, history: JournalReader, row: Row) -> tuple[LossPoint, ...]:
        """Return the losses of an experiment's first trial; empty before it has ended."""
        trial = row.trial or next(iter(history.trials(experiment=row.experiment.id)), None)
        if trial is None or not trial.finished:
            return ()
        if trial.id not in self._curves:
            result = history.result(trial.id)
            self._curves[trial.id] = () if result is None else result.loss_curve
        return self._curves[trial.id]

    def _read_detail(self, number: int) -> ExperimentDetail:
        run_report, row = self._row(number)
        item, parent = row.experiment, run_report.row(row.experiment.parent)
        with self._journal.reader() as history:
            trials = tuple(
                MeasuredTrial(trial, history.result(trial.id)) for trial in history.trials(experiment=item.id)
            )
            compared = parent if parent is not None else run_report.incumbent
            return ExperimentDetail(
                run_report=run_report,
                row=row,
                parent=parent,
                source=_source(history, row),
                parent_source=None if parent is None else _source(history, parent),
                proposal=history.proposal(item.id),
                trials=trials,
                exchanges=self._exchanges(item.number),
                curve=self._curve_of(history, row),
                compared_curve=() if compared is None else self._curve_of(history, compared),
                log=self._log(trials),
            )

    def _read_knobs(self) -> tuple[KnobLine, ...]:
        from services.dashboard.learned import Knowledge  # noqa: PLC0415 - imports Optuna

        found = self._read_snapshot().report.run_report
        if found is None or found.incumbent is None:
            return ()
        if self._knowledge is None or self._knowledge[0] != found.run.created_at:
            self._knowledge = found.run.created_at, Knowledge()
        knowledge = self._knowledge[1]
        with self._journal.reader() as history:
            knowledge.learn(history)
            return knowledge.knobs(found, history.source(found.incumbent.experiment.id))

    def _row(self, number: int) -> tuple[RunReport, Row]:
        run_report = self._read_snapshot().report.run_report
        row = None if run_report is None else next((r for r in run_report.rows if r.experiment.number == number), None)
        if run_report is None or row is None:
            raise NoSuchExperiment(f"there is no experiment {number}")
        return run_report, row

    def _read_source(self, number: int) -> str:
        _, row = self._row(number)
        with self._journal.reader() as history:
            source = _source(history, row)
        if source is None:
            raise NoSuchExperiment(f"experiment {number} has no train.py, because its proposal was rejected")
        return source

    def _exchanges(self, number: int) -> tuple[Exchange, ...]:
        try:
            return tuple(stored_exchanges(self.state.journal / "experiments" / str(number)))
        except UnreadableTranscript:
            return ()  # only an LLM's newest experiments have one

    def _log(self, trials: tuple[MeasuredTrial, ...]) -> str:
        """Return the end of the newest log: the trainer's file, or the part that the journal holds."""
        log = next((each.result.log for each in reversed(trials) if each.result and each.result.log), None)
        if log is None:
            return ""
        path, folder = (self.state.trials / log.path).resolve(), self.state.trials.resolve()
        if not path.is_relative_to(folder) or not path.is_file():
            return log.tail
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            return file.read().decode(errors="replace")


def _source(history: JournalReader, row: Row) -> str | None:
    """Return a candidate's train.py, or None for a proposal without one."""
    return None if row.experiment.fingerprint is None else history.source(row.experiment.id)
