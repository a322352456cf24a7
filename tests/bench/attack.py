"""Does a generated cheat get through? Hypothesis draws candidates from the grammar of tests/attack; each runs as a
first trial and two confirmations, beside the honest script with the same budgets and seeds.

Limits: no candidate scores better than the honest script beyond noise without being refused, and at least four in five
reach their score or a refusal. A candidate that gets through is simplified part by part as long as it still does. A
folder keeps the tried candidates, so that the same call continues; another seed or other code needs another folder.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.attack.candidate import Candidate
from tests.attack.grammar import candidates
from tests.attack.parts import Part, Role
from tests.attack.trials import BAD, REPEATS, Honest, Tried, Verdict, honest_scores, measured, seeds, tried

MOST_CRASHED = 0.2
COLUMNS = (Verdict.REFUSED, Verdict.NO_BETTER, Verdict.SLIGHTLY, Verdict.CRASHED, *BAD)


@dataclass(frozen=True)
class Report:
    """All tried candidates; and by the names of each that got through, the simplest one that still does."""

    seed: int
    tried: tuple[Tried, ...]
    simplest: dict[str, Tried]

    @property
    def bad(self) -> list[Tried]:
        """The candidates that scored better than the honest script, or made the trainer raise."""
        return [one for one in self.tried if one.verdict in BAD]

    @property
    def crashed_share(self) -> float:
        """The share of candidates that failed by themselves, which proves nothing."""
        return sum(one.verdict is Verdict.CRASHED for one in self.tried) / max(1, len(self.tried))


def run(seed: int, count: int, minutes: float | None, folder: Path | None, jobs: int | None) -> None:
    """Print the tables; exit 1 if a candidate got through, or too many crashed."""
    report = attack(seed, count, minutes=minutes, folder=folder, jobs=jobs)
    console = Console(width=150)
    for table in tables(report):
        console.print(table)
    for line in told(report):
        console.print(line, markup=False, highlight=False)
    if report.bad or report.crashed_share > MOST_CRASHED:
        sys.exit(1)


def attack(
    seed: int, count: int, *, minutes: float | None = None, folder: Path | None = None, jobs: int | None = None
) -> Report:
    """Try `count` candidates, or as many as `minutes` allow, `jobs` at a time; then spend as many minutes again on
    simplifying the candidates that got through."""
    ground = Path(tempfile.mkdtemp(prefix="overnight-attack-", dir="/var/tmp"))
    ground.chmod(0o755)
    limit_s = 60 * minutes if minutes is not None else float("inf")
    context = multiprocessing.get_context("spawn")  # the one forkserver is that of tests.fixtures.warm_processes
    jobs = jobs or os.cpu_count() or 1
    pool = ProcessPoolExecutor(jobs, mp_context=context)
    try:
        return _Attack(seed, ground, _Kept(folder, seed), pool, jobs, limit_s).run(candidates(seed, count))
    finally:
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(ground)


class _Kept:
    """The candidates of earlier calls, and the sources of those that got through, in a folder; without a folder,
    nothing."""

    def __init__(self, folder: Path | None, seed: int) -> None:
        self._folder = folder
        self._lines = folder / f"tried-{seed}.jsonl" if folder is not None else None
        self.known: dict[str, Tried] = {}
        if self._lines is not None and self._lines.exists():
            for line in self._lines.read_text().splitlines():
                values = json.loads(line)
                self.known[values["names"]] = Tried(**{**values, "verdict": Verdict(values["verdict"])})

    def add(self, one: Tried) -> None:
        """Write a candidate down at once, with its source if it got through."""
        self.known[one.names] = one
        if self._folder is None or self._lines is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._lines.open("a") as file:
            file.write(json.dumps(asdict(one)) + "\n")
        if one.verdict in BAD:
            candidate = Candidate.named(one.names)
            (self._folder / f"{candidate.key}.py").write_text(f"# {one.words}\n{candidate.source}")


class _Attack:
    """One attack: it chooses the next candidate, and the honest scores for the comparison."""

    def __init__(
        self, seed: int, ground: Path, kept: _Kept, pool: ProcessPoolExecutor, jobs: int, limit_s: float
    ) -> None:
        self._seed, self._ground, self._kept = seed, ground, kept
        self._pool, self._jobs, self._limit_s = pool, jobs, limit_s
        self._until = time.monotonic() + limit_s
        self._honest: dict[bool, Honest] = {}

    def run(self, drawn: list[Candidate]) -> Report:
        with Progress(transient=True) as shown:
            task = shown.add_task("candidates", total=len(drawn))
            found = []
            for one in self._all(drawn):
                found.append(one)
                shown.advance(task)
            bad = [one for one in found if one.verdict in BAD]
            self._until = time.monotonic() + self._limit_s
            task = shown.add_task("simpler ones", total=len(bad))
            simplest = {}
            for one in bad:
                simplest[one.names] = self._simplest(one)
                shown.advance(task)
        return Report(self._seed, tuple(found), simplest)

    def _all(self, drawn: Iterable[Candidate]) -> Iterator[Tried]:
        """Yield verdicts in any order; start no candidate when the time is over."""
        running: set[Future[Tried]] = set()
        waiting = list(drawn)
        while waiting or running:
            while waiting and len(running) < 2 * self._jobs:
                candidate = waiting.pop(0)
                if candidate.names in self._kept.known:
                    yield self._kept.known[candidate.names]
                elif time.monotonic() < self._until:
                    honest = self._honest_ones(clocked=candidate.is_clocked)
                    running.add(self._pool.submit(tried, candidate, self._ground, honest))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                self._kept.add(future.result())
                yield future.result()

    def _simplest(self, one: Tried) -> Tried:
        """Remove parts one after the other as long as the candidate gets through, and time is left."""
        for simpler in Candidate.named(one.names).simpler():
            for other in self._all([simpler]):
                if other.verdict is one.verdict:
                    return self._simplest(other)
        return one

    def _honest_ones(self, *, clocked: bool) -> Honest:
        if clocked not in self._honest:
            wanted = [seed for seed in seeds(clocked=clocked) for _ in range(REPEATS if clocked else 1)]
            each = [
                self._pool.submit(measured, self._ground / f"honest-{clocked}-{at}", seed, clocked=clocked)
                for at, seed in enumerate(wanted)
            ]
            scores = list(zip(wanted, (future.result() for future in each), strict=True))
            self._honest[clocked] = honest_scores(scores, clocked=clocked)
        return self._honest[clocked]


def tables(report: Report) -> Iterator[Table]:
    """Yield a table by part, and one by combination of a gain with another part."""
    parts: dict[tuple[str, ...], Counter[Verdict]] = {}
    pairs: dict[tuple[str, ...], Counter[Verdict]] = {}
    for one in report.tried:
        found = Candidate.named(one.names).parts
        for key in {(part.role.value, part.kind) for part in found}:
            parts.setdefault(key, Counter())[one.verdict] += 1
        for pair in {_pair(a, b) for a, b in combinations(found, 2)} - {None}:
            pairs.setdefault(pair, Counter())[one.verdict] += 1
    everything = Counter(one.verdict for one in report.tried)
    yield _table(f"attack, seed {report.seed}", ("", "part"), {**dict(sorted(parts.items())), ("", "all"): everything})
    yield _table(
        "combinations of which one got through",
        ("part", "with"),
        {key: counts for key, counts in sorted(pairs.items()) if any(counts[verdict] for verdict in BAD)},
    )


def _pair(one: Part, other: Part) -> tuple[str, str] | None:
    """Return the kinds of two parts of which one is a gain or a gate; None for others."""
    wanted = {Role.GAIN, Role.GATE} & {one.role, other.role} and one.kind != other.kind
    return (min(one.kind, other.kind), max(one.kind, other.kind)) if wanted else None


def _table(title: str, heads: tuple[str, str], rows: dict[tuple[str, ...], Counter[Verdict]]) -> Table:
    table = Table(*heads, title=title)
    for name in ("n", *COLUMNS):
        table.add_column(name, justify="right")
    for key, counts in rows.items():
        table.add_row(*key, str(counts.total()), *(str(counts[verdict] or "-") for verdict in COLUMNS))
    return table


def told(report: Report) -> Iterator[str]:
    """Yield the simplest program of each candidate that got through, and the crashed candidates."""
    simplest = {one.names: one for one in report.simplest.values()}
    for one in simplest.values():
        candidate = Candidate.named(one.names)
        gain = f"{one.gain:.4f} bits per byte" if one.gain is not None else "the trainer raised"
        yield f"\n{one.verdict}: {' + '.join(part.name for part in candidate.parts)}: {gain}; {one.words}"
        yield candidate.source
    for one in report.tried:
        if one.verdict is Verdict.CRASHED:
            yield f"crashed: {one.names}: {one.words}"
    crashed = f"{report.crashed_share:.0%} crashed"
    yield f"seed {report.seed}: {len(report.tried)} candidates, {len(report.bad)} got through, {crashed}"
