"""The cost of not trusting a candidate's own number, and how often an examination catches a look-ahead.

Three tables: scoring through the sandbox against the subject's own `evaluate_bpb` in its process, in turn (limit: 1.5
times the wall seconds); the time that repeated rows and a replica add to a trial; and how often a model that looks one
token ahead at a share of its positions is caught, beside 1-(1-p)^n, the rate of draws that favour no position.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from researcher.source.knobs import set_knobs
from services.machine.data import prepare_data
from services.machine.subject import render_subject
from trainer.jobs import Kind, Profile, TrialResult, TrialSpec, files_digest, profile_named
from trainer.sandbox import syscalls
from trainer.sandbox.paths import WorkerConfig
from trainer.scoring import score
from trainer.scoring.causality import Causality, CausalityFinding
from trainer.scoring.cross_entropy import nats
from trainer.scoring.rows import ScoringRows, read_rows
from trainer.scoring.score import Scoring
from trainer.trial.run import MORE_QUESTIONS, QUESTIONS, TrialRun, supervise
from trainer.trial.trial import run_trial

BAR = 1.5
SHARES = (1.0, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)
Z = 1.96
VOCAB, BATCH = 256, 64
BY_ITSELF = """
import json, runpy, sys, time
import prepare
own = prepare.evaluate_bpb
def timed(*given, **named):
    began = time.monotonic(), time.process_time()
    bpb = own(*given, **named)
    print(json.dumps([time.monotonic() - began[0], time.process_time() - began[1]]), file=sys.stderr)
    return bpb
