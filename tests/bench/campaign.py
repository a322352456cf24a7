"""Real nights on the cpu profile, one proposer alone: what they confirm, and how far that scatters.

One state folder a campaign, one campaign at a time. Stopped, the same command goes on where it was; done, it prints the
table again. The held-out gain is that of the same confirming trials on text that no decision saw.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from rich.console import Console
from rich.table import Table

from researcher.experiment import CheckKind, Verdict
from researcher.history import History
from researcher.view import look
from services.state import State
from trainer.jobs import profile_named

PROFILE = "cpu"
WIDTH = 110  # what the table needs, also where nobody looks at a terminal


@dataclass(frozen=True)
class Campaign:
    """What one night came to; gains in bits per byte."""

    baseline: float
    sigma: float
    keeps: int
    confirmed: int
    rolled_back: int
    gain: float
    heldout_gain: float
    trials: int
    hours: float


def run(folder: Path, campaigns: int, experiments: int, budget: float | None, proposer: str) -> None:
    """Run what is left of the campaigns and print the table."""
    told = []
    for number in range(1, campaigns + 1):
        state = State((folder / f"campaign-{number}").resolve())
        if not _is_done(state, experiments):
            print(f"campaign {number} of {campaigns}: {experiments} experiments in {state.root}", flush=True)
            _run_night(state, number, experiments, budget, proposer)
        told.append(_told(state))
        print(f"campaign {number} of {campaigns}: {told[-1].gain:.6f} confirmed in {told[-1].hours:.2f} h", flush=True)
    _print(told, experiments, proposer)


def _is_done(state: State, experiments: int) -> bool:
    if state.choices() is None:
        return False
    with History(state.journal) as history:
        run = history.run()
        return run is not None and run.ended is not None and history.measured_count() >= experiments


def _run_night(state: State, number: int, experiments: int, budget: float | None, proposer: str) -> None:
    argv = [sys.executable, "-m", "services.cli", "run", "--state", str(state.root), "--profile", PROFILE]
    argv += ["--experiments", str(experiments), "--proposer", proposer, "--seed", str(number)]
    argv += [] if budget is None else ["--budget", str(budget)]
    with subprocess.Popen(argv) as night:
        try:
            code = night.wait()
        except KeyboardInterrupt:  # the night got it too, and stops cleanly
            code = night.wait()
    if code != 0:
        raise SystemExit(f"campaign {number} ended with {code}; the same command goes on from here")


def _told(state: State) -> Campaign:
    with History(state.journal) as history:
        night = look(history, profile_named(PROFILE))
        assert night is not None, "a campaign that is done has a run"
        assert night.gain is not None, "and a baseline"
        assert night.sigma is not None, "measured more than once"
        claims = [check for check in night.confirmations if check.kind is CheckKind.CLAIM]
        confirmed = [check for check in claims if check.verdict is Verdict.CONFIRMED]
        return Campaign(
            baseline=night.gain.baseline,
            sigma=night.sigma,
            keeps=night.tally["keep"],
            confirmed=len(confirmed),
            rolled_back=len(claims) - len(confirmed),
            gain=night.gain.confirmed or 0.0,
            heldout_gain=night.heldout.confirmed or 0.0,
            trials=history.trial_count(),
            hours=night.cost.hours,
        )


def _print(told: list[Campaign], experiments: int, proposer: str) -> None:
    table = Table(title=f"campaigns of {experiments} experiments, profile {PROFILE}, proposer {proposer}")
    for name in ("", "baseline", "sigma", "keeps", "confirmed", "rolled back", "gain", "%", "sigmas", "held out"):
        table.add_column(name, justify="right")
    table.add_column("trials", justify="right")
    table.add_column("hours", justify="right")
    for number, each in enumerate(told, start=1):
        table.add_row(
            str(number),
            f"{each.baseline:.4f}",
            f"{each.sigma:.4f}",
            str(each.keeps),
            str(each.confirmed),
            str(each.rolled_back),
            f"{each.gain:.4f}",
            f"{each.gain / each.baseline:.1%}",
            f"{each.gain / each.sigma:.1f}",
            f"{each.heldout_gain:.4f}",
            str(each.trials),
            f"{each.hours:.2f}",
        )
    Console(width=WIDTH).print(table)
    shares = sorted(each.gain / each.baseline for each in told)
    print(
        f"confirmed gain: median {median(shares):.1%}, from {shares[0]:.1%} to {shares[-1]:.1%}, "
        f"mean {fmean(shares):.1%}; {sum(each.gain > 0 for each in told)} of {len(told)} campaigns confirmed one"
    )
