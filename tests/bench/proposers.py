"""Compares proposers in a world made of recorded trials.

The trials of the table are recorded; the world between them is a model (tests/bench/table.py), with the noise of the
repeated start values, or with another (`--sigma`): real runs of such trials had 0.010 to 0.014. Real are the proposers,
the validation of a proposal, and the rule that keeps a candidate. The compared figure is the incumbent's score without
noise, in pairs with the same seed. Limits: the optimiser beats uniform draws, with an interval that excludes zero; an
adviser that knows nothing costs no more than its share of the moves.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from researcher.report.picture import png
from tests.bench.proposing import ADVISED_SHARE, HYBRID, OPTIMIZER, PROPOSERS, RANDOM, ModelledRun, SimulatedRun
from tests.bench.table import RECORDED, Fit, Floats, Recording, World, read

EARLY = 40
DRAWS = 10_000
WIDTH = 150
COLOURS = ("#9aa5b1", "#0b7a5c", "#d97706", "#7c3aed")


def interval(differences: Floats) -> tuple[float, float]:
    """Return the interval of 95 % of the means that other seeds, drawn from these, would have had."""
    chance = np.random.default_rng(0)
    means = differences[chance.integers(len(differences), size=(DRAWS, len(differences)))].mean(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def run(file: Path | None, seeds: int, trials: int, sigma: float | None, picture: Path | None) -> None:
    """Print the quality of the world, and the table; exits with 1 if a limit is missed."""
    recording = read(file or RECORDED)
    began_s = time.monotonic()
    world = World(recording, sigma)
    _print_world(recording, world, world.fit(recording))
    runs: dict[str, list[ModelledRun]] = {}
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), initializer=_enter, initargs=(world,)) as pool:
        for name in PROPOSERS:
            runs[name] = list(pool.map(_simulated, repeat(name), range(seeds), repeat(trials)))
    _print(runs, trials)
    if picture is not None:
        picture.write_bytes(_drawn(runs, world.sigma))
    print(f"{time.monotonic() - began_s:.0f} s in all")
    if missed := _missed(runs):
        print(*missed, sep="\n")
        sys.exit(1)


_worlds: list[World] = []  # in each process of the pool, to which the world is sent once


def _enter(world: World) -> None:
    _worlds.append(world)


def _simulated(name: str, seed: int, trials: int) -> ModelledRun:
    world = _worlds[0]
    return SimulatedRun(world, PROPOSERS[name](seed, world.context), seed).run(trials)


def _print_world(recording: Recording, world: World, fit: Fit) -> None:
    budget = recording.header["budget"]
    print(
        f"recorded: {len(recording.trials)} real trials of `{recording.header['profile']}`, {budget['amount']:g} "
        f"{budget['clock']} seconds each, {recording.failed_share:.1%} failed; sigma of the start values "
        f"{recording.sigma:.4f}, of a run's scores {world.sigma:.4f}; "
        f"best score {min(trial.score or 99.0 for trial in recording.scored):.4f}"
    )
    print(
        f"model of them, a fifth left out at a time: rank correlation {fit.ranks:.3f}, in the better half "
        f"{fit.better_ranks:.3f} (mean of the nearest: {fit.nearest_ranks:.3f}, {fit.nearest_better_ranks:.3f}); "
        f"off by {fit.better_off:.4f} there, noise included; {fit.failures_called:.0%} of the failures called, "
        f"{fit.false_failures:.1%} false calls"
    )
    told = (f"{name} {length:.1f}" for name, length in list(world.lengths().items())[:6])
    print(f"what matters most, by the model's lengths (short matters): {', '.join(told)}")


def _print(runs: Mapping[str, Sequence[ModelledRun]], trials: int) -> None:
    early, late = min(EARLY, trials), trials
    table = Table(title=f"what a run holds, without noise: mean of {len(runs[RANDOM])} seeds (quartiles)")
    for name in ("proposer", f"{early} trials", f"{late} trials", f"better than random at {early}", "failed"):
        table.add_column(name, justify="left" if name == "proposer" else "right")
    table.add_column("trials, min", justify="right")
    table.add_column("proposing, ms each", justify="right")
    for name, each in runs.items():
        low, high = interval(_held(runs[RANDOM], early) - _held(each, early))
        tried = sum(len(one.failed) for one in each)
        table.add_row(
            name,
            _spread(_held(each, early)),
            _spread(_held(each, late)),
            ""
            if name == RANDOM
            else f"{fmean(_held(runs[RANDOM], early) - _held(each, early)):+.4f} ({low:+.4f}..{high:+.4f})",
            f"{sum(sum(one.failed) for one in each) / tried:.1%}",
            f"{fmean(one.trials_s for one in each) / 60:.1f}",
            f"{1000 * sum(one.proposing_s for one in each) / tried:.0f}",
        )
    Console(width=WIDTH).print(table)
    print(f"start {runs[RANDOM][0].held[0]:.4f}; an adviser's cost at {early}: {_cost_text(runs, early)}")


def _held(runs: Sequence[ModelledRun], trials: int) -> Floats:
    return np.array([each.held[trials] for each in runs])


def _spread(held: Floats) -> str:
    low, high = np.percentile(held, (25, 75))
    return f"{held.mean():.4f} ({low:.4f}..{high:.4f})"


def _beyond_share(runs: Mapping[str, Sequence[ModelledRun]], trials: int) -> Floats:
    """Return by how much the hybrid's gain exceeds the optimiser's gain without the adviser's share."""
    start = runs[OPTIMIZER][0].held[0]
    return (start - _held(runs[HYBRID], trials)) - (1 - ADVISED_SHARE) * (start - _held(runs[OPTIMIZER], trials))


