"""Rows asked again, with another text behind a cut, among other neighbours, in another order: is the model causal?

A logit may depend on its row's tokens up to its position, and on nothing else. Promises: a finding is made of logits
that the trainer copied, for rows, cuts and positions that nobody could guess. A look-ahead of one token shows only just
before the cut, so a question examines one position of one row, and no two the same: `caught_share` says what that
finds, also where there are more questions than rows. Does not cover a process that remembers its earlier answers, or
recognises that it is asked again: a replica has nothing to remember.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.rows import Tokens

TOLERANCE = 0.05  # on logits; the same shapes on the same device gave the same bits
MOST_TOLERANCE = 0.5
_NOISE_FACTOR = 4.0
_POSITIONS = 4
_UNCHANGED_SHARE = 8  # one in so many is asked as it was
_CONFIDENCE = 0.99
_LEAST_LEAN, _ERRORS, _FEWEST_LEANS = 0.005, 6.0, 30  # fewer do not tell their own error

Logits = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Finding:
    """The largest changes of a logit: `noise` in rows asked again as they were, `change` before a cut, at `position`.

    `rows` counts the questions that go on differently at a cut. `lean` is how much the token behind a cut is preferred
    to the one in its place by a model that is shown it, on average and beyond doubt: small changes may all go one way.
    """

    rows: int
    noise: float
    change: float
    position: int
    lean: float = 0.0

    @property
    def tolerance(self) -> float:
        """What counts as the same: dropout that was left on is honest, so the model's own noise widens it, not far."""
        return min(MOST_TOLERANCE, max(TOLERANCE, _NOISE_FACTOR * self.noise))

    @property
    def caught_share(self) -> float:
        """The smallest share of positions at which a look-ahead is found 99 times in 100, however they are chosen."""
        return float(1 - (1 - _CONFIDENCE) ** (1 / self.rows)) if self.rows else 1.0

    @property
    def fault(self) -> str | None:
        """Why such a model cannot be scored, in a sentence; None for one that passes."""
        if self.noise > MOST_TOLERANCE:
            return (
                f"asked again for the same rows, its logits differ by {self.noise:.3g}, and {MOST_TOLERANCE:g} "
                "is allowed: they depend on its earlier calls, on the other rows of a batch, or on chance"
            )
        if self.change > self.tolerance:
            return (
                f"its logits at position {self.position} of a row changed by {self.change:.3g} with the tokens behind "
                f"it, and {self.tolerance:.3g} is allowed: it looks ahead"
            )
        if self.lean > _LEAST_LEAN:
            return (
                f"its logits lean by {self.lean:.2g} to the token behind them where they are shown it: it looks ahead"
            )
        return None


class Causality:
    """Remembers some logits while the validation rows are scored, then compares. `tokens` are the rows to ask again,
    T+1 wide like all others, in the order to ask them in: at most `count`, any first part of them as good a sample."""

    def __init__(self, rows: Tokens, count: int, random: np.random.Generator) -> None:
        context = rows.shape[1] - 1
        places = len(rows) * (context - 1)
        chosen, cuts = np.divmod(random.choice(places, min(count, places), replace=False), context - 1)
        self._cuts = cuts + 1
        firsts = np.arange(0, len(chosen), _UNCHANGED_SHARE)
        unchanged = firsts + random.integers(0, _UNCHANGED_SHARE, len(firsts))
        self._cuts[np.minimum(unchanged, len(chosen) - 1)] = context
        self._positions = random.integers(0, self._cuts[:, None], (len(chosen), _POSITIONS))
        self._positions[:, 0] = self._cuts - 1
        self.tokens = _swapped(rows, chosen, self._cuts, random)
        each = np.arange(len(chosen))
        self._differs = self.tokens[each, self._cuts] != rows[chosen, self._cuts]
        self._kept: list[Logits | None] = [None] * len(chosen)
        self._noise = self._change = 0.0
        self._position = 0
        self._tokens = rows[chosen, self._cuts], self.tokens[each, self._cuts]
        self._leans: list[float] = []
        self._questions = defaultdict[int, list[int]](list)
        for question, row in enumerate(chosen):
            self._questions[int(row)].append(question)

    def remember(self, first: int, logits: Logits, rows: int) -> None:
        """The logits of `rows` validation rows from the row `first` on, (rows * context, vocabulary)."""
        by_row = logits.reshape(rows, -1, logits.shape[1])
        for at in range(rows):
            for question in self._questions.get(first + at, ()):
                self._kept[question] = by_row[at, self._positions[question]].copy()

    def ask_only(self, count: int) -> None:
        """The first `count` questions, from now on; what was remembered for the others is let go."""
        self.tokens = self.tokens[:count]
        del self._kept[count:]

    def compare(self, first: int, logits: Logits, rows: int) -> None:
        """The same for `rows` of `tokens` from `first` on."""
        by_row = logits.reshape(rows, -1, logits.shape[1])
        for at in range(rows):
            kept, positions = self._kept[first + at], self._positions[first + at]
            assert kept is not None, "every validation row was scored before"
            difference = by_row[at, positions].astype(np.float32) - kept.astype(np.float32)
            changes = np.nan_to_num(np.abs(difference), nan=np.inf).max(axis=1)
            self._note(self._cuts[first + at] < by_row.shape[1], positions, changes)
            if self._differs[first + at] and np.isfinite(difference).all():
                there, instead = (tokens[first + at] for tokens in self._tokens)
                self._leans.append(float(difference[0, instead] - difference[0, there]))

    def _note(self, was_cut: bool, positions: npt.NDArray[np.integer], changes: npt.NDArray[np.float32]) -> None:
        worst = int(changes.argmax())
        if not was_cut:
            self._noise = max(self._noise, float(changes[worst]))
        elif changes[worst] > self._change:
            self._change, self._position = float(changes[worst]), int(positions[worst])

    def finding(self) -> Finding:
        """What came out, once all was compared; the next comparison begins anew."""
        rows = int(self._differs[: len(self.tokens)].sum())
        found = Finding(rows, self._noise, self._change, self._position, _beyond_doubt(self._leans))
        self._noise, self._change, self._position, self._leans = 0.0, 0.0, 0, []
        return found


def _beyond_doubt(leans: list[float]) -> float:
    """Their mean less six of its errors; 0 for what chance may do."""
    if len(leans) < _FEWEST_LEANS:
        return 0.0
    return max(0.0, float(np.mean(leans) - _ERRORS * np.std(leans, ddof=1) / np.sqrt(len(leans))))


def _swapped(
    rows: Tokens, chosen: npt.NDArray[np.integer], cuts: npt.NDArray[np.integer], random: np.random.Generator
) -> Tokens:
    """Each chosen row up to its cut, and from there on a row that goes on differently at once, where there is one."""
    donors = random.integers(0, len(rows), len(chosen))
    for _ in range(10):
        alike = rows[donors, cuts] == rows[chosen, cuts]
        if not alike.any():
            break
        donors[alike] = random.integers(0, len(rows), int(alike.sum()))
    width = rows.shape[1]
    behind = (np.arange(width) >= cuts[:, None]) & (cuts < width - 1)[:, None]
    return np.where(behind, rows[donors], rows[chosen])
