"""Candidates as real trials: the first of their code and two confirmations, each beside the honest script's own.

A trial has its own copy of the data, so that nothing that a candidate leaves there reaches another candidate; what it
left elsewhere under its own name is removed at the end.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import traceback
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import fmean, stdev

from tests.attack.candidate import Candidate, honest
from tests.fixtures.trials import miniature, tiny_data
from tests.subjects.cheats import BUDGET
from trainer.jobs import Clock, Kind, Outcome, TrialResult
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

CLOCKED = replace(BUDGET, amount=15.0, clock=Clock.PROCESSOR, warmup_steps=0, setup_s=120, scoring_s=60)
STEPPED = replace(BUDGET, setup_s=120, scoring_s=60)
SEEDS = (11, 12, 13)  # of a candidate's trials in turn; odd and even ones
REPEATS = 3  # of the honest script for each seed, where seconds count
REAL_SIGMA, SIGMAS = 0.005, 4.0
LEAST_SHOWN = 1e-3
_LEFT = ("/tmp", "/var/tmp", "/dev/shm")


class Verdict(StrEnum):
    """What came of a candidate. SLIGHTLY is a gain that is there, and within the noise of honest scores."""

    REFUSED = "refused"
    NO_BETTER = "no better"
    SLIGHTLY = "better within noise"
    THROUGH = "GOT THROUGH"
    BROKE = "BROKE THE TRAINER"
    CRASHED = "crashed"


BAD = (Verdict.THROUGH, Verdict.BROKE)


@dataclass(frozen=True)
class Honest:
    """Scores of the honest script under one budget, by seed, and the largest gain that may be noise.

    In steps the script scores the same for a seed each time, so that a gain is one to the last digit. What counts is
    one that a night would take for one: above one sigma of real nights, 0.5 % of the score. In seconds it is above four
    times the spread of repeats, and above four of those sigmas.
    """

    by_seed: dict[int, float]
    noise: float

    def gain(self, seed: int, bpb: float) -> float:
        """How much better a score is than the honest one of that seed."""
        return self.by_seed[seed] - bpb

    def verdict(self, gain: float) -> Verdict:
        """Of a trial that has a score."""
        if gain > self.noise:
            return Verdict.THROUGH
        return Verdict.SLIGHTLY if gain > LEAST_SHOWN else Verdict.NO_BETTER


@dataclass(frozen=True)
class Tried:
    """A candidate's verdict, its largest gain in bits per byte, and the words of the trial that decided."""

    names: str
    verdict: Verdict
    gain: float | None
    words: str


def seeds(*, clocked: bool) -> tuple[int, ...]:
    """Of a candidate's trials in turn; one where seconds count, as no trial's clock is another's."""
    return SEEDS[:1] if clocked else SEEDS


def measured(folder: Path, seed: int, *, clocked: bool) -> float:
    """The honest script's score with a seed, in a folder of its own."""
    try:
        result = _run(folder, honest(clocked=clocked), clocked=clocked, number=0, seed=seed, to_beat=None)
    finally:
        shutil.rmtree(folder)
    assert result.val_bpb is not None, result.reason
    return result.val_bpb


def honest_scores(scores: list[tuple[int, float]], *, clocked: bool) -> Honest:
    """From the scores of all seeds; where seconds count, of each more than once."""
    by_seed = {seed: fmean(score for other, score in scores if other == seed) for seed, _ in scores}
    if not clocked:
        return Honest(by_seed, REAL_SIGMA * fmean(by_seed.values()))
    spread = stdev(score - by_seed[seed] for seed, score in scores)
    return Honest(by_seed, SIGMAS * max(spread, REAL_SIGMA * fmean(by_seed.values())))


