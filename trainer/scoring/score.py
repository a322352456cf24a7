"""Trusted scoring: the candidate answers with logits; cross entropy and bits per byte are computed here.

Promises: logits that are not finite are refused, and probabilities are normalised by construction. For every score that
may count, a `replica` tests whether the model reads only the past.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

import numpy as np

from trainer.candidate.protocol import Channel, ChannelMessage, MessageType
from trainer.sandbox import syscalls
from trainer.scoring.causality import Causality
from trainer.scoring.cross_entropy import Unscorable, nats
from trainer.scoring.exchange import Buffers, LogitsAnswer, LogitsExchange
from trainer.scoring.rows import ScoringRows

EVALUATOR = "logits-3"


@dataclass(frozen=True)
class Score:
    """The sum of losses in nats, and the number of bytes that their tokens hold."""

    nats: float
    bytes: int

    @property
    def bpb(self) -> float:
        """The bits per byte."""
        return self.nats / (math.log(2) * self.bytes)


@dataclass(frozen=True)
class ScorePlan:
    """The parts of a scoring.

    `val`, `heldout` and `unseen` are numbers of rows. `weights_fd` is the memory file that keeps the weights for a
    replica, or None without one. `closer` takes the bits per byte on the validation rows and returns the number of
    questions to a replica, or None for a score that cannot count, which then ends the scoring.
    """

    val: int
    heldout: int
    weights_fd: int | None
    closer: Callable[[float], int | None]
    unseen: int = 0


class _Part(Enum):
    SAVE = 0
    VAL = 1
    HELDOUT = 2
    UNSEEN = 3


class Scoring:
    """The examination of one candidate.

    The weights are saved and closed to the candidate before its first question; later they could contain the questions.
    The results are `val`, `heldout` and `unseen` (None if not computed), `asked` (the number of questions to a replica,
    or None), `causality` (which draws those questions) and `saved` (the name of the model whose weights were saved).
    """

    def __init__(self, channel: Channel, buffers: Buffers, rows: ScoringRows, plan: ScorePlan) -> None:
        self._exchange = LogitsExchange(channel, buffers)
        self._token_bytes = rows.token_bytes
        self._plan = plan
        val = rows.val[: plan.val]
        batch = min(buffers.layout.rows, len(val))
        self.causality = Causality(val, rows.heldout, rows.token_bytes > 0, batch, np.random.default_rng())
        self._slices = {
            _Part.VAL: val,
            _Part.HELDOUT: rows.heldout[: plan.heldout],
            _Part.UNSEEN: rows.unseen[: plan.unseen],
        }
        self._left: list[_Part] = []
        self._part = _Part.SAVE
        self._scores: dict[_Part, Score] = {}
        self._nats, self._bytes = 0.0, 0
        self.asked: int | None = None
        self.saved: str | None = None
        threads = max(1, min(8, (os.cpu_count() or 1) - 1))
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def val(self) -> Score | None:
        """The score on the validation rows, or None until it is known."""
        return self._scores.get(_Part.VAL)

    @property
    def heldout(self) -> Score | None:
        """The score on the held-out rows, or None if they were not scored."""
        return self._scores.get(_Part.HELDOUT)

    @property
    def unseen(self) -> Score | None:
        """The score on the unseen rows, or None if they were not scored."""
        return self._scores.get(_Part.UNSEEN)

    @property
    def share(self) -> float:
        """The progress of the current part, 0..1."""
        return self._exchange.share

    @property
    def awaits_weights(self) -> bool:
        """True until the weights are written."""
        return self._part is _Part.SAVE and self._plan.weights_fd is not None

    def begin(self, *, half: bool) -> None:
        """Ask for the weights, or for the first batches."""
        self._exchange.half = half
        if self._plan.weights_fd is None:
            self._ask(_Part.VAL)
        else:
            self._exchange.channel.send(ChannelMessage(MessageType.SAVE))

    def served(self, message: ChannelMessage) -> bool:
        """Take an answer. After the last one, send the score to the candidate and return True. Raise Unscorable."""
        if self._part is _Part.SAVE and self._plan.weights_fd is not None and message.word is MessageType.SAVED:
            self._close_weights(self._plan.weights_fd)
            self.saved = message.text
            self._ask(_Part.VAL)
            return False
        answer = self._exchange.answered(message)
        self._take(answer)
        self._exchange.proceed(answer)
        return self._part_is_done() if self._exchange.over else False

    def close(self) -> None:
        """Release the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _ask(self, part: _Part) -> None:
        self._part = part
        self._exchange.ask(self._slices[part])

    def _close_weights(self, fd: int) -> None:
        try:
            syscalls.freeze_memory(fd)
        except OSError as error:
            raise Unscorable(f"it meddled with the file of its weights: {error.strerror}") from error

    def _take(self, answer: LogitsAnswer) -> None:
        targets = answer.rows[:, 1:].reshape(-1)
        losses = nats(answer.logits, targets, self._pool)
        if self._part is _Part.VAL:
            self.causality.note(answer.first, losses)
        weights = self._token_bytes[targets]
        self._nats += float(losses[weights > 0].sum())
        self._bytes += int(weights.sum())

    def _part_is_done(self) -> bool:
        """Record the score of a part. Ask for the next part, or send the score to the candidate and return True."""
        self._scores[self._part] = score = Score(self._nats, self._bytes)
        self._nats, self._bytes = 0.0, 0
        if self._part is _Part.VAL:
            self.asked = self._plan.closer(score.bpb)
            others = () if self.asked is None else (_Part.HELDOUT, _Part.UNSEEN)
            self._left = [part for part in others if len(self._slices[part])]
        if self._left:
            self._ask(self._left.pop(0))
            return False
        self._exchange.channel.send(ChannelMessage(MessageType.SCORED, x=self._scores[_Part.VAL].bpb))
        return True
