"""Trusted scoring: the candidate answers with logits, the cross entropy and the bits per byte are computed here.

Promises: non-finite logits are refused, and normalisation holds by construction. What a model does with the tokens it
sees is examined in `causality` for the scores that matter, and once more in a `replica`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from trainer import linux
from trainer.causality import Causality, Finding
from trainer.dialogue import Answer, Buffers, Dialogue, Unscorable
from trainer.rows import ScoringRows
from trainer.wire import Channel, Message, Word

EVALUATOR = "logits-2"
_CHUNK_VALUES = 2**18

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Score:
    """Nats over the bytes they predict."""

    nats: float
    bytes: int

    @property
    def bpb(self) -> float:
        """Bits per byte."""
        return self.nats / (math.log(2) * self.bytes)


@dataclass(frozen=True)
class Plan:
    """How many rows are scored, asked again at most, and scored held out; the memory file that keeps the weights for a
    replica, if there may be one; who, seeing the first score, says how many are asked again, or None: it ends; and how
    many rows of the unseen slice are scored last."""

    val: int
    again: int
    heldout: int
    weights_fd: int | None
    closer: Callable[[float], int | None]
    unseen: int = 0


class _Part(Enum):
    SAVE = 0
    VAL = 1
    AGAIN = 2
    HELDOUT = 3
    UNSEEN = 4


class Scoring:
    """One candidate's examination, driven by its answers. The weights are kept, and closed to it, before its first
    question: later they could hold what it was asked.

    Afterwards: `val`, `heldout` and `unseen`, None where it did not come to that; `finding` of the rows asked again,
    `causality` for others to compare with, and `saved`, the name of the model whose weights were written down.
    """

    def __init__(self, channel: Channel, buffers: Buffers, rows: ScoringRows, plan: Plan) -> None:
        self._dialogue = Dialogue(channel, buffers)
        self._token_bytes = rows.token_bytes
        self._plan = plan
        val = rows.val[: plan.val]
        self.causality = Causality(val, plan.again, np.random.default_rng())
        self._slices = {
            _Part.VAL: val,
            _Part.HELDOUT: rows.heldout[: plan.heldout],
            _Part.UNSEEN: rows.unseen[: plan.unseen],
        }
        self._left: list[_Part] = []
        self._part = _Part.SAVE
        self._scores: dict[_Part, Score] = {}
        self._nats, self._bytes = 0.0, 0
        self.finding: Finding | None = None
        self.saved: str | None = None
        threads = max(1, min(8, (os.cpu_count() or 1) - 1))
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def val(self) -> Score | None:
        """The score on the validation rows, once known."""
        return self._scores.get(_Part.VAL)

    @property
    def heldout(self) -> Score | None:
        """The score on the held-out rows, if they were asked for."""
        return self._scores.get(_Part.HELDOUT)

    @property
    def unseen(self) -> Score | None:
        """The score on the unseen rows, if they were asked for."""
        return self._scores.get(_Part.UNSEEN)

    @property
    def share(self) -> float:
        """How far the current part is, 0..1."""
        return self._dialogue.share

    def begin(self, *, half: bool) -> None:
        """Ask for the weights, or for the first batches."""
        self._dialogue.half = half
        if self._plan.weights_fd is None:
            self._ask(_Part.VAL)
        else:
            self._dialogue.channel.send(Message(Word.SAVE))

    def served(self, message: Message) -> bool:
        """Take an answer; True when all is scored and the candidate was told. Raises Unscorable."""
        if self._part is _Part.SAVE and self._plan.weights_fd is not None and message.word is Word.SAVED:
            self._close_weights(self._plan.weights_fd)
            self.saved = message.text
            self._ask(_Part.VAL)
            return False
        self._take(self._dialogue.answered(message))
        return self._part_is_done() if self._dialogue.over else False

    def close(self) -> None:
        """Release the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _ask(self, part: _Part) -> None:
        self._part = part
        self._dialogue.ask(self._slices[part])

    def _close_weights(self, fd: int) -> None:
        try:
            linux.freeze_memory(fd)
        except OSError as error:
            raise Unscorable(f"it meddled with the file of its weights: {error.strerror}") from error

    def _take(self, answer: Answer) -> None:
        if self._part is _Part.AGAIN:
            self.causality.compare(answer.first, answer.logits, len(answer.rows))
            return
        targets = answer.rows[:, 1:].reshape(-1)
        losses = nats(answer.logits, targets, self._pool)
        if self._part is _Part.VAL:
            self.causality.remember(answer.first, answer.logits, len(answer.rows))
        weights = self._token_bytes[targets]
        self._nats += float(losses[weights > 0].sum())
        self._bytes += int(weights.sum())

    def _part_is_done(self) -> bool:
        if self._part is _Part.AGAIN:
            self.finding = self.causality.finding()
            if self.finding.fault is not None:
                raise Unscorable(self.finding.fault)
        else:
            self._scores[self._part] = score = Score(self._nats, self._bytes)
            self._nats, self._bytes = 0.0, 0
            if self._part is _Part.VAL:
                self._look_closer(self._plan.closer(score.bpb))
        return self._go_on()

    def _look_closer(self, questions: int | None) -> None:
        if questions is None:
            return
        self.causality.ask_only(questions)
        self._slices[_Part.AGAIN] = self.causality.tokens
        self._left = [part for part in (_Part.AGAIN, _Part.HELDOUT, _Part.UNSEEN) if len(self._slices[part])]

    def _go_on(self) -> bool:
        if not self._left:
            self._dialogue.channel.send(Message(Word.SCORED, x=self._scores[_Part.VAL].bpb))
            return True
        self._ask(self._left.pop(0))
        return False


def nats(
    logits: npt.NDArray[np.floating], targets: npt.NDArray[np.integer], pool: ThreadPoolExecutor | None = None
) -> npt.NDArray[np.float64]:
    """Cross entropy of each position; raises Unscorable if a logit is not finite."""
    step = max(1, _CHUNK_VALUES // logits.shape[1])
    pieces = [(logits[at : at + step], targets[at : at + step]) for at in range(0, len(targets), step)]
    losses = pool.map(_nats_of_piece, pieces) if pool is not None else map(_nats_of_piece, pieces)
    return np.concatenate(list(losses)) if pieces else np.zeros(0)


def _nats_of_piece(
    piece: tuple[npt.NDArray[np.floating], npt.NDArray[np.integer]],
) -> npt.NDArray[np.float64]:
    logits, targets = piece
    values: Floats = logits.astype(np.float32)
    largest = values.max(axis=1)
    if not (np.isfinite(largest).all() and np.isfinite(values.min())):
        raise Unscorable("the logits are not all finite")
    picked = values[np.arange(len(targets)), targets]
    np.subtract(values, largest[:, None], out=values)
    np.exp(values, out=values)
    losses: npt.NDArray[np.float64] = np.log(values.sum(axis=1).astype(np.float64)) + largest - picked
    return losses