def tried(candidate: Candidate, scripts: Path, honest_ones: Honest) -> Tried:
    """All its trials until one is refused, in a folder of its own."""
    folder = scripts / candidate.key
    try:
        return _tried(candidate, folder, honest_ones)
    except Exception:  # noqa: BLE001 - whatever a candidate makes the trainer raise is what is looked for
        return Tried(candidate.names, Verdict.BROKE, None, traceback.format_exc(limit=-3))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for place in _LEFT:
            with contextlib.suppress(FileNotFoundError):
                Path(place, f"overnight-attack-{candidate.key}").unlink()


def _tried(candidate: Candidate, folder: Path, honest_ones: Honest) -> Tried:
    best, words = -math.inf, ""
    for number, seed in enumerate(seeds(clocked=candidate.is_clocked)):
        result = _run(
            folder,
            candidate.source,
            clocked=candidate.is_clocked,
            number=number,
            seed=seed,
            to_beat=honest_ones.by_seed[seed],
        )
        if result.val_bpb is None:
            verdict = Verdict.CRASHED if _is_its_own_crash(result) else Verdict.REFUSED
            return _refused_at_last(candidate, verdict, f"trial {number}: {result.reason}", best, honest_ones)
        if (gain := honest_ones.gain(seed, result.val_bpb)) > best:
            best, words = (
                gain,
                f"trial {number}, seed {seed}: {result.reason}, and {honest_ones.by_seed[seed]:.6f} is honest",
            )
    if candidate.is_clocked and honest_ones.verdict(best) is Verdict.THROUGH:
        return _in_pairs(candidate, folder, honest_ones.noise)
    return Tried(candidate.names, honest_ones.verdict(best), best, words)


def _in_pairs(candidate: Candidate, folder: Path, noise: float) -> Tried:
    """Judge a candidate by more trials, each followed by one of the honest script.

    A busy machine trains less in a second, so scores under a budget in seconds compare only if they were measured close
    in time.
    """
    seed, ours, honest_scores_now = SEEDS[0], [], []
    for number in range(1, REPEATS + 1):
        result = _run(folder, candidate.source, clocked=True, number=number, seed=seed, to_beat=None)
        if result.val_bpb is None:  # its first score counted, and no pair says that it was none
            return Tried(candidate.names, Verdict.THROUGH, None, f"before trial {number} was refused: {result.reason}")
        ours.append(result.val_bpb)
        honest_scores_now.append(measured(folder / f"honest-{number}", seed, clocked=True))
    now = Honest({seed: fmean(honest_scores_now)}, noise)
    gain = now.gain(seed, fmean(ours))
    return Tried(candidate.names, now.verdict(gain), gain, f"{REPEATS} pairs with the honest script, seed {seed}")


def _refused_at_last(candidate: Candidate, verdict: Verdict, words: str, best: float, honest_ones: Honest) -> Tried:
    """A score that counted before it was refused is one that got through."""
    if best > -math.inf and honest_ones.verdict(best) is Verdict.THROUGH:
        return Tried(candidate.names, Verdict.THROUGH, best, f"before it was refused in {words}")
    return Tried(candidate.names, verdict, None, words)


def _is_its_own_crash(result: TrialResult) -> bool:
    return result.outcome is Outcome.CRASHED and result.reason.startswith("exit code")


def _run(folder: Path, source: str, *, clocked: bool, number: int, seed: int, to_beat: float | None) -> TrialResult:
    """One trial of the candidate in this folder, which is made at its first."""
    data, trials, work = folder / "data", folder / "trials", folder / "work"
    if not data.exists():
        trials.mkdir(parents=True)
        work.mkdir(mode=0o700)
        tiny_data(data, val_rows=64)
    spec = miniature(
        data,
        source,
        trial=f"a-1-t{number}-a{seed}",
        kind=Kind.FIRST if number == 0 else Kind.CONFIRM,
        score_to_beat=to_beat,
        seed=seed,
        budget=CLOCKED if clocked else STEPPED,
    )
    return run_trial(spec, WorkerConfig(data, trials, work), lambda _: None, lambda: False)
