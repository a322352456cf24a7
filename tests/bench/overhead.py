"""The seconds of each part of an experiment, and the trainer's wait for the LLM: a real local run with a scripted LLM
for each latency, read from its journal.

`proposing` is the time from the end of the measurement before to the proposal: the wait for the LLM if there is one,
refused answers, the optimiser's time, the writing after a decision. The first experiment counts, too, although no draft
can be ready for it: the optimiser takes it. The duty cycle is the share of timed training in the wall time from end to
end; the fresh trials of a confirmation between two experiments belong to neither. Of an experiment that failed or was
measured more than once, only the wait is shown. Busy neighbours lengthen training as everything else.

The reference fork, measured on this kind of machine with a 10 s budget: 5.5 to 7 s besides training, and all of the
LLM's answer time on top. Limits (medians): everything but timed training, scoring and proposing within 4 s; git +
journal + queue + decision within 0.3 s. With a budget of 10 and proposers in turn, these are enforced: `proposing`
within 0.5 s, a duty cycle of 0.65 at 15 s of latency. With `--proposer llm` there is no other proposer, so the trainer
waits by design.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment, Trial
from researcher.proposers.schedule import Mix
from researcher.source.proposal import ProposerName
from trainer.jobs import Outcome, TrialResult

OVERHEAD_BAR_S, BOOKKEEPING_BAR_S = 4.0, 0.3
WAIT_BAR_S, DUTY_BAR, DUTY_BAR_LATENCY_S = 0.5, 0.65, 15.0
BUDGET = 10.0  # seconds, for which the limits hold, and with which the fork was measured
LATENCIES_S = (0.0, 5.0, 15.0)
FORK_DUTY = {0.0: 0.54, 5.0: 0.46, 15.0: 0.32}
BOOKKEEPING = ("git + journal", "queue", "pick-up", "decision + git")
MEASURED_ON_PURPOSE = ("timed training", "scoring")
NUDGED = (
    "MATRIX_LR",
    "EMBEDDING_LR",
    "UNEMBEDDING_LR",
    "SCALAR_LR",
)  # in turn: a keep of one does not touch drafts of the others
WIDTH = 120


@dataclass(frozen=True)
class MeasuredRun:
    """The result of a run: `waits` in seconds of all its experiments, `parts` of those that ran at the first attempt.
    `refused` answers were not measured."""

    latency_s: float
    by: Counter[ProposerName | None]
    refused: int
    waits: list[float]
    parts: list[dict[str, float]]

    @property
    def duty(self) -> float:
        """The median duty cycle of the experiments."""
        return median(part["timed training"] / sum(part.values()) for part in self.parts)


def run(experiments: int, budget: float, latencies_s: Sequence[float], mix: str) -> None:
    """Do the runs and print the tables; exits with 1 if a limit is missed."""
    runs = []
    for latency_s in latencies_s:
        print(f"LLM latency {latency_s:g}: {experiments} experiments, proposer {mix}", flush=True)
        runs.append(_measured_run(experiments, budget, latency_s, mix))
    for measured in runs:
        _print_parts(measured, budget)
    _print_duty(runs, budget, mix)
    if missed := bars_missed(runs) if budget == BUDGET and mix == Mix.HYBRID else []:
        print(*missed, sep="\n")
        sys.exit(1)


def _measured_run(experiments: int, budget: float, latency_s: float, mix: str) -> MeasuredRun:
    with tempfile.TemporaryDirectory(prefix="overnight-bench-") as folder:
        began = time.monotonic()
        _run_once(Path(folder), experiments, budget, latency_s, mix)
        took_s = time.monotonic() - began
        print(f"the run took {took_s:.0f} s with preparation and baseline; load {os.getloadavg()[0]:.1f}", flush=True)
        with JournalReader(Path(folder) / "state" / "journal") as history:
            return read_run(history, latency_s)


def _run_once(folder: Path, experiments: int, budget: float, latency_s: float, mix: str) -> None:
    script = folder / "script.json"
    factors = [round(0.9 + 0.01 * number, 2) for number in range(2 * experiments)]
    nudges = zip(cycle(NUDGED), (factor for factor in factors if factor != 1.0), strict=False)
    script.write_text(json.dumps([{"nudge": knob, "by": factor} for knob, factor in nudges]))
    argv = [sys.executable, "-m", "tests.doubles.ollama_server", "--port", "0", "--script", str(script)]
    with subprocess.Popen([*argv, "--latency", str(latency_s)], stdout=subprocess.PIPE, text=True) as llm:
        assert llm.stdout is not None
        url = llm.stdout.readline().split()[-1]
        try:
            command = [sys.executable, "-m", "services.cli", "run", "--state", str(folder / "state")]
            command += ["--experiments", str(experiments), "--budget", str(budget), "--proposer", mix]
            subprocess.run([*command, "--ollama-host", url, "--model", "small", "--profile", "cpu"], check=True)
        finally:
            llm.terminate()


def read_run(history: JournalReader, latency_s: float) -> MeasuredRun:
    """Read the result of a run with an LLM of that latency from its journal."""
    rows = history.experiments()
    measured = [item for item in rows if item.was_measured]
    ends = [item.applied_at for item in rows if item.is_baseline or item.was_measured]
    ends += [each.applied_at for each in history.confirmations()]
    began = [max(at for at in ends if at is not None and at <= item.proposed_at) for item in measured]
    trials = [history.trials(experiment=item.id)[0] for item in measured]
    parts = [
        _parts(at, item, trial, result)
        for at, item, trial in zip(began, measured, trials, strict=True)
        if trial.attempt == 0 and trial.outcome is Outcome.OK and (result := history.result(trial.id)) is not None
    ]
    return MeasuredRun(
        latency_s=latency_s,
        by=Counter(item.proposer for item in measured),
        refused=sum(item.outcome is Outcome.REJECTED for item in rows),
        waits=[item.proposed_at - at for at, item in zip(began, measured, strict=True)],
        parts=parts,
    )


def _parts(began: float, item: Experiment, trial: Trial, result: TrialResult) -> dict[str, float]:
    """Return the seconds by part; they sum to the wall time from `began` to the experiment's end."""
    timing = result.timing
    assert timing is not None
    inside = {
        "calibration": (result.before_s or 0.0) + (result.after_s or 0.0),
        "start + import": timing.start_s or 0.0,
        "set-up": timing.setup_s or 0.0,
        "warm-up": timing.warmup_s or 0.0,
        "timed training": timing.timed_wall_s or 0.0,
        "scoring": timing.scoring_s or 0.0,
    }
    return {
        "proposing": item.proposed_at - began,
        "git + journal": trial.queued_at - item.proposed_at,
        "queue": result.started_at - trial.queued_at,
        **inside,
        "exit": result.finished_at - result.started_at - sum(inside.values()),
        "pick-up": (trial.finished_at or 0.0) - result.finished_at,
        "decision + git": (item.applied_at or 0.0) - (trial.finished_at or 0.0),
    }