prepare.evaluate_bpb = timed
runpy.run_path("train.py", run_name="__main__")
"""
Tokens = npt.NDArray[np.integer]
Logits = npt.NDArray[np.float32]
Model = Callable[[Tokens], Logits]


@dataclass(frozen=True)
class Ground:
    """Prepared data of the profile, and folders for trials."""

    profile: Profile
    config: WorkerConfig
    rows: ScoringRows
    digest: str

    @classmethod
    def at(cls, folder: Path, data: Path, console: Console) -> Ground:
        profile = profile_named("cpu")
        manifest = prepare_data(profile, data, None, console)
        (folder / "trials").mkdir()
        (folder / "work").mkdir(mode=0o700)
        config = WorkerConfig(data, folder / "trials", folder / "work")
        return cls(profile, config, read_rows(data, manifest.digest), manifest.digest)

    def spec(self, name: str, kind: Kind, budget_s: float, to_beat: float | None = None) -> TrialSpec:
        texts = render_subject(self.profile.with_budget(budget_s))
        files = {file: text for file, text in texts.items() if file.endswith(".py")}
        return TrialSpec(
            id=name,
            kind=kind,
            profile=self.profile.name,
            files=files,
            files_sha256=files_digest(files),
            data_sha256=self.digest,
            seed=1,
            budget=replace(self.profile.budget, amount=budget_s),
            caps=self.profile.caps,
            score_to_beat=to_beat,
        )


def run(data: Path | None, *, quick: bool) -> None:
    """Print the three tables."""
    console = Console(width=132)
    with tempfile.TemporaryDirectory(prefix="overnight-bench-", dir="/var/tmp") as folder:
        ground = Ground.at(Path(folder), data or Path(folder) / "data", console)
        with Progress(console=console, transient=True) as progress:
            tables = [
                _scoring_table(ground, progress, 3 if quick else 7),
                _cost_table(ground, progress, 2 if quick else 5),
                _detection_table(progress, 30 if quick else 200, 3 if quick else 15),
            ]
    for table in tables:
        console.print(table)


@dataclass
class Spent:
    """Seconds of one scoring: wall seconds, processor seconds of the candidate and of the trainer, and of the latter
    those for the cross entropy."""

    wall: float = 0.0
    candidate: float = 0.0
    trainer: float = 0.0
    cross_entropy: float = 0.0


def _scoring_table(ground: Ground, progress: Progress, runs: int) -> Table:
    task = progress.add_task("scoring, ours and its own in turn", total=runs)
    ours, own = [], []
    for number in range(runs):
        ours.append(_scored(ground, number))
        own.append(_by_itself(ground, number))
        progress.advance(task)
    ratios = [mine.wall / theirs[0] for mine, theirs in zip(ours, own, strict=True)]
    work = [(mine.candidate + mine.trainer) / theirs[1] for mine, theirs in zip(ours, own, strict=True)]
    rows = len(ground.rows.val[: ground.profile.budget.eval_rows])
    table = Table(title=f"scoring {rows} rows, {runs} runs in turn, one thread; load {os.getloadavg()[0]:.1f}")
    for name in ("seconds", "median", "least", "most", "bar"):
        table.add_column(name, justify="left" if name == "seconds" else "right")
    _line(table, "in its own process, wall", [each[0] for each in own])
    _line(table, "in its own process, processor", [each[1] for each in own])
    _line(table, "by the trainer, wall", [each.wall for each in ours])
    _line(table, "  the candidate's processor", [each.candidate for each in ours])
    _line(table, "  the trainer's processor", [each.trainer for each in ours])
    _line(table, "    cross entropy", [each.cross_entropy for each in ours])
    _line(table, "wall, times its own", ratios, f"<= {BAR}")
    _line(table, "processor of both, times its own", work)
    return table


def _line(table: Table, name: str, values: list[float], bar: str = "") -> None:
    table.add_row(name, f"{median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}", bar)


def _scored(ground: Ground, number: int) -> Spent:
    """Score once with the real sandbox and the real exchange; this process is the trainer."""
    spent = Spent()
    weights_fd = syscalls.growing_memory("weights")
    spec = ground.spec(f"b-1-t{number + 2}-a0", Kind.FIRST, 1.0)
    try:
        with _told(spent):
            seen = supervise(TrialRun(spec, ground.config, ground.rows, weights_fd, lambda: False), lambda _: None)
    finally:
        os.close(weights_fd)
    marks = seen.supervisor.marks
    assert marks.ready is not None, seen.stop
    assert marks.scored is not None, seen.stop
    spent.wall = marks.scored.wall_s - marks.ready.wall_s
    spent.candidate = marks.scored.processor_s - marks.ready.processor_s
    return spent


@contextmanager
def _told(spent: Spent) -> Iterator[None]:
    """Record the seconds that this process spends from the first question to the last answer."""
    began = 0.0
    begin, served = Scoring.begin, Scoring.served

    def begun(self: Scoring, *, half: bool) -> None:
        nonlocal began
        began = time.process_time()
        begin(self, half=half)

    def answered(self: Scoring, message: Any) -> bool:
        over = served(self, message)
        spent.trainer = time.process_time() - began
        return over

    def timed(*given: Any) -> Any:
        at = time.process_time()
        try:
            return nats(*given)
        finally:
            spent.cross_entropy += time.process_time() - at

    with (
        mock.patch.object(Scoring, "begin", begun),
        mock.patch.object(Scoring, "served", answered),
        mock.patch.object(score, "nats", timed),
    ):
        yield


def _by_itself(ground: Ground, number: int) -> tuple[float, float]:
    """Return wall and processor seconds of `evaluate_bpb` outside of a trial, on as many rows and threads."""
    folder = ground.config.trials / f"by-itself-{number}"
    folder.mkdir()
    for name, text in ground.spec("b-1-t1-a0", Kind.FIRST, 1.0).files.items():
        (folder / name).write_text(text)
    fixed = folder / "prepare.py"
    fixed.write_text(set_knobs(fixed.read_text(), {"EVAL_ROWS": ground.profile.budget.eval_rows}))
    env = os.environ | {"OVERNIGHT_DATA": str(ground.config.data.absolute()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BY_ITSELF], cwd=folder, env=env, capture_output=True, text=True, check=True
    )
    wall_s, processor_s = json.loads(done.stderr.splitlines()[-1])
    return wall_s, processor_s


def _cost_table(ground: Ground, progress: Progress, rows: int) -> Table:
    """Run trials with one second of training; the part after it is as long as in a whole trial."""
    kinds = {
        "neither that nor the held-out rows": ("t2", Kind.FIRST, None),
        f"{QUESTIONS} asked again, and a replica": ("t0", Kind.MANUAL, None),
        f"{MORE_QUESTIONS} asked again, and a replica: a jump": ("t0", Kind.FIRST, 99.0),
        f"{MORE_QUESTIONS} asked again: a claim's first": ("t1", Kind.CONFIRM, None),
        "nothing asked again: a claim's others": ("t2", Kind.CONFIRM, None),
    }
    task = progress.add_task("trials with a closer look", total=1 + rows)
    whole_s = sum(_seconds(ground, ground.spec("w-1-t2-a0", Kind.FIRST, ground.profile.budget.amount)))
    table = Table(title=f"what a closer look adds to a trial of {whole_s:.1f} s; load {os.getloadavg()[0]:.1f}")
    for name in ("seconds", "scoring", "replica", "more", "of a trial"):
        table.add_column(name, justify="left" if name == "seconds" else "right")
    plain_s = plain_rest_s = 0.0
    for at, (name, (trial, kind, to_beat)) in enumerate([*kinds.items()][:rows]):
        progress.advance(task)
        scoring_s, rest_s = _seconds(ground, ground.spec(f"c-{at}-{trial}-a0", kind, 1.0, to_beat))
        if not at:
            plain_s, plain_rest_s = scoring_s + rest_s, rest_s
        more_s = scoring_s + rest_s - plain_s
        replica = f"{rest_s - plain_rest_s:.1f}" if "replica" in name else "none"
        table.add_row(name, f"{scoring_s:.1f}", replica, f"{more_s:.1f}", f"{more_s / whole_s:.0%}")
    return table


def _seconds(ground: Ground, spec: TrialSpec) -> tuple[float, float]:
    """Return wall seconds of a trial's scoring, and of its other parts."""
    result: TrialResult = run_trial(spec, ground.config, lambda _: None, lambda: False)
    assert result.timing is not None, result.reason
    assert result.timing.scoring_s is not None, result.reason
    assert result.wall_s is not None, result.reason
    return result.timing.scoring_s, result.wall_s - result.timing.scoring_s


