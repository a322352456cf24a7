"""The cost of an examination and a replica under the code of two checkouts, in pairs: `scripts/bench trust --beside
DIR`.

Both run the default subject for a few steps on the same machine, in turn, and the order alternates; the figure is the
difference of each pair. An examination costs what a scoring takes beyond that of a score that does not count. Code that
asks only its replica has no such part, so the sum of both parts is compared.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests import ROOT

SCRIPT = Path(__file__).with_name("one_trial.py")
LOOKS = ("plain", "jump")  # the usual examination, and that of a great gain, which asks more
PARTS = ("closer look", "replica", "both")
KINDS = ("wall", "processor")
PREPARE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from rich.console import Console
from services.machine.data import prepare_data
from trainer.jobs import profile_named
prepare_data(profile_named("cpu"), Path(sys.argv[2]), None, Console(stderr=True))
"""
# Student's t at 97.5 %, by degrees of freedom from 1 on; beyond the last, the last is a little too wide.
T = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09)

Costs = dict[tuple[str, str, str], float]


@dataclass(frozen=True)
class Mean:
    """A mean of `n` values, and half the width of its 95 % interval (Student's t)."""

    n: int
    value: float
    reach: float

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        """Compute the mean of two values at least."""
        t = T[min(len(values) - 1, len(T)) - 1]
        return cls(len(values), mean(values), t * stdev(values) / math.sqrt(len(values)))

    def __str__(self) -> str:
        return f"{self.value:.2f} ±{self.reach:.2f}"

    @property
    def verdict(self) -> str:
        """Return the meaning of a difference for the second checkout against the first."""
        if abs(self.value) <= self.reach:
            return "equal within the interval"
        return "dearer here" if self.value > 0 else "cheaper here"


def run(other: Path, rounds: int, looks: Sequence[str]) -> None:
    """Print the table; exit 1 if both parts together cost more here, beyond the interval."""
    if rounds < 2:
        sys.exit("two rounds at least: one pair has no interval")
    checkouts = other.resolve(), ROOT
    with tempfile.TemporaryDirectory(prefix="overnight-bench-", dir="/var/tmp") as folder:
        data = Path(folder) / "other", Path(folder) / "here"
        for checkout, place in zip(checkouts, data, strict=True):
            _python(checkout, "-c", PREPARE, str(checkout), str(place))
        pairs = list(_pairs(checkouts, data, rounds, looks))
    dearer = _show(other, pairs)
    if dearer:
        sys.exit(1)


def _pairs(
    checkouts: tuple[Path, Path], data: tuple[Path, Path], rounds: int, looks: Sequence[str]
) -> Iterator[tuple[Costs, Costs]]:
    with Progress(transient=True) as shown:
        task = shown.add_task("pairs of trials", total=2 * rounds)
        for number in range(rounds):
            costs: dict[int, Costs] = {}
            for at in (0, 1) if number % 2 == 0 else (1, 0):
                costs[at] = _costs(checkouts[at], data[at], looks)
                shown.advance(task)
            yield costs[0], costs[1]


def _costs(checkout: Path, data: Path, looks: Sequence[str]) -> Costs:
    """Measure a trial whose score does not count, and one of each kind of examination."""
    without = _trial(checkout, data, "none")
    costs: Costs = {}
    for look in looks:
        one = _trial(checkout, data, look)
        parts = {
            "wall": (one["scoring_wall"] - without["scoring_wall"], one["replica_wall"]),
            "processor": (
                one["processor"] - one["replica_processor"] - without["processor"],
                one["replica_processor"],
            ),
        }
        for kind, (closer_s, replica_s) in parts.items():
            for part, value in zip(PARTS, (closer_s, replica_s, closer_s + replica_s), strict=True):
                costs[look, part, kind] = value
    return costs


def _trial(checkout: Path, data: Path, look: str) -> dict[str, float]:
    told: dict[str, float] = json.loads(_python(checkout, str(SCRIPT), str(checkout), str(data), look).splitlines()[-1])
    assert bool(told["asked"]) == (look != "none"), told
    return told


def _python(checkout: Path, *arguments: str) -> str:
    """Run the interpreter of that checkout, or this one if it has none."""
    own = checkout / ".venv" / "bin" / "python"
    python = str(own) if own.exists() else sys.executable
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [python, "-P", *arguments], cwd=checkout, env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"under {checkout}: {done.stderr[-2000:]}")
    return done.stdout


def _show(other: Path, pairs: list[tuple[Costs, Costs]]) -> bool:
    """Print the table; True if a sum of both parts costs more here."""
    load = os.getloadavg()[0]
    table = Table(title=f"seconds under {other} and here, {len(pairs)} pairs, 95 % intervals; load {load:.1f}")
    for name in ("look", "part", "seconds", "there", "here", "difference", ""):
        table.add_column(name, justify="left" if name in ("look", "part", "seconds", "") else "right")
    dearer = False
    for key in pairs[0][0]:
        look, part, kind = key
        there, here = ([pair[at][key] for pair in pairs] for at in (0, 1))
        difference = Mean.of([mine - theirs for theirs, mine in zip(there, here, strict=True)])
        dearer |= part == "both" and difference.verdict == "dearer here"
        table.add_row(
            look,
            part,
            kind,
            str(Mean.of(there)),
            str(Mean.of(here)),
            str(difference),
            difference.verdict,
            end_section=(part, kind) == (PARTS[-1], KINDS[-1]),
        )
    Console(width=132).print(table)
    return dearer
