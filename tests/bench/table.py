"""The recorded trials, and a world made of them: what any knob vector would score, and how long its trial would take.

Recorded is the table; between its points the world is a model of it, a Gaussian process with a length for each feature,
fitted to the likelihood. Its features are what the subject makes of the knobs, so knobs that make the same model score
the same. How well it foresees trials that it has not seen is printed beside everything that is told of it.
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cmaes import CMA

from researcher.source.knobs import Knob
from researcher.source.proposal import KnobValue
from services.machine.subject import render_subject
from tests.bench.design import REPEAT, searched
from tests.fixtures.range_shares import to_share
from trainer.jobs import Outcome, profile_named

RECORDED = Path(__file__).parent / "recorded" / "cpu-trials.jsonl.xz"
FOLDS = 5
LIKELIHOODS = 700  # that a fit may look at
NEIGHBOURS = 5  # of what the model is compared with
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recorded:
    """One real trial."""

    design: str
    knobs: dict[str, KnobValue]
    outcome: Outcome
    score: float | None
    wall_s: float


@dataclass(frozen=True)
class Recording:
    """All of them, and the settings under which they ran."""

    header: dict[str, Any]
    trials: tuple[Recorded, ...]

    @property
    def scored(self) -> tuple[Recorded, ...]:
        """Those that came to a score."""
        return tuple(trial for trial in self.trials if trial.score is not None)

    @property
    def sigma(self) -> float:
        """Standard deviation of the start values' scores over seeds."""
        repeats = [trial.score for trial in self.scored if trial.design == REPEAT]
        return float(np.std(np.array(repeats, dtype=float), ddof=1))

    @property
    def failed_share(self) -> float:
        """Of all of them."""
        return 1 - len(self.scored) / len(self.trials)


def read(file: Path = RECORDED) -> Recording:
    """The lines of `scripts/bench record`, packed or not; an unfinished last line is no trial."""
    text = lzma.decompress(file.read_bytes()).decode() if file.suffix == ".xz" else file.read_text()
    header, *trials = [json.loads(line) for line in text[: text.rfind("\n")].splitlines()]
    return Recording(header, tuple(map(_recorded, trials)))


def _recorded(line: dict[str, Any]) -> Recorded:
    return Recorded(line["design"], line["knobs"], Outcome(line["outcome"]), line["val_bpb"], line["wall_s"])


@dataclass(frozen=True)
class Fit:
    """How well trials are foreseen that the model has not seen: correlations of ranks, of all and of the better half,
    where a search soon is; the same for the mean of the nearest; how far off in the better half; failures called."""

    ranks: float
    better_ranks: float
    nearest_ranks: float
    nearest_better_ranks: float
    better_off: float
    failures_called: float
    false_failures: float


class World:
    """What any knob vector would score without noise, whether it would fail, how long its trial would take.

    `sigma` is that of a run's scores: the recording's, if nobody asks for another.
    """

    def __init__(self, recording: Recording, sigma: float | None = None) -> None:
        profile = profile_named(recording.header["profile"])
        self.source = render_subject(profile)["train.py"]
        self.context = profile.context
        self.sigma = recording.sigma if sigma is None else sigma
        self._features = Features(profile.vocab_size, searched(self.source))
        self._scores, scores = self._arranged(recording.scored), _scores(recording.scored)
        self._all, failed = self._arranged(recording.trials), _failed(recording.trials)
        self._score = Surface.fitted(self._scores, _bent(scores))
        self._failure = Surface.fitted(self._all, failed) if failed.any() else None
        self._wall = Surface.fitted(self._all, np.log([trial.wall_s for trial in recording.trials]))

    def truth(self, values: Mapping[str, KnobValue]) -> float | None:
        """The score that is expected, None where the trial is expected to fail."""
        at = self._features.of(values)[None, :]
        if self._failure is not None and self._failure.at(at)[0] > 0.5:
            return None
        return float(_straight(self._score.at(at))[0])

    def wall_s(self, values: Mapping[str, KnobValue]) -> float:
        """Seconds of the trial, scoring included, as far as this machine was like the recording one."""
        return math.exp(self._wall.at(self._features.of(values)[None, :])[0])

    def lengths(self) -> dict[str, float]:
        """Of each feature in the model of the scores, the shortest first: those matter most."""
        found = zip(self._features.names, np.exp(self._score.settings), strict=False)
        return dict(sorted(((name, float(length)) for name, length in found), key=lambda each: each[1]))

    def fit(self, recording: Recording) -> Fit:
        """By trials left out, a fifth at a time, everything fitted again without them."""
        scores, failed = _scores(recording.scored), _failed(recording.trials)
        foreseen = _straight(_left_out(self._scores, _bent(scores), lambda *known: Surface.fitted(*known).at))
        nearest = _left_out(self._scores, scores, _nearest)
        called = _left_out(self._all, failed, lambda *known: Surface.fitted(*known).at) > 0.5
        better = scores < np.median(scores)
        return Fit(
            ranks=_ranked(foreseen, scores),
            better_ranks=_ranked(foreseen[better], scores[better]),
            nearest_ranks=_ranked(nearest, scores),
            nearest_better_ranks=_ranked(nearest[better], scores[better]),
            better_off=float(np.sqrt(np.mean((foreseen - scores)[better] ** 2))),
            failures_called=float(called[failed > 0].mean()),
            false_failures=float(called[failed == 0].mean()),
        )

    def _arranged(self, trials: Sequence[Recorded]) -> Floats:
        return np.array([self._features.of(trial.knobs) for trial in trials])


