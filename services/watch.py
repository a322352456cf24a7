"""Watching a night: the live view on a terminal, the researcher's log lines elsewhere, and the summary at the end."""

from __future__ import annotations

import time
from pathlib import Path

import redis
from rich.console import Console
from rich.live import Live

from researcher.errors import JournalError
from researcher.history import History
from researcher.picture import draw as draw_picture
from researcher.projections import write_whole
from researcher.view import Night, Now, look, now
from services.live import Scene, clock_text, cost_text, draw, experiments_table, gain_text
from services.state import State
from services.supervisor import Supervisor
from trainer.jobs import Bus, Profile

REFRESH_S = 0.5
PICTURE_EVERY_S = 60.0
PICTURE = "progress.png"


def watch(state: State, profile: Profile, bus: Bus, supervisor: Supervisor, goal: int | None, console: Console) -> int:
    """Show the night until the researcher has its last word, and return that; 130 after Ctrl-C."""
    began = time.monotonic()
    try:
        if console.is_terminal:
            with Live(console=console, refresh_per_second=4, transient=True) as live:
                while (code := supervisor.final("researcher")) is None:
                    live.update(draw(_scene(state, profile, bus, supervisor, goal, time.monotonic() - began)))
                    _moment(supervisor)
        else:
            with Tail(state.logs / "researcher.log") as tail:
                while (code := supervisor.final("researcher")) is None:
                    tail.print_new(console)
                    _moment(supervisor)
                tail.print_new(console)
    except KeyboardInterrupt:
        console.print("stopping; the running trial is measured again at the next start")
        return 130
    return code


def _moment(supervisor: Supervisor) -> None:
    supervisor.poll()
    time.sleep(REFRESH_S)


def _scene(
    state: State, profile: Profile, bus: Bus, supervisor: Supervisor, goal: int | None, elapsed_s: float
) -> Scene:
    night: Night | None = None
    doing: Now | None = None
    llm: str | None = None
    try:
        with History(state.journal) as history:
            night = look(history, profile)
            doing = now(history, bus)
            llm = bus.doing("llm")
    except JournalError:
        doing = Now("the researcher starts", None, None)
    except redis.RedisError as error:
        doing = Now(f"Redis does not answer: {error}", None, None)
    return Scene(night, doing, goal, elapsed_s, supervisor.words(), llm)


class Tail:
    """New lines of a growing file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def __enter__(self) -> Tail:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def print_new(self, console: Console) -> None:
        """Print what came since the last call, whole lines only."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        if whole:
            console.out(whole.decode(errors="replace").rstrip("\n"), highlight=False)


def summary(history: History, profile: Profile, subject: Path, took_s: float, console: Console) -> None:
    """What came of the night, with the picture written beside results.tsv."""
    night = look(history, profile)
    if night is None:
        console.print("no run was started; see the logs above")
        return
    picture = subject / PICTURE
    write_whole(picture, draw_picture(night))
    kept = [row for row in night.rows if row.status == "keep" and not row.experiment.is_baseline]
    console.rule(f"Overnight {night.run.tag}")
    console.print(
        f"{night.measured} experiments in {clock_text(took_s)}: {night.count('keep')} kept, "
        f"{night.count('discard')} discarded, {night.count('crash')} crashed, {night.count('rejected')} rejected"
    )
    if night.gain is not None:
        console.print(f"baseline  {night.gain.baseline:.6f} over {len(night.baseline_scores)} seeds")
        console.print(gain_text(night))
    for check in night.confirmations:
        if check.verdict is not None:
            console.print(f"{check.kind}     {check.verdict}: {check.reason}")
    console.print(f"cost      {cost_text(night)}")
    if kept:
        console.print(experiments_table(kept))
    console.print(f"table     {subject / 'results.tsv'}")
    console.print(f"picture   {picture}")
    console.print(f"branch    {night.run.branch} in {subject}", soft_wrap=True)