def _print_parts(measured: MeasuredRun, budget: float) -> None:
    parts = measured.parts
    title = f"seconds by part, {len(parts)} experiments, budget {budget:g}, LLM latency {measured.latency_s:g}"
    table = Table(title=title)
    for name in ("part", "median", "min", "max"):
        table.add_column(name, justify="left" if name == "part" else "right")
    sums = {
        "whole experiment": [sum(part.values()) for part in parts],
        f"overhead (bar {OVERHEAD_BAR_S} s, proposing apart)": [
            sum(value for name, value in part.items() if name not in (*MEASURED_ON_PURPOSE, "proposing"))
            for part in parts
        ],
        f"bookkeeping (bar {BOOKKEEPING_BAR_S} s)": [sum(part[name] for name in BOOKKEEPING) for part in parts],
    }
    for name in parts[0]:
        _row(table, name, [part[name] for part in parts])
    table.add_section()
    for name, values in sums.items():
        _row(table, name, values)
    Console(width=WIDTH).print(table)


def _row(table: Table, name: str, values: list[float]) -> None:
    table.add_row(name, f"{median(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}")


def _print_duty(runs: Sequence[MeasuredRun], budget: float, mix: str) -> None:
    table = Table(title=f"does the trainer wait for the LLM? budget {budget:g}, proposer {mix}")
    for name in ("LLM latency", "wait, median", "wait, max", "duty", "fork's duty", "edits", "advice", "optimiser's"):
        table.add_column(name, justify="right")
    table.add_column("refused", justify="right")
    for measured in runs:
        by = [str(measured.by[each]) for each in (ProposerName.LLM, ProposerName.ADVISER, ProposerName.OPTIMIZER)]
        fork = f"{FORK_DUTY[measured.latency_s]:.2f}" if measured.latency_s in FORK_DUTY else ""
        wait = f"{median(measured.waits):.3f}", f"{max(measured.waits):.3f}"
        table.add_row(f"{measured.latency_s:g}", *wait, f"{measured.duty:.2f}", fork, *by, str(measured.refused))
    Console(width=WIDTH).print(table)
    print(
        f"bars where the budget is {BUDGET:g} and the proposer hybrid: median wait {WAIT_BAR_S} s, "
        f"duty {DUTY_BAR} at {DUTY_BAR_LATENCY_S:g} s; the fork's duty is with budget {BUDGET:g}"
    )


def bars_missed(runs: Sequence[MeasuredRun]) -> list[str]:
    """Return a message for each missed limit."""
    missed = [
        f"missed: the trainer waits {median(each.waits):.3f} s at {each.latency_s:g} s of latency, bar {WAIT_BAR_S} s"
        for each in runs
        if median(each.waits) > WAIT_BAR_S
    ]
    return missed + [
        f"missed: duty cycle {each.duty:.3f} at {each.latency_s:g} s of latency, bar {DUTY_BAR}"
        for each in runs
        if each.latency_s == DUTY_BAR_LATENCY_S and each.duty < DUTY_BAR
    ]