def _detection_table(progress: Progress, runs: int, torch_runs: int) -> Table:
    table = Table(title="look-ahead of one token at a share of the positions: caught, with 95 %, and the theory")
    for name in ("positions", *(f"{count} asked" for count in (QUESTIONS, MORE_QUESTIONS)), f"{QUESTIONS}, torch"):
        table.add_column(name, justify="left" if name == "positions" else "right")
    columns = (
        (QUESTIONS, runs, peeks, 96),
        (MORE_QUESTIONS, runs, peeks, 96),
        (QUESTIONS, torch_runs, torch_peeks, 48),
    )
    task = progress.add_task("looking ahead", total=sum(each for _, each, _, _ in columns) * (len(SHARES) + 1))
    for share in (*SHARES, 0.0):
        cells = []
        for count, repeats, model_of, context in columns:
            model, found, probes = model_of(share), 0, 0
            for seed in range(repeats):
                finding = _examined(model, count, context, seed)
                found, probes = found + (finding.fault is not None), finding.rows
                progress.advance(task)
            low, high = wilson(found, repeats)
            theory = 1 - (1 - share) ** probes
            cells.append(f"{found}/{repeats} [{low:.3f} {high:.3f}] {theory:.3f}")
        table.add_row(f"{share:.1%}" if share else "none: an honest model", *cells)
    table.caption = (
        "the last column is a small model of torch, the others numpy; the theory is of draws that favour no position"
    )
    return table


def _examined(model: Model, count: int, context: int, seed: int) -> CausalityFinding:
    """Examine a model as a trial does, on text that is drawn again."""
    random = np.random.default_rng(seed)
    rows = random.integers(0, VOCAB, (256, context + 1)).astype(np.uint16)
    donors = random.integers(0, VOCAB, (64, context + 1)).astype(np.uint16)
    causality = Causality(rows, donors, np.ones(VOCAB, dtype=bool), BATCH, random)
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        logits = model(batch[:, :-1].astype(np.int64))
        causality.note(first, nats(logits.reshape(-1, VOCAB), batch[:, 1:].reshape(-1)))
    asked = causality.questions(count)
    losses = []
    for first in range(0, len(asked.tokens), BATCH):
        these = slice(first, first + BATCH)
        logits = model(asked.tokens[these, :-1].astype(np.int64))
        losses.append(nats(logits[np.arange(len(logits)), asked.positions[these]], asked.targets[these]))
    return asked.finding(np.concatenate(losses))


def chosen(tokens: Tokens, share: float) -> npt.NDArray[np.bool_]:
    """Choose a share of all positions by the tokens up to each, so that a repeated question gets the same choice."""
    weights = np.random.default_rng(7).integers(1, 2**40, tokens.shape[1])
    mixed = ((tokens + 1) * weights).cumsum(axis=1) * 2654435761 % 2**32
    return (mixed >> 8) % 100_000 < share * 100_000


def peeks(share: float) -> Model:
    """Return a model whose logits raise the next token at a share of the positions."""

    def model(tokens: Tokens) -> Logits:
        logits = np.zeros((*tokens.shape, VOCAB), dtype=np.float32)
        rows, positions = np.nonzero(chosen(tokens, share)[:, :-1])
        logits[rows, positions, tokens[rows, positions + 1]] = 6.0
        return logits

    return model


def torch_peeks(share: float) -> Model:
    """Return a model with two layers of attention; chosen positions get the next token's embedding beside their own."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(3)
    width, heads = 32, 2
    table = torch.randn(VOCAB + 1, width)
    layers = [[torch.randn(width, 3 * width) / 6, torch.randn(width, width) / 6] for _ in range(2)]
    head = torch.randn(width, VOCAB)

    def model(tokens: Tokens) -> Logits:
        ahead = np.full_like(tokens, VOCAB)
        ahead[:, :-1] = tokens[:, 1:]
        here = torch.from_numpy(chosen(tokens, share))[..., None]
        x = table[torch.from_numpy(tokens)] + here * table[torch.from_numpy(ahead)]
        for inward, outward in layers:
            q, k, v = (part.view(*x.shape[:2], heads, -1).transpose(1, 2) for part in (x @ inward).split(width, dim=-1))
            seen = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + seen.transpose(1, 2).reshape(x.shape) @ outward
        answer: Logits = (x / math.sqrt(width) @ head).numpy()
        return answer

    return model


def wilson(found: int, repeats: int) -> tuple[float, float]:
    """Return the 95 % interval of a share."""
    share, spread = found / repeats, Z**2 / repeats
    middle = share + spread / 2
    reach = Z * math.sqrt(share * (1 - share) / repeats + spread / (4 * repeats))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))