class Features:
    """What the subject makes of a knob vector, each from 0 to 1 or near it."""

    def __init__(self, vocab: int, knobs: Mapping[str, Knob]) -> None:
        self._vocab = vocab
        plain = ("ASPECT_RATIO", "WINDOW_PATTERN")  # only their effects count
        self._ranges = {name: knob.range for name, knob in knobs.items() if knob.range and name not in plain}

    @property
    def names(self) -> list[str]:
        """In the order of `of`."""
        return [*self._ranges, "width", "short layers", "work a step"]

    def of(self, values: Mapping[str, KnobValue]) -> Floats:
        """One row of features."""
        depth, head, ratio = (int(values[name]) for name in ("DEPTH", "HEAD_DIM", "ASPECT_RATIO"))
        width = math.ceil(depth * ratio / head) * head
        pattern = str(values["WINDOW_PATTERN"])
        short = sum(pattern[layer % len(pattern)] == "S" for layer in range(depth - 1)) / depth
        work = int(values["TOTAL_BATCH_SIZE"]) * (12 * depth * width**2 + self._vocab * width)
        shares = [to_share(values[name], wanted) for name, wanted in self._ranges.items()]
        return np.array([*shares, math.log2(width) / 6, short, math.log2(work) / 12])


@dataclass(frozen=True)
class Surface:
    """A Gaussian process: a Matérn 5/2 kernel with a length for each feature, around a mean."""

    points: Floats
    weights: Floats
    mean: float
    scale: float
    settings: Floats

    @classmethod
    def fitted(cls, points: Floats, values: Floats, settings: Floats | None = None) -> Surface:
        """By the likelihood of `values`, unless the settings (logarithms: lengths, noise) are known."""
        mean, scale = float(values.mean()), float(values.std())
        normal = (values - mean) / scale
        if settings is None:
            settings = _likeliest(points, normal)
        weights = np.linalg.solve(_covariance(points, settings), normal)
        return cls(points, weights, mean, scale, settings)

    def at(self, points: Floats) -> Floats:
        """What is expected there."""
        found: Floats = self.mean + self.scale * (_kernel(points, self.points, self.settings) @ self.weights)
        return found


def _likeliest(points: Floats, normal: Floats) -> Floats:
    count = points.shape[1] + 1
    start = np.full(count, math.log(1.5))
    start[-1] = math.log(0.1)
    bounds = np.array([[math.log(0.1), math.log(30)]] * points.shape[1] + [[math.log(0.01), math.log(1)]])
    search = CMA(mean=start, sigma=0.7, bounds=bounds, seed=1)
    best, least = start, math.inf
    for _ in range(LIKELIHOODS // search.population_size):
        told = []
        for _ in range(search.population_size):
            settings = search.ask()
            told.append((settings, _unlikeliness(points, normal, settings)))
        search.tell(told)
        settings, unlikely = min(told, key=lambda each: each[1])
        if unlikely < least:
            best, least = settings, unlikely
    return best


def _unlikeliness(points: Floats, normal: Floats, settings: Floats) -> float:
    """The negative logarithm of the likelihood, and a prior by which a feature counts little until it is seen to."""
    root = np.linalg.cholesky(_covariance(points, settings))
    rest = np.linalg.solve(root, normal)
    prior = 0.5 * float(np.sum(((settings[:-1] - math.log(3)) / 1.0) ** 2))
    return 0.5 * float(rest @ rest) + float(np.log(np.diag(root)).sum()) + prior


def _covariance(points: Floats, settings: Floats) -> Floats:
    noise = math.exp(settings[-1])
    found: Floats = _kernel(points, points, settings) + noise**2 * np.eye(len(points))
    return found


def _kernel(some: Floats, others: Floats, settings: Floats) -> Floats:
    lengths = np.exp(settings[:-1])
    one, other = some / lengths, others / lengths
    squares = (one**2).sum(1)[:, None] + (other**2).sum(1)[None, :] - 2 * one @ other.T
    far = np.sqrt(5 * np.maximum(squares, 0.0))
    found: Floats = (1 + far + far**2 / 3) * np.exp(-far)
    return found


def _scores(trials: Sequence[Recorded]) -> Floats:
    return np.array([trial.score for trial in trials], dtype=float)


def _failed(trials: Sequence[Recorded]) -> Floats:
    return np.array([trial.score is None for trial in trials], dtype=float)


def _bent(scores: Floats) -> Floats:
    """Good scores lie close together and bad ones far apart, which one length for all cannot follow."""
    found: Floats = -1 / scores**2
    return found


def _straight(bent: Floats) -> Floats:
    found: Floats = 1 / np.sqrt(np.maximum(-bent, 1e-3))
    return found


def _left_out(points: Floats, values: Floats, learn: Callable[[Floats, Floats], Callable[[Floats], Floats]]) -> Floats:
    """What is foreseen of each fifth by what was learned from the others."""
    fold = np.random.default_rng(0).permutation(len(values)) % FOLDS
    found = np.zeros_like(values)
    for one in range(FOLDS):
        found[fold == one] = learn(points[fold != one], values[fold != one])(points[fold == one])
    return found


def _nearest(points: Floats, values: Floats) -> Callable[[Floats], Floats]:
    """What needs no model: the mean of the nearest."""

    def at(asked: Floats) -> Floats:
        far = np.abs(asked[:, None] - points[None]).sum(2)
        found: Floats = values[np.argsort(far, axis=1)[:, :NEIGHBOURS]].mean(1)
        return found

    return at


def _ranked(some: Floats, others: Floats) -> float:
    ranks = [np.argsort(np.argsort(each)) for each in (some, others)]
    return float(np.corrcoef(*ranks)[0, 1])
