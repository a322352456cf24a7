"""Sends rows of tokens to a candidate's process and receives its logits through shared memory.

Promises: an answer to no question is refused; no call waits for a message (the caller's loop has the deadline). Two
batches are in flight so that both sides work at the same time. The caller may ask for one, because a candidate can read
all batches in flight. The logits stay in shared memory: a reader reads each of them once, into memory of its own.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer.candidate.protocol import BUFFERS, Channel, ChannelMessage, Layout, MessageType
from trainer.sandbox import syscalls
from trainer.scoring.cross_entropy import Unscorable
from trainer.scoring.rows import Tokens


class Buffers:
    """The two memory files that are shared with the candidate, for inputs and for logits."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.inputs_fd = syscalls.sealed_memory("inputs", BUFFERS * layout.input_bytes)
        self.logits_fd = syscalls.sealed_memory("logits", BUFFERS * layout.logits_bytes)
        self._inputs = mmap.mmap(self.inputs_fd, BUFFERS * layout.input_bytes)
        self._logits = np.frombuffer(mmap.mmap(self.logits_fd, BUFFERS * layout.logits_bytes), dtype=np.uint8)

    def write_inputs(self, buffer: int, inputs: Tokens) -> None:
        """Write tokens (rows, T) for the candidate, padded to a whole batch: with one shape it compiles only once."""
        offset = buffer * self.layout.input_bytes
        raw = inputs.astype(np.int32).tobytes().ljust(self.layout.input_bytes, b"\0")
        self._inputs[offset : offset + len(raw)] = raw

    def logits(self, buffer: int, positions: int, itemsize: int) -> npt.NDArray[np.floating]:
        """Return the shared memory of logits (positions, vocabulary) with 2 or 4 bytes each.

        The candidate can change it between two reads.
        """
        offset = buffer * self.layout.logits_bytes
        raw = self._logits[offset : offset + positions * self.layout.vocab * itemsize]
        shared: npt.NDArray[np.floating] = raw.view(np.float16 if itemsize == 2 else np.float32)
        return shared.reshape(positions, self.layout.vocab)

    def close(self) -> None:
        """Release the shared memory. Logits that somebody still holds keep theirs."""
        self._inputs.close()
        self._logits = np.zeros(0, np.uint8)
        os.close(self.inputs_fd)
        os.close(self.logits_fd)


@dataclass(frozen=True)
class LogitsAnswer:
    """Logits (rows * T, vocabulary) of `rows` (rows, T+1), which begin at the index `first` of all rows asked.

    The logits lie in the shared memory of a buffer, which the candidate may change at any time.
    """

    buffer: int
    first: int
    rows: Tokens
    logits: npt.NDArray[np.floating]


class LogitsExchange:
    """Call `ask` once, then `answered` and `proceed` for each message until `over`.

    `half` asks for half precision, for logits that leave a GPU. Half precision biases a loss by 6e-6 nats.
    """

    def __init__(self, channel: Channel, buffers: Buffers) -> None:
        self.channel = channel
        self.half = False
        self._buffers = buffers
        self._open: list[tuple[int, Tokens] | None] = [None] * BUFFERS
        self._waiting: Iterator[tuple[int, Tokens]] = iter(())
        self._done_rows = self._all_rows = 0

    def ask(self, rows: Tokens, at_once: int = BUFFERS) -> None:
        """Ask about rows (rows, T+1), with `at_once` batches in flight, and send the first ones."""
        self._done_rows, self._all_rows = 0, len(rows)
        size = self._buffers.layout.rows
        self._waiting = ((at, rows[at : at + size]) for at in range(0, len(rows), size))
        for buffer in range(at_once):
            self._ask(buffer)

    def answered(self, message: ChannelMessage) -> LogitsAnswer:
        """Return the answer in a message. Raise Unscorable if it answers no question."""
        buffer, itemsize = message.number, int(message.x) if message.x in (2.0, 4.0) else 0
        asked = self._open[buffer] if message.word is MessageType.SERVED and buffer < BUFFERS else None
        if asked is None or not itemsize:
            raise Unscorable("the candidate answered something that it was not asked")
        first, rows = asked
        return LogitsAnswer(
            buffer, first, rows, self._buffers.logits(buffer, len(rows) * (rows.shape[1] - 1), itemsize)
        )

    def proceed(self, answer: LogitsAnswer) -> None:
        """Send the next batch through the buffer of an answer whose logits have been read."""
        self._open[answer.buffer] = None
        self._done_rows += len(answer.rows)
        self._ask(answer.buffer)

    @property
    def over(self) -> bool:
        """True when no batch is in flight any more."""
        return not any(waits is not None for waits in self._open)

    @property
    def share(self) -> float:
        """The share of the rows that is answered, 0..1."""
        return min(1.0, self._done_rows / max(1, self._all_rows))

    def _ask(self, buffer: int) -> None:
        asked = next(self._waiting, None)
        if asked is None:
            return
        self._open[buffer] = asked
        self._buffers.write_inputs(buffer, asked[1][:, :-1])
        self.channel.send(ChannelMessage(MessageType.SCORE, number=buffer, x=2.0 if self.half else 4.0))
