"""The recorded trials, and a world made of them: the score of any knob vector, and the duration of its trial.

The trials of the table are recorded. Between them the world is a model, a Gaussian process with a length for each
feature, fitted to the likelihood. Its features are the properties of the model that the subject builds from the knobs,
so knobs that build the same model get the same score. The bench prints how well the model predicts trials that it has
not seen.
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
LIKELIHOODS = 700  # most evaluations of the likelihood in a fit
NEIGHBOURS = 5  # trials in the mean with which the model is compared
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
    """All recorded trials, and the settings under which they ran."""

    header: dict[str, Any]
    trials: tuple[Recorded, ...]

    @property
    def scored(self) -> tuple[Recorded, ...]:
        """The trials with a score."""
        return tuple(trial for trial in self.trials if trial.score is not None)

    @property
    def sigma(self) -> float:
        """Standard deviation of the start values' scores over seeds."""
        repeats = [trial.score for trial in self.scored if trial.design == REPEAT]
        return float(np.std(np.array(repeats, dtype=float), ddof=1))

    @property
    def failed_share(self) -> float:
        """The share of failed trials."""
        return 1 - len(self.scored) / len(self.trials)


def read(file: Path = RECORDED) -> Recording:
    """Read the lines of `scripts/bench record`, packed or not; an unfinished last line is ignored."""
    text = lzma.decompress(file.read_bytes()).decode() if file.suffix == ".xz" else file.read_text()
    header, *trials = [json.loads(line) for line in text[: text.rfind("\n")].splitlines()]
    return Recording(header, tuple(map(_recorded, trials)))


def _recorded(line: dict[str, Any]) -> Recorded:
    return Recorded(line["design"], line["knobs"], Outcome(line["outcome"]), line["val_bpb"], line["wall_s"])


@dataclass(frozen=True)
class Fit:
    """How well the model predicts trials that it has not seen: rank correlations, of all and of the better half, which
    a search soon reaches; the same for the mean of the nearest trials; the error in the better half; the predicted
    failures."""

    ranks: float
    better_ranks: float
    nearest_ranks: float
    nearest_better_ranks: float
    better_off: float
    failures_called: float
    false_failures: float


class World:
    """The score of any knob vector without noise, whether it would fail, and the duration of its trial.

    `sigma` is the noise of a run's scores: by default that of the recording.
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
        """Return the expected score, None if the trial is expected to fail."""
        at = self._features.of(values)[None, :]
        if self._failure is not None and self._failure.at(at)[0] > 0.5:
            return None
        return float(_straight(self._score.at(at))[0])

    def wall_s(self, values: Mapping[str, KnobValue]) -> float:
        """Return the seconds of the trial, scoring included, on the machine of the recording."""
        return math.exp(self._wall.at(self._features.of(values)[None, :])[0])

    def lengths(self) -> dict[str, float]:
        """Return the length of each feature in the model of the scores, the shortest first: those matter most."""
        found = zip(self._features.names, np.exp(self._score.settings), strict=False)
        return dict(sorted(((name, float(length)) for name, length in found), key=lambda each: each[1]))

    def fit(self, recording: Recording) -> Fit:
        """Leave out a fifth of the trials at a time, and fit everything again without them."""
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
    """The features of a knob vector, each from 0 to 1 or near it."""

    def __init__(self, vocab: int, knobs: Mapping[str, Knob]) -> None:
        self._vocab = vocab
        plain = ("ASPECT_RATIO", "WINDOW_PATTERN")  # only their effects count
        self._ranges = {name: knob.range for name, knob in knobs.items() if knob.range and name not in plain}

    @property
    def names(self) -> list[str]:
        """The names in the order of `of`."""
        return [*self._ranges, "width", "short layers", "work a step"]

    def of(self, values: Mapping[str, KnobValue]) -> Floats:
        """Return one row of features."""
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
        """Fit the process to the likelihood of `values`, unless the settings (logarithms: lengths, noise) are given."""
        mean, scale = float(values.mean()), float(values.std())
        normal = (values - mean) / scale
        if settings is None:
            settings = _likeliest(points, normal)
        weights = np.linalg.solve(_covariance(points, settings), normal)
        return cls(points, weights, mean, scale, settings)

    def at(self, points: Floats) -> Floats:
        """Return the expected values at `points`."""
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
    """Return the negative logarithm of the likelihood, with a prior by which a feature counts little without
    evidence."""
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
    """Transform scores: good ones lie close together and bad ones far apart, which one length for all cannot follow."""
    found: Floats = -1 / scores**2
    return found


def _straight(bent: Floats) -> Floats:
    found: Floats = 1 / np.sqrt(np.maximum(-bent, 1e-3))
    return found


def _left_out(points: Floats, values: Floats, learn: Callable[[Floats, Floats], Callable[[Floats], Floats]]) -> Floats:
    """Predict each fifth by a model learned from the others."""
    fold = np.random.default_rng(0).permutation(len(values)) % FOLDS
    found = np.zeros_like(values)
    for one in range(FOLDS):
        found[fold == one] = learn(points[fold != one], values[fold != one])(points[fold == one])
    return found


def _nearest(points: Floats, values: Floats) -> Callable[[Floats], Floats]:
    """Return a predictor without a model: the mean of the nearest trials."""

    def at(asked: Floats) -> Floats:
        far = np.abs(asked[:, None] - points[None]).sum(2)
        found: Floats = values[np.argsort(far, axis=1)[:, :NEIGHBOURS]].mean(1)
        return found

    return at


def _ranked(some: Floats, others: Floats) -> float:
    ranks = [np.argsort(np.argsort(each)) for each in (some, others)]
    return float(np.corrcoef(*ranks)[0, 1])
