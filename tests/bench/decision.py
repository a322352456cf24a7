"""The value of the decision rule: thousands of simulated runs in each world, under this rule and under the rule that
keeps every lower score.

Limits, from earlier simulations of 120 trials a run: without real gains at most 0.11 false claims a run; a true gain of
at least 4.2 s where gains are small, 13.1 where they are middling, 50.7 where they are big.
"""

from __future__ import annotations

import os
import time
from multiprocessing import Pool
from statistics import fmean

from rich.console import Console
from rich.table import Table

from researcher.decision.rules import Rule
from tests.bench.simulated_runs import WORLDS, simulate

WIDTH = 110  # columns that the table needs, also without a terminal
COLUMNS = ("keeps", "claims", "false ones", "runs with one", "told", "true", "trials")


def run(runs: int, experiments: int) -> None:
    """Simulate and print the table."""
    began = time.monotonic()
    rates = [(world, rule, runs, experiments) for world in range(len(WORLDS)) for rule in Rule]
    with Pool(os.cpu_count()) as pool:
        rows = pool.starmap(row, rates, chunksize=1)
    table = Table(title=f"means over {runs} runs of {experiments} experiments; gains (told, true) in s")
    for name in ("world", "rule", *COLUMNS):
        table.add_column(name, justify="left" if name in ("world", "rule") else "right", no_wrap=True)
    for (world, rule, *_), values in zip(rates, rows, strict=True):
        table.add_row(WORLDS[world].name if rule is Rule.WALK else "", rule, *values, end_section=rule is Rule.GREEDY)
    console = Console(width=WIDTH)
    console.print(table)
    console.print(
        "bars: false claims at most 0.11 out of no gain; true gain at least 4.2 (small), 13.1 (mid), 50.7 (big).\n"
        f"Took {time.monotonic() - began:.0f} s"
    )


def row(world: int, rule: Rule, runs: int, experiments: int) -> tuple[str, ...]:
    """Return the figures of one line. The world is given by its number, because its functions cannot be sent to another
    process."""
    results = [simulate(WORLDS[world], rule, experiments, f"{WORLDS[world].name} {each}") for each in range(runs)]
    return (
        f"{fmean(one.keeps for one in results):.2f}",
        f"{fmean(one.claims for one in results):.2f}",
        f"{fmean(one.false_claims for one in results):.3f}",
        f"{fmean(one.false_claims > 0 for one in results):.1%}",
        f"{fmean(one.gain for one in results):.2f}",
        f"{fmean(one.true_gain for one in results):.2f}",
        f"{fmean(one.trials for one in results):.0f}",
    )
