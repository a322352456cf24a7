"""Does a score come from the past of each row alone? The questions that find out, and what their answers show.

While the validation rows are scored, the trainer notes the loss of every token. Then it draws positions at random,
keeps each row up to its position, puts other text behind it, and asks a replica for the loss of the token that stood
there. A model that reads only the past gives the same loss again. The difference is what the model gained from the
future, in nats: the profit of a look-ahead, however it is hidden, since nothing else of an answer enters the score.

Promises: positions are drawn after the score, so nobody could know them; half of the draws go to tokens in proportion
to how much better they were predicted than by the pairs of tokens alone, which is where a rare look-ahead must have its
profit; no question shows what another one asks for. Does not cover a process that remembers its earlier answers: the
replica is a fresh one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.scoring.rows import Tokens

TOLERANCE, MOST_TOLERANCE = 0.03, 0.25  # nats; bf16 steps by 0.03 where logits are about 10
MOST_PROFIT, EXACT_PROFIT = 0.01, 6e-4  # nats a token; the latter where the same rows gave the same answers bit by bit
_LEAST_PROFIT = 1e-4
_NOISE_FACTOR = 4.0
_DOUBT, _BEYOND_DOUBT, _NOISE_DOUBT = 3.0, 5.0, 9.0  # standard errors
_UNCHANGED_SHARE = 8  # one question in so many repeats its row as it was
_CONFIDENCE = 0.99
_PAIR_WEIGHT = 5.0  # pseudo-counts of the single tokens behind those of pairs

Losses = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CausalityFinding:
    """What came out. Losses are in nats; `noise` and `change` are the largest differences of a loss between both
    processes: for rows repeated as they were, and for positions whose future was another one.

    `rows` counts the latter, `position` is that of `change`, `profit` and `profit_error` are the mean gain of a token
    and its standard error, `noise_error` is what that error would be by the noise of repeated rows alone, and `room`
    the mean by which tokens were predicted better than by pairs alone.
    """

    rows: int
    noise: float
    change: float
    position: int
    profit: float = 0.0
    profit_error: float = 0.0
    noise_error: float = 0.0
    room: float = 0.0

    @property
    def tolerance(self) -> float:
        """How much a single loss may change: rounding, and the model's own noise up to a cap."""
        return min(MOST_TOLERANCE, max(TOLERANCE, _NOISE_FACTOR * self.noise))

    @property
    def most_profit(self) -> float:
        """What a model may seem to gain at most: what rounding does (an FFT carries some from the future into the past)
        and what its own noise explains, up to a cap."""
        return min(MOST_PROFIT, EXACT_PROFIT + _NOISE_DOUBT * self.noise_error)

    @property
    def smallest_caught(self) -> float:
        """The profit in nats a token that is found 99 times in 100, whatever positions it comes from.

        A draw meets a look-ahead with at least half of the probability profit / room; see the module's docstring.
        """
        missed = (1 - _CONFIDENCE) ** (1 / self.rows) if self.rows else 0.0
        return float(2 * self.room * (1 - missed))

    @property
    def fault(self) -> str | None:
        """Why such a model cannot be scored, in a sentence; None for one that passes."""
        if self.noise > MOST_TOLERANCE:
            return (
                f"asked again for the same rows, its losses differ by {self.noise:.3g} nats, and {MOST_TOLERANCE:g} is "
                "allowed: they depend on more than the script, the model's state_dict and the row, such as earlier "
                "calls, other rows of a batch, or chance"
            )
        if self.change > self.tolerance:
            return (
                f"the loss of a token changed by {self.change:.3g} nats with the text behind it, at position "
                f"{self.position} of a row, and {self.tolerance:.3g} is allowed: it looks ahead"
            )
        if self.profit - _BEYOND_DOUBT * self.profit_error > _LEAST_PROFIT:
            return f"it gains {self.profit:.2g} nats a token from the text behind it: it looks ahead"
        if (most := self.profit + _DOUBT * self.profit_error) > self.most_profit:
            return (
                f"its losses change so much with the text behind them that it may gain {most:.2g} nats a token, and "
                f"{self.most_profit:.2g} is allowed: it looks ahead, or draws numbers from another generator than "
                "torch's own"
            )
        return None


@dataclass(frozen=True)
class Questions:
    """What a replica is asked. `tokens` (questions, T+1) come in whole batches, each row in its place of the scoring.
    The other arrays (questions,) hold the position whose loss is compared, the token that stood behind it, the loss
    noted there, the weight of a question in the mean, and whether another text stands behind its position. `room` is
    that of a finding."""

    tokens: Tokens
    positions: Indices
    targets: Indices
    scored: Losses
    weights: Losses
    changed: npt.NDArray[np.bool_]
    room: float

    def finding(self, losses: Losses) -> CausalityFinding:
        """What the replica's `losses` (questions,) show."""
        gains = losses - self.scored
        sizes = np.abs(gains)
        noise = float(sizes[~self.changed].max(initial=0.0))
        if not self.changed.any():
            return CausalityFinding(0, noise, 0.0, 0)
        worst = int(np.where(self.changed, sizes, -1.0).argmax())
        weighted = gains * self.weights
        parts = weighted[self.changed]
        return CausalityFinding(
            rows=int(self.changed.sum()),
            noise=noise,
            change=float(sizes[worst]),
            position=int(self.positions[worst]),
            profit=float(parts.mean()),
            profit_error=_spread(parts) / len(parts) ** 0.5,
            noise_error=_spread(weighted[~self.changed]) / len(parts) ** 0.5,
            room=self.room,
        )


