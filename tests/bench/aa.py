"""A real run of edits that change nothing, under changing load: does the rule keep or confirm any of them?

Each submitted file prints another word and trains alike, so that validation accepts it (it rejects changes of comments
alone) and every gain is an accident. Burner processes come and go with the experiments. Limit: nothing is confirmed.
For comparison, the table shows what the rule that keeps every lower score would have kept.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path

from rich.console import Console
from rich.table import Table

from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationVerdict
from researcher.queues.requests import send
from researcher.report.view import RunReport, build_report
from services.machine.state import State
from services.machine.subject import render_subject
from services.views.client import ClientError, open_bus
from trainer.jobs import profile_named

PROFILE = "cpu"
WORDS = 'print(f"Time budget: {TIME_BUDGET:g}s'  # a text that the subject prints before it trains
BURNERS = (0, 0, 1, 3, 3, 1, 0, 2, 4, 2)  # processes for each core, experiment by experiment, again and again
BURN = "while True: pass"
WIDTH = 110
LOOK_EVERY_S = 0.5


def run(folder: Path, experiments: int, budget: float | None) -> None:
    """Do the run and print the table; exits with 1 if anything was confirmed."""
    state = State(folder.resolve())
    argv = [sys.executable, "-m", "services.cli", "run", "--state", str(state.root), "--profile", PROFILE]
    argv += ["--experiments", str(experiments), "--proposer", "optimizer", "--seed", "1"]
    argv += [] if budget is None else ["--budget", str(budget)]
    loads: dict[int, int] = {}
    with subprocess.Popen(argv) as process, _burners() as burn:
        _submit(state, experiments, process)
        while process.poll() is None:
            at = _under_way(state)
            loads[at] = burn(BURNERS[at % len(BURNERS)])
            time.sleep(LOOK_EVERY_S)
    if process.returncode != 0:
        raise SystemExit(f"the run ended with {process.returncode}; the same command goes on from here")
    with JournalReader(state.journal) as history:
        report = build_report(history, profile_named(PROFILE))
    assert report is not None, "a run that ended has a run"
    _print(report, loads)
    if report.gain is not None and report.gain.confirmed:
        raise SystemExit(f"{report.gain.confirmed:.6f} was confirmed where there is no gain")


def _submit(state: State, count: int, process: subprocess.Popen[bytes]) -> None:
    """Submit the files before the baseline is measured, because submitted files come before the optimiser's
    proposals."""
    source = render_subject(profile_named(PROFILE))["train.py"]
    assert WORDS in source, "the subject prints something else now"
    while process.poll() is None:
        try:
            bus = open_bus(state)
            if bus.doing("researcher") is not None:
                break
        except ClientError:  # the server is not up yet
            pass
        time.sleep(LOOK_EVERY_S)
    for number in range(1, count + 1):
        file = source.replace(WORDS, f"{WORDS}, edit {number}")
        send(bus, "submit", f"alike-{number}.py\n{file}", request=f"submit-{number:012x}")


def _under_way(state: State) -> int:
    """Return the number of the running experiment, or of the last one."""
    try:
        with JournalReader(state.journal) as history:
            return max((item.number for item in history.experiments()), default=0)
    except JournalError:  # the journal does not exist yet
        return 0


@contextlib.contextmanager
def _burners() -> Iterator[Burn]:
    burn = Burn()
    try:
        yield burn
    finally:
        burn(0)


class Burn:
    """Called with a number, it keeps that many busy processes for each core."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def __call__(self, each: int) -> int:
        wanted = each * len(os.sched_getaffinity(0))
        while len(self._running) < wanted:
            self._running.append(subprocess.Popen([sys.executable, "-c", BURN]))
        while len(self._running) > wanted:
            ended = self._running.pop()
            ended.kill()
            ended.wait()
        return each


def _print(report: RunReport, loads: dict[int, int]) -> None:
    table = Table(title=f"edits that change nothing, profile {PROFILE}")
    for name in ("", "burners a core", "val_bpb", "decision"):
        table.add_column(name, justify="right")
    table.add_column("what became of it")
    rows = [row for row in report.rows if row.experiment.decision is not None]
    for row in rows:
        item = row.experiment
        score = "—" if item.score is None else f"{item.score:.6f}"
        table.add_row(str(item.number), str(loads.get(item.number, "—")), score, str(item.decision), row.note or "")
    Console(width=WIDTH).print(table)
    scores = [row.experiment.score for row in rows if row.experiment.score is not None]
    lowest = list(accumulate(scores, min))
    greedy = sum(now < before for before, now in pairwise(lowest))
    confirmed = sum(each.verdict is ConfirmationVerdict.CONFIRMED for each in report.confirmations)
    print(f"sigma {report.sigma:.6f}, scores from {min(scores):.6f} to {max(scores):.6f}, baseline {scores[0]:.6f}")
    print(
        f"walked through {report.tally['keep']} keeps, {len(report.confirmations)} confirmations, "
        f"{confirmed} confirmed (bar 0)"
    )
    print(f"keeping every lower score would have kept {greedy} and told of {scores[0] - min(scores):+.6f}")
