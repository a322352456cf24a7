"""`overnight status --follow`: a running run until it has ended. It only looks: leaving it stops nothing.

On a terminal the live view; for a pipe one line for each decision. What is away for a moment (Redis, a restarting
researcher) is said and waited for. Whatever cannot change any more is read once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import redis
from rich.console import Console
from rich.live import Live

from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.report.stall_alarm import alarm
from researcher.report.view import LiveStatus, Row, RunReport, build_report, notes, now
from services.machine.state import State
from services.views.client import ENDED, REFUSED, open_bus
from services.views.render import Scene, draw

OVER, LEFT, WAS_REFUSED = 0, 130, 3
REFRESH_S = 1.0
RENEW_S = 60.0
FOOT = "Ctrl-C leaves this view; the run goes on"


class OpenJournal:
    """One history for every look of a view. It is reopened after a fault and once a minute: another file may lie in
    its place, or a disk may be writable again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._history: JournalReader | None = None
        self._since_s = 0.0

    @contextmanager
    def look(self) -> Iterator[JournalReader]:
        """For one look. Raises JournalError, and inside too."""
        if self._history is None or time.monotonic() - self._since_s > RENEW_S:
            self.close()
            self._history, self._since_s = JournalReader(self._folder), time.monotonic()
        try:
            yield self._history
        except JournalError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._history is not None:
            self._history.close()
            self._history = None


def follow_night(state: State, console: Console, rest: Callable[[], None] = lambda: time.sleep(REFRESH_S)) -> int:
    """Follow until the researcher says that the run is over. Returns OVER, WAS_REFUSED or, after Ctrl-C, LEFT.

    Raises DoorError where a run on this machine is not running.
    """
    with closing(OpenJournal(state.journal)) as journal:
        scenes = _scenes(state, journal, rest)
        try:
            last = _on_terminal(scenes, console) if console.is_terminal else _as_lines(scenes, console)
        except KeyboardInterrupt:
            return LEFT
    console.print(draw(replace(last, foot="")))
    return WAS_REFUSED if last.now is not None and last.now.doing.startswith(REFUSED) else OVER


def _scenes(state: State, journal: OpenJournal, rest: Callable[[], None]) -> Iterator[Scene]:
    while True:
        scene = _see(state, journal)
        yield scene
        if scene.now is not None and scene.now.doing.startswith((ENDED, REFUSED)):
            return
        rest()


def _see(state: State, journal: OpenJournal) -> Scene:
    shown: RunReport | None = None
    worry: str | None = None
    bus = open_bus(state)
    try:
        doing = LiveStatus(bus.doing("researcher") or "the researcher starts", None, None, notes=notes(bus))
        choices = state.choices()
        if choices is not None:
            with journal.look() as history:
                shown = build_report(history, choices.trial_profile())
                doing = now(history, bus)
                if shown is not None:
                    worry = alarm(shown.run, history.trials(), choices.trial_profile().budget, doing, time.time())
    except JournalError as error:  # not begun yet, mostly
        doing = replace(doing, doing=str(error))
    except redis.RedisError as error:
        doing = LiveStatus(f"Redis does not answer: {error}", None, None)
    finally:
        bus.connection.close()
    elapsed_s = 0.0 if shown is None else time.time() - shown.run.created_at
    return Scene(shown, doing, None, elapsed_s, FOOT, worry)


def _on_terminal(scenes: Iterator[Scene], console: Console) -> Scene:
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        for scene in scenes:
            live.update(draw(scene))
    return scene


def _as_lines(scenes: Iterator[Scene], console: Console) -> Scene:
    told: set[int] | None = None
    for scene in scenes:
        if scene.report is None:
            continue
        decided = [row for row in scene.report.rows if row.experiment.decision is not None]
        if told is None:
            told = {row.experiment.number for row in decided}
            console.print(f"following run {scene.report.run.tag}; {len(told)} decided before")
        for row in decided:
            if row.experiment.number not in told:
                told.add(row.experiment.number)
                console.print(line(row), soft_wrap=True, markup=False, highlight=False)
    return scene


def line(row: Row) -> str:
    """One decision: number, status, score, title, reason."""
    item = row.experiment
    score = "no score" if item.score is None else f"{item.score:.6f}"
    return f"{item.number}  {row.status}  {score}  {item.title}: {item.reason or ''}"