class _Drawn(NamedTuple):
    row: int
    position: int
    changed: bool
    weight: float


class Causality:
    """Notes the losses of the validation `rows` (T+1 wide) while they are scored, `batch` at a time, and draws the
    questions afterwards. `donors` are rows of the same width whose text stands behind the positions: other ones than
    `rows`, lest they tell what is asked elsewhere. `has_bytes` (vocabulary,) says which tokens count in a score."""

    def __init__(
        self, rows: Tokens, donors: Tokens, has_bytes: npt.NDArray[np.bool_], batch: int, random: np.random.Generator
    ) -> None:
        self._rows = rows
        self._donors = donors if len(donors) > 1 else rows
        self._has_bytes = has_bytes
        self._batch = batch
        self._random = random
        self._losses = np.zeros((len(rows), rows.shape[1] - 1))

    def note(self, first: int, losses: Losses) -> None:
        """The losses (positions,) of whole rows from the row `first` on."""
        by_row = losses.reshape(-1, self._losses.shape[1])
        self._losses[first : first + len(by_row)] = by_row

    @cached_property
    def _better(self) -> Losses:
        """How much better each token was predicted than by the pairs of tokens alone; 0 where it was not."""
        better = np.maximum(0.0, pair_losses(self._rows) - self._losses)
        return np.where(self._has_bytes[self._rows[:, 1:]], better, 0.0)

    def questions(self, count: int) -> Questions:
        """About `count` questions: whole batches, with as many of every place in a batch. Those of a row come in the
        order of their positions, so that none shows what a later one asks for."""
        each = max(1, round(count / self._batch))
        places = [self._drawn(place, each) for place in range(self._batch)]
        drawn = [question for batch in zip(*places, strict=False) for question in batch]
        rows, positions, changed = (np.array([getattr(one, name) for one in drawn]) for name in _Drawn._fields[:3])
        return Questions(
            tokens=self._asked(rows, positions, changed),
            positions=positions,
            targets=self._rows[rows, positions + 1].astype(np.int64),
            scored=self._losses[rows, positions],
            weights=np.array([one.weight for one in drawn]),
            changed=changed,
            room=float(self._better.mean()),
        )

    def _drawn(self, place: int, count: int) -> list[_Drawn]:
        """At most `count` questions about the rows that are scored at a place of a batch; those that repeat a row as it
        was come last, since they show all of it."""
        rows = np.arange(place, len(self._rows), self._batch)
        last = self._losses.shape[1] - 1  # its token stands at the end, with nothing behind it
        better = self._better[rows, :last].reshape(-1)
        counts = self._has_bytes[self._rows[rows, 1 : last + 1]].reshape(-1)
        chances = np.full(len(better), 1.0 / len(better))
        if better.any():
            chances = (chances + better / better.sum()) / 2
        picked = self._random.choice(len(better), min(count, len(better)), replace=False, p=chances)
        changed = self._random.random(len(picked)) >= 1 / _UNCHANGED_SHARE
        drawn = [
            _Drawn(int(rows[at // last]), int(at % last), bool(new), float(counts[at] / (len(better) * chances[at])))
            for at, new in zip(picked, changed, strict=True)
        ]
        return sorted(drawn, key=lambda one: (not one.changed, one.position))

    def _asked(self, rows: Indices, positions: Indices, changed: npt.NDArray[np.bool_]) -> Tokens:
        """Each row up to its position, and from there on, where it is changed, a donor that goes on differently."""
        behind = positions + 1
        donors = self._random.integers(0, len(self._donors), len(rows))
        for _ in range(20):
            alike = self._donors[donors, behind] == self._rows[rows, behind]
            if not alike.any():
                break
            donors[alike] = self._random.integers(0, len(self._donors), int(alike.sum()))
        swapped = (np.arange(self._rows.shape[1]) >= behind[:, None]) & changed[:, None]
        return np.where(swapped, self._donors[donors], self._rows[rows])


def _spread(values: Losses) -> float:
    """The standard deviation; 0 for fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def pair_losses(rows: Tokens) -> Losses:
    """What each token but a row's first costs in nats (rows, T) under counts of the pairs of tokens in all other
    places, backed by counts of the single tokens: a Dirichlet-smoothed bigram (MacKay and Peto 1995)."""
    before, after = rows[:, :-1].reshape(-1).astype(np.int64), rows[:, 1:].reshape(-1).astype(np.int64)
    vocab = int(rows.max()) + 1
    singles, firsts = np.bincount(after, minlength=vocab), np.bincount(before, minlength=vocab)
    _, which, counts = np.unique(before * vocab + after, return_inverse=True, return_counts=True)
    single = singles[after] / (len(after) + vocab)  # its own place is left out, and one is added for every token
    chances = (counts[which] - 1 + _PAIR_WEIGHT * single) / (firsts[before] - 1 + _PAIR_WEIGHT)
    return np.asarray(-np.log(chances).reshape(len(rows), -1), dtype=np.float64)
