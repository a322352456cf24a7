"""Tests whether a score comes from the past of each row alone: draws the questions to a replica, judges the answers.

While the validation rows are scored, the trainer records the loss of every token. Then it draws positions at random,
keeps each row up to its position, appends other text, and asks a replica for the logits of the token that followed. A
model that reads only the past gives the same loss again. The difference is the model's gain from the future, in nats:
the profit of a look-ahead, however it is hidden, since nothing but these losses enters the score.

Promises: positions are drawn after the score, so no candidate can know them. Half of the draws choose tokens in
proportion to how much better they were predicted than by pairs of tokens alone, because a rare look-ahead must have its
profit there. No question reveals the answer to a later one. Does not cover a process that remembers its earlier
answers; therefore the replica is a fresh process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.scoring.rows import Tokens

TOLERANCE, MOST_TOLERANCE = 0.03, 0.25  # nats; bf16 rounds a logit near 10 by up to 0.03
MOST_PROFIT, EXACT_PROFIT = 0.01, 6e-4  # nats per token; the second where repeated rows gave identical answers
_LEAST_PROFIT = 1e-4
_NOISE_FACTOR = 4.0
_DOUBT, _BEYOND_DOUBT, _NOISE_DOUBT = 3.0, 5.0, 9.0  # standard errors
_UNCHANGED_SHARE = 8  # one question in 8 repeats its row unchanged
_CONFIDENCE = 0.99
_PAIR_WEIGHT = 5.0  # the weight of counts of single tokens, as a pseudo-count

Losses = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CausalityFinding:
    """The result of the questions. All losses are in nats.

    `noise` and `change` are the largest differences of a loss between candidate and replica: `noise` for unchanged
    rows, `change` for positions with another future, at `position`. `rows` counts the questions with another future.
    `profit` is a token's mean gain from its future and `profit_error` its standard error; `noise_error` is the standard
    error that the noise of unchanged rows alone explains. `room` is the mean by which tokens were predicted better than
    by pairs of tokens alone.
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
        """The allowed change of a single loss, for rounding and for the model's own noise up to a cap."""
        return min(MOST_TOLERANCE, max(TOLERANCE, _NOISE_FACTOR * self.noise))

    @property
    def most_profit(self) -> float:
        """The allowed mean gain of a token, for rounding and for the model's own noise, up to a cap.

        Rounding can look like a gain, because an FFT carries rounding errors from the future into the past.
        """
        return min(MOST_PROFIT, EXACT_PROFIT + _NOISE_DOUBT * self.noise_error)

    @property
    def smallest_caught(self) -> float:
        """The smallest profit, in nats per token, that is detected 99 times in 100, at whatever positions it arises.

        One draw meets a look-ahead with a probability of at least profit / room / 2, because half of the draws go to
        tokens with an advantage over pairs.
        """
        missed = (1 - _CONFIDENCE) ** (1 / self.rows) if self.rows else 0.0
        return float(2 * self.room * (1 - missed))

    @property
    def fault(self) -> str | None:
        """The reason why the model cannot be scored, or None if it passes."""
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
    """The questions to a replica.

    `tokens` (questions, T+1) come in whole batches, each row at the same place in its batch as during scoring. The
    other arrays (questions,) hold the compared position, the token that followed it, that token's recorded loss in
    nats, the question's weight in the mean, and whether the text after the position was changed. `room` is as in a
    finding.
    """

    tokens: Tokens
    positions: Indices
    targets: Indices
    scored: Losses
    weights: Losses
    changed: npt.NDArray[np.bool_]
    room: float

    def finding(self, losses: Losses) -> CausalityFinding:
        """Compare the replica's losses (questions,) in nats with the recorded ones."""
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
    """Records the losses of the validation rows while they are scored, and draws the questions afterwards.

    `rows` (rows, T+1) are scored `batch` at a time. `donors` (donors, T+1) provide the text after the positions; they
    are other texts than `rows`, so that they reveal no answer. `has_bytes` (vocabulary,) marks the tokens that count in
    a score.
    """

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
        """Record the losses (positions,) in nats of whole rows, beginning at row `first`."""
        by_row = losses.reshape(-1, self._losses.shape[1])
        self._losses[first : first + len(by_row)] = by_row

    @cached_property
    def _better(self) -> Losses:
        """The nats (rows, T) by which each token was predicted better than by pairs of tokens alone, at least 0."""
        better = np.maximum(0.0, pair_losses(self._rows) - self._losses)
        return np.where(self._has_bytes[self._rows[:, 1:]], better, 0.0)

    def questions(self, count: int) -> Questions:
        """Draw about `count` questions in whole batches, equally many for each place in a batch.

        The questions about one row come in the order of their positions, so that none reveals the answer to a later
        one.
        """
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
        """Draw at most `count` questions about the rows that are scored at one place of a batch.

        Unchanged rows come last, since they reveal everything.
        """
        rows = np.arange(place, len(self._rows), self._batch)
        last = self._losses.shape[1] - 1  # the last position is left out: no text follows its token
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
        """Return the rows to send (questions, T+1): unchanged, or with a donor's text after the position.

        A donor is drawn again, at most 20 times, if its next token is the same as the row's.
        """
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
    """Return the standard deviation, or 0 for fewer than two values."""
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def pair_losses(rows: Tokens) -> Losses:
    """Return the loss (rows, T) in nats of each token, except a row's first, under a bigram model of rows (rows, T+1).

    The model counts pairs of tokens at all other places, with Dirichlet smoothing by counts of single tokens (MacKay
    and Peto 1995).
    """
    before, after = rows[:, :-1].reshape(-1).astype(np.int64), rows[:, 1:].reshape(-1).astype(np.int64)
    vocab = int(rows.max()) + 1
    singles, firsts = np.bincount(after, minlength=vocab), np.bincount(before, minlength=vocab)
    _, which, counts = np.unique(before * vocab + after, return_inverse=True, return_counts=True)
    single = singles[after] / (len(after) + vocab)  # without the token's own place; one is added per token
    chances = (counts[which] - 1 + _PAIR_WEIGHT * single) / (firsts[before] - 1 + _PAIR_WEIGHT)
    return np.asarray(-np.log(chances).reshape(len(rows), -1), dtype=np.float64)
