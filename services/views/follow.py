"""`overnight status --follow`: shows a running run until it has ended. Leaving the view stops nothing.

On a terminal it is the live view; for a pipe, one line for each decision. It says when Redis or the researcher is
missing, and waits. It reads data that cannot change any more only once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live

from researcher.errors import JournalError
from researcher.journal.database import JOURNAL_FILE
from researcher.journal.reader import JournalReader
from researcher.report.document import RunState
from researcher.report.results_table import cell
from researcher.report.snapshot import Report, snapshot, without_journal
from researcher.report.view import Row
from services.machine.state import State
from services.redis.server import running_server
from services.views.client import open_bus
from services.views.render import Scene, draw
from trainer.jobs import Profile, RedisClient, Status, StatusKind

OVER, LEFT, WAS_REFUSED = 0, 130, 3
REFRESH_S = 1.0
RENEW_S = 60.0
FOOT = "Ctrl-C leaves this view; the run goes on"


class OpenJournal:
    """One journal reader for all updates of a view. It is reopened after a fault and once a minute, because another
    file may have replaced the journal, or the disk may be writable again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._history: JournalReader | None = None
        self._since_s = 0.0

    @contextmanager
    def reader(self) -> Iterator[JournalReader]:
        """Yield the reader for one update. Raises JournalError, also from the block."""
        if self._history is None or time.monotonic() - self._since_s > RENEW_S:
            self.close()
            self._history, self._since_s = JournalReader(self._folder), time.monotonic()
        try:
            yield self._history
        except JournalError:
            self.close()
            raise

    def report(self, bus: RedisClient | None, profile: Profile | None) -> Report:
        """Return the state of the run now. The journal, the profile or Redis may be missing for a moment; the report
        then says so."""
        if profile is None or not (self._folder / JOURNAL_FILE).exists():
            return without_journal(bus)
        try:
            with self.reader() as history:
                return snapshot(history, bus, profile, time.time())
        except JournalError as error:
            return without_journal(bus, unreadable=str(error))

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._history is not None:
            self._history.close()
            self._history = None


def follow_run(state: State, console: Console, rest: Callable[[], None] = lambda: time.sleep(REFRESH_S)) -> int:
    """Show the run until the researcher reports its end. Returns OVER, WAS_REFUSED or, after Ctrl-C, LEFT.

    A run that has ended is shown once. Raises ClientError if a run on this machine is stopped.
    """
    if (ended := _ended(state)) is not None:
        console.print(draw(Scene(ended)))
        return OVER
    with closing(OpenJournal(state.journal)) as journal:
        scenes = _scenes(state, journal, rest)
        try:
            last = _on_terminal(scenes, console) if console.is_terminal else _as_lines(scenes, console)
        except KeyboardInterrupt:
            return LEFT
    console.print(draw(replace(last, foot="")))
    status = _status(last)
    return WAS_REFUSED if status is not None and status.kind is StatusKind.REFUSED else OVER


def _ended(state: State) -> Report | None:
    """Return the report of a run that has ended and whose processes are gone, else None."""
    choices = state.choices()
    if os.environ.get("REDIS_URL") or running_server(state.redis) is not None or choices is None:
        return None
    if not (state.journal / JOURNAL_FILE).exists():
        return None
    with JournalReader(state.journal) as history:
        report = snapshot(history, None, choices.trial_profile(), time.time())
    return report if report.state is RunState.ENDED else None


def _scenes(state: State, journal: OpenJournal, rest: Callable[[], None]) -> Iterator[Scene]:
    while True:
        scene = _see(state, journal)
        yield scene
        status = _status(scene)
        if status is not None and status.is_over:
            return
        rest()


def _status(scene: Scene) -> Status | None:
    return None if scene.report.live is None else scene.report.live.status


def _see(state: State, journal: OpenJournal) -> Scene:
    with closing(open_bus(state).connection) as connection:
        choices = state.choices()
        report = journal.report(RedisClient(connection), None if choices is None else choices.trial_profile())
    return Scene(report, FOOT)


def _on_terminal(scenes: Iterator[Scene], console: Console) -> Scene:
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        for scene in scenes:
            live.update(draw(scene))
    return scene


def _as_lines(scenes: Iterator[Scene], console: Console) -> Scene:
    shown: set[int] | None = None
    for scene in scenes:
        run_report = scene.report.run_report
        if run_report is None:
            continue
        decided = [row for row in run_report.rows if row.experiment.decision is not None]
        if shown is None:
            shown = {row.experiment.number for row in decided}
            console.print(f"following run {run_report.run.tag}; {len(shown)} decided before")
        for row in decided:
            if row.experiment.number not in shown:
                shown.add(row.experiment.number)
                console.print(line(row), soft_wrap=True, markup=False, highlight=False)
    return scene


def line(row: Row) -> str:
    """Return one decision as a line: number, status, score, title, reason."""
    score = cell(row, "value", ".6f", none="no score")
    return f"{row.experiment.number}  {row.status}  {score}  {row.experiment.title}: {cell(row, 'reason', none='')}"