def _cost_text(runs: Mapping[str, Sequence[ModelledRun]], trials: int) -> str:
    start = runs[OPTIMIZER][0].held[0]
    gain, advised = (start - float(_held(runs[name], trials).mean()) for name in (OPTIMIZER, HYBRID))
    low, high = interval(_beyond_share(runs, trials))
    return (
        f"{1 - advised / gain:.1%} of the gain (share {ADVISED_SHARE:.0%}); "
        f"gain beyond the rest {low:+.4f}..{high:+.4f}, bar above 0"
    )


def _missed(runs: Mapping[str, Sequence[ModelledRun]]) -> list[str]:
    early = min(EARLY, len(runs[RANDOM][0].held) - 1)
    missed = []
    low, _ = interval(_held(runs[RANDOM], early) - _held(runs[OPTIMIZER], early))
    if low <= 0:
        missed.append(f"missed: the optimiser does not clearly beat uniform draws at {early} trials")
    if interval(_beyond_share(runs, early))[0] < 0:
        missed.append(f"missed: an uninformed adviser may cost more than its share at {early} trials")
    return missed


def _drawn(runs: Mapping[str, Sequence[ModelledRun]], sigma: float) -> bytes:
    """Draw a PNG: the median of each proposer, and its middle half."""
    figure = Figure(figsize=(10, 5.5), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, each), colour in zip(runs.items(), COLOURS, strict=True):
        held = np.array([one.held for one in each])
        low, middle, high = np.percentile(held, (25, 50, 75), axis=0)
        axes.fill_between(range(len(middle)), low, high, step="post", color=colour, alpha=0.15, linewidth=0)
        axes.step(range(len(middle)), middle, where="post", color=colour, label=name)
    axes.axvline(EARLY, color="#9aa5b1", linewidth=0.8, linestyle=":")
    axes.set_xlabel("trials")
    axes.set_ylabel("val_bpb of the incumbent, without noise")
    axes.set_title(
        f"median and middle half of {len(runs[RANDOM])} runs in a model of recorded trials; sigma {sigma:.3f}",
        loc="left",
        fontsize=10,
    )
    axes.legend(frameon=False)
    return png(figure)
