"""Real runs on the cpu profile, of one proposer or of several for comparison: the confirmed gains and their spread.

Each campaign has a state folder of its own; campaigns run one at a time, with the same seeds for each proposer. After
an interruption the same command continues; when all are done, it prints the tables again. The held-out gain is that of
the same confirming trials on text that no decision used. The LLM is `scripted_llm`, which knows nothing: its edits are
habits, its advice is chance.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Decision
from researcher.proposers.schedule import Mix
from researcher.report.picture import png
from researcher.report.view import FAILURES, RunReport, build_report
from services.machine.state import State
from tests.bench.proposers import COLOURS
from tests.bench.scripted_llm import ScriptedLlm
from tests.doubles.ollama_server import OllamaDouble, listening
from trainer.jobs import Outcome, profile_named

PROFILE = "cpu"
WIDTH = 120  # columns that the table needs, also without a terminal


@dataclass(frozen=True)
class Campaign:
    """The result of one run; gains in bits per byte. `failed` is the share of experiments that failed when they ran,
    `best` the incumbent's score after each experiment (the baseline first), by the scores on which the run decided."""

    baseline: float
    sigma: float
    keeps: int
    confirmed: int
    rolled_back: int
    gain: float
    heldout_gain: float
    trials: int
    hours: float
    failed: float
    best: tuple[float, ...]


def run(
    folder: Path, campaigns: int, experiments: int, budget: float | None, proposers: Sequence[Mix], picture: Path | None
) -> None:
    """Run the remaining campaigns and print the tables."""
    told: dict[Mix, list[Campaign]] = {}
    for proposer in proposers:
        for number in range(1, campaigns + 1):
            state = State((folder / proposer / f"campaign-{number}").resolve())
            name = f"{proposer}, campaign {number} of {campaigns}"
            if not _is_done(state, experiments):
                print(f"{name}: {experiments} experiments in {state.root}", flush=True)
                _run_once(state, number, experiments, budget, proposer)
            told.setdefault(proposer, []).append(_told(state))
            print(f"{name}: {told[proposer][-1].gain:.6f} confirmed in {told[proposer][-1].hours:.2f} h", flush=True)
    for proposer, each in told.items():
        _print(each, experiments, proposer)
    if picture is not None:
        picture.write_bytes(_drawn(told))


def _is_done(state: State, experiments: int) -> bool:
    if state.choices() is None:
        return False
    with JournalReader(state.journal) as history:
        run = history.run()
        return run is not None and run.ended is not None and history.measured_count() >= experiments


def _run_once(state: State, number: int, experiments: int, budget: float | None, proposer: Mix) -> None:
    argv = [sys.executable, "-m", "services.cli", "run", "--state", str(state.root), "--profile", PROFILE]
    argv += ["--experiments", str(experiments), "--proposer", proposer, "--seed", str(number)]
    argv += [] if budget is None else ["--budget", str(budget)]
    llm = OllamaDouble(ScriptedLlm(number, profile_named(PROFILE).context))
    argv += ["--ollama-host", llm.url, "--model", "small"]
    with listening(llm), subprocess.Popen(argv) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:  # the run received it, too, and stops cleanly
            code = process.wait()
    if code != 0:
        raise SystemExit(f"campaign {number} ended with {code}; the same command goes on from here")


def _told(state: State) -> Campaign:
    with JournalReader(state.journal) as history:
        report = build_report(history, profile_named(PROFILE))
        assert report is not None, "a campaign that is done has a run"
        assert report.gain is not None, "and a baseline"
        assert report.sigma is not None, "measured more than once"
        claims = [each for each in report.confirmations if each.kind is ConfirmationKind.CLAIM]
        confirmed = [each for each in claims if each.verdict is ConfirmationVerdict.CONFIRMED]
        return Campaign(
            baseline=report.gain.baseline,
            sigma=report.sigma,
            keeps=report.tally["keep"],
            confirmed=len(confirmed),
            rolled_back=len(claims) - len(confirmed),
            gain=report.gain.confirmed or 0.0,
            heldout_gain=report.heldout.confirmed or 0.0,
            trials=history.trial_count(),
            hours=report.cost.hours,
            failed=sum(report.tally[each.value] for each in FAILURES if each is not Outcome.REJECTED) / report.measured,
            best=(report.gain.baseline, *_best(report)),
        )


def _best(report: RunReport) -> Iterator[float]:
    assert report.gain is not None
    best = report.gain.baseline
    for row in report.rows:
        item = row.experiment
        if item.was_measured:
            best = item.score if item.decision is Decision.KEEP and item.score is not None else best
            yield best


def _print(told: list[Campaign], experiments: int, proposer: Mix) -> None:
    table = Table(title=f"campaigns of {experiments} experiments, profile {PROFILE}, proposer {proposer}")
    for name in ("", "baseline", "sigma", "keeps", "confirmed", "rolled back", "gain", "%", "sigmas", "held out"):
        table.add_column(name, justify="right")
    table.add_column("failed", justify="right")
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
            f"{each.failed:.0%}",
            str(each.trials),
            f"{each.hours:.2f}",
        )
    Console(width=WIDTH).print(table)
    shares = sorted(each.gain / each.baseline for each in told)
    print(
        f"confirmed gain: median {median(shares):.1%}, from {shares[0]:.1%} to {shares[-1]:.1%}, "
        f"mean {fmean(shares):.1%}; {sum(each.gain > 0 for each in told)} of {len(told)} campaigns confirmed one"
    )


def _drawn(told: Mapping[Mix, Sequence[Campaign]]) -> bytes:
    """Draw a PNG: the incumbent's score of each run, as a share of its baseline."""
    figure = Figure(figsize=(10, 5.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (proposer, runs), colour in zip(told.items(), COLOURS, strict=False):
        for number, report in enumerate(runs):
            shares = [score / report.best[0] for score in report.best]
            label = proposer if number == 0 else None
            axes.step(range(len(shares)), shares, where="post", color=colour, label=label, alpha=0.8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("experiments measured")
    axes.set_ylabel("val_bpb of the incumbent / baseline, as it walked")
    axes.legend(frameon=False)
    return png(figure)
