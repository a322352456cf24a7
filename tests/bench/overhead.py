"""Where the seconds of an experiment go: a real local night with a scripted LLM, told from its journal.

The reference fork, measured on this kind of machine with a 10 s budget: 5.5 to 7 s beside training, and all of the
LLM's wait on top. Bars: everything but timed training and scoring within 4 s, git + journal + queue + decision within
0.3 s (medians).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from researcher.experiment import Experiment, Trial
from researcher.history import History
from trainer.jobs import TrialResult

OVERHEAD_BAR_S, BOOKKEEPING_BAR_S = 4.0, 0.3
BOOKKEEPING = ("git + journal", "queue", "pick-up", "decision + git")
MEASURED_ON_PURPOSE = ("timed training", "scoring")


def run(experiments: int, budget: float, llm_latency_s: float) -> None:
    """Run the night and print the table."""
    with tempfile.TemporaryDirectory(prefix="overnight-bench-") as folder:
        began = time.monotonic()
        _run_night(Path(folder), experiments, budget, llm_latency_s)
        took_s = time.monotonic() - began
        print(f"the night took {took_s:.0f} s with preparation and baseline; load {os.getloadavg()[0]:.1f}")
        with History(Path(folder) / "state" / "journal") as history:
            rows = [item for item in history.experiments() if item.was_measured]
            trials = [history.trials(experiment=item.id)[0] for item in rows]
            results = [history.result(trial.id) for trial in trials]
            before = [history.experiments(after=item.id - 2)[0] for item in rows]
    parts = [_parts(*group) for group in zip(before, rows, trials, results, strict=True)]
    _print(parts, budget, llm_latency_s)


def _run_night(folder: Path, experiments: int, budget: float, llm_latency_s: float) -> None:
    script = folder / "script.json"
    factors = [round(0.9 + 0.01 * number, 2) for number in range(2 * experiments)]
    script.write_text(json.dumps([{"nudge": "MATRIX_LR", "by": factor} for factor in factors if factor != 1.0]))
    argv = [sys.executable, "-m", "tests.doubles.ollama_server", "--port", "0", "--script", str(script)]
    with subprocess.Popen([*argv, "--latency", str(llm_latency_s)], stdout=subprocess.PIPE, text=True) as llm:
        assert llm.stdout is not None
        url = llm.stdout.readline().split()[-1]
        try:
            night = [sys.executable, "-m", "services.cli", "run", "--state", str(folder / "state")]
            night += ["--experiments", str(experiments), "--budget", str(budget), "--proposer", "llm"]
            subprocess.run([*night, "--ollama-host", url, "--model", "small", "--profile", "cpu"], check=True)
        finally:
            llm.terminate()


def _parts(before: Experiment, item: Experiment, trial: Trial, result: TrialResult | None) -> dict[str, float]:
    """Seconds by part; they sum to the wall time from the last experiment's end to this one's."""
    assert result is not None
    timing = result.timing
    assert timing is not None
    speed = result.calibration
    inside = {
        "calibration": 0.0 if speed is None else (speed.before_s or 0.0) + (speed.after_s or 0.0),
        "start + import": timing.start_s or 0.0,
        "set-up": timing.setup_s or 0.0,
        "warm-up": timing.warmup_s or 0.0,
        "timed training": timing.timed_wall_s or 0.0,
        "scoring": timing.scoring_s or 0.0,
    }
    ended, proposed = before.applied_at or 0.0, item.proposed_at
    return {
        "proposing": proposed - ended,
        "git + journal": trial.queued_at - proposed,
        "queue": result.started_at - trial.queued_at,
        **inside,
        "exit": result.finished_at - result.started_at - sum(inside.values()),
        "pick-up": (trial.finished_at or 0.0) - result.finished_at,
        "decision + git": (item.applied_at or 0.0) - (trial.finished_at or 0.0),
    }


def _print(parts: list[dict[str, float]], budget: float, llm_latency_s: float) -> None:
    title = f"seconds by part, {len(parts)} experiments, budget {budget:g}, LLM latency {llm_latency_s:g}"
    table = Table(title=title)
    for name in ("part", "median", "min", "max"):
        table.add_column(name, justify="left" if name == "part" else "right")
    sums = {
        "whole experiment": [sum(part.values()) for part in parts],
        f"overhead (bar {OVERHEAD_BAR_S} s, LLM apart)": [
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
    console = Console()
    console.print(table)
    duty = median(part["timed training"] / sum(part.values()) for part in parts)
    console.print(
        f"duty cycle {duty:.2f}; the reference fork at 0 / 5 / 15 s of latency: 0.54 / 0.46 / 0.32 (budget 10)"
    )


def _row(table: Table, name: str, values: list[float]) -> None:
    table.add_row(name, f"{median(values):.3f}", f"{min(values):.3f}", f"{max(values):.3f}")
