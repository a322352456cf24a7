"""Trusted scoring: the candidate answers with logits, the cross entropy and the bits per byte are computed here.

Promises: logits are copied to private memory before they are read, non-finite ones are refused, normalisation holds by
construction, and no message is waited for (the caller's loop has the deadline). What a model does with the tokens it
sees is examined in `causality`, for the scores that matter.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from trainer import linux
from trainer.causality import Causality, Finding
from trainer.rows import ScoringRows, Tokens
from trainer.wire import BUFFERS, Channel, Layout, Message, Word

EVALUATOR = "logits-2"
_CHUNK_VALUES = 2**18

Floats = npt.NDArray[np.float32]


class Unscorable(Exception):
    """The logits cannot be scored; the message is a sentence for a person."""


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
class Counts:
    """How many rows are scored, asked again, and scored held out."""

    val: int
    again: int
    heldout: int


class _Part(Enum):
    VAL = 0
    AGAIN = 1
    HELDOUT = 2


class Buffers:
    """The two memory files shared with the candidate, and room for a private copy."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.inputs_fd = linux.sealed_memory("inputs", BUFFERS * layout.input_bytes)
        self.logits_fd = linux.sealed_memory("logits", BUFFERS * layout.logits_bytes)
        self._inputs = mmap.mmap(self.inputs_fd, BUFFERS * layout.input_bytes)
        self._logits = mmap.mmap(self.logits_fd, BUFFERS * layout.logits_bytes)

    def write_inputs(self, buffer: int, inputs: Tokens) -> None:
        """Lay out the tokens that the candidate will read, filled up to a whole batch: one shape, one compilation."""
        offset = buffer * self.layout.input_bytes
        raw = inputs.astype(np.int32).tobytes().ljust(self.layout.input_bytes, b"\0")
        self._inputs[offset : offset + len(raw)] = raw

    def copy_logits(self, buffer: int, positions: int, itemsize: int) -> npt.NDArray[np.floating]:
        """A private copy: reading shared memory twice would let the candidate change it in between."""
        offset = buffer * self.layout.logits_bytes
        raw = self._logits[offset : offset + positions * self.layout.vocab * itemsize]
        kind = np.dtype(np.float16 if itemsize == 2 else np.float32)
        private: npt.NDArray[np.floating] = np.frombuffer(raw, dtype=kind).reshape(positions, self.layout.vocab)
        return private

    def close(self) -> None:
        """Give the memory back."""
        self._inputs.close()
        self._logits.close()
        os.close(self.inputs_fd)
        os.close(self.logits_fd)


class Scoring:
    """One candidate's examination, driven by its answers. Two batches are always on the way, so both sides work.

    `wants_more` sees the validation score and says whether rows are asked again and the held-out ones scored as well.
    """

    def __init__(
        self,
        channel: Channel,
        buffers: Buffers,
        rows: ScoringRows,
        counts: Counts,
        wants_more: Callable[[float], bool],
    ) -> None:
        self._channel = channel
        self._buffers = buffers
        self._token_bytes = rows.token_bytes
        self._half = False
        self._done_rows = 0
        self._wants_more = wants_more
        val = rows.val[: counts.val]
        self._causality = Causality(val, counts.again, np.random.default_rng())
        self._slices = {
            _Part.VAL: val,
            _Part.AGAIN: self._causality.tokens,
            _Part.HELDOUT: rows.heldout[: counts.heldout],
        }
        self._part = _Part.VAL
        self._left = [part for part in (_Part.AGAIN, _Part.HELDOUT) if len(self._slices[part])]
        self._scores: dict[_Part, Score] = {}
        self._open: list[tuple[int, Tokens] | None] = [None] * BUFFERS
        self._waiting: Iterator[tuple[int, Tokens]] = iter(())
        self._nats, self._bytes = 0.0, 0
        self.finding: Finding | None = None
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
    def share(self) -> float:
        """How far the current slice is, 0..1."""
        return min(1.0, self._done_rows / max(1, len(self._slices[self._part])))

    def begin(self, *, half: bool) -> None:
        """Ask for the first batches. Half precision is for logits that leave a card; it biases by 6e-6 nats."""
        self._half = half
        self._begin(_Part.VAL)

    def served(self, message: Message) -> bool:
        """Take an answer; True when all is scored and the candidate was told. Raises Unscorable."""
        buffer, itemsize = message.number, int(message.x) if message.x in (2.0, 4.0) else 0
        if buffer >= BUFFERS or (asked := self._open[buffer]) is None or not itemsize:
            raise Unscorable("the candidate answered something that it was not asked")
        first, rows = asked
        targets = rows[:, 1:].reshape(-1)
        logits = self._buffers.copy_logits(buffer, len(targets), itemsize)
        self._open[buffer] = None
        self._ask(buffer)
        self._take(first, logits, targets, len(rows))
        return self._part_is_done() if not any(waits is not None for waits in self._open) else False

    def close(self) -> None:
        """Release the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _begin(self, part: _Part) -> None:
        self._part, self._done_rows = part, 0
        self._waiting = _batches(self._slices[part], self._buffers.layout.rows)
        for buffer in range(BUFFERS):
            self._ask(buffer)

    def _ask(self, buffer: int) -> None:
        asked = next(self._waiting, None)
        if asked is None:
            return
        self._open[buffer] = asked
        self._buffers.write_inputs(buffer, asked[1][:, :-1])
        self._channel.send(Message(Word.SCORE, number=buffer, x=2.0 if self._half else 4.0))

    def _take(self, first: int, logits: npt.NDArray[np.floating], targets: Tokens, rows: int) -> None:
        self._done_rows += rows
        if self._part is _Part.AGAIN:
            self._causality.compare(first, logits, rows)
            return
        losses = nats(logits, targets, self._pool)
        if self._part is _Part.VAL:
            self._causality.remember(first, logits, rows)
        weights = self._token_bytes[targets]
        self._nats += float(losses[weights > 0].sum())
        self._bytes += int(weights.sum())

    def _part_is_done(self) -> bool:
        if self._part is _Part.AGAIN:
            self.finding = self._causality.finding
            if self.finding.fault is not None:
                raise Unscorable(self.finding.fault)
        else:
            self._scores[self._part] = Score(self._nats, self._bytes)
            self._nats, self._bytes = 0.0, 0
        val = self._scores[_Part.VAL].bpb
        if self._left and self._wants_more(val):
            self._begin(self._left.pop(0))
            return False
        self._channel.send(Message(Word.SCORED, x=val))
        return True


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


def _batches(rows: Tokens, size: int) -> Iterator[tuple[int, Tokens]]:
    for at in range(0, len(rows), size):
        yield at, rows[at : at + size]
