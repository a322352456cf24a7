"""Lists the runs of a state folder for `overnight runs`: the earlier ones, and the one that the state holds now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from researcher.decision.goal import moment_text
from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.report.document import RunState
from researcher.report.snapshot import snapshot
from researcher.report.view import percent
from services.machine.runs import earlier_runs
from services.machine.state import State, StateError
from services.views.show import NothingToShow, open_bus_if_known
from services.views.terminal import print_error
from trainer.jobs import Degree, share_of


@dataclass(frozen=True)
class ListedRun:
    """One run of a state. `started_at` is in seconds since the epoch, `best` and `gain` are in the unit of the metric.

    `best` is the mean of all values of the best version, None before the baseline is measured. `gain` is the confirmed
    gain over the baseline, None without one, and `gain_share` the same as a share of the baseline's value; None for a
    baseline of 0. A gain above 0 is better. `metric` is the name, and `degree` the trust in its values.
    """

    tag: str
    profile: str
    state: RunState
    started_at: float
    experiments: int
    best: float | None
    gain: float | None
    gain_share: float | None
    folder: str
    metric: str
    degree: Degree

    @property
    def best_text(self) -> str:
        """The best value with the name of the metric, and whether the script claims it."""
        if self.best is None:
            return "-"
        return f"{self.metric} {self.best:.6f}" + (" (claimed)" if self.degree is Degree.CLAIMED else "")

    @property
    def gain_text(self) -> str:
        """The confirmed gain as a share of the baseline; without a share, in the unit of the metric."""
        if self.gain_share is not None:
            return percent(self.gain_share)
        return "-" if self.gain is None else f"{self.gain:+.6f}"


def show_runs(state: State, console: Console, *, as_json: bool) -> None:
    """Print the runs of a state, the earlier ones first."""
    found = sorted(_listed(state), key=lambda each: each.started_at)
    if as_json:
        print(json.dumps([asdict(each) for each in found]))
        return
    if not found:
        raise NothingToShow(f"no run in {state.root}; start one with `overnight run`")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("run", "started", "state"):
        table.add_column(name, no_wrap=True)
    for name in ("experiments", "best", "confirmed gain"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in found:
        table.add_row(
            each.tag,
            moment_text(each.started_at),
            each.state,
            str(each.experiments),
            each.best_text,
            each.gain_text,
        )
    console.print(table)
    for each in found:
        if each.folder != str(state.root):
            console.print(f"{each.tag}: --state {each.folder}", soft_wrap=True, style="dim")


def _listed(state: State) -> Iterator[ListedRun]:
    """Yield the runs whose journals can be read; print an error for each other one."""
    for each in (*earlier_runs(state), state):
        try:
            if each.has_begun and (found := _read(each)) is not None:
                yield found
        except (JournalError, StateError) as error:
            print_error(str(error))


def _read(state: State) -> ListedRun | None:
    with JournalReader(state.journal) as history:
        report = snapshot(history, open_bus_if_known(state), state.require_run().trial_profile(), time.time())
    document = report.document()
    if document.run is None or document.times is None or document.progress is None or document.metric is None:
        return None
    gain = document.gain
    confirmed = None if gain is None else gain.confirmed
    return ListedRun(
        tag=document.run.tag,
        profile=document.run.profile,
        state=document.state,
        started_at=document.times.started_at,
        experiments=document.progress.measured,
        best=None if document.best is None else document.best.value,
        gain=confirmed,
        gain_share=None if gain is None or confirmed is None else share_of(confirmed, gain.baseline),
        folder=str(state.root),
        metric=document.metric.name,
        degree=document.metric.degree,
    )
