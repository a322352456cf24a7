"""What the trainer and a candidate's process say to each other: fixed-size messages and the shape of shared buffers.

Promises: nothing here parses more than one fixed struct, so a hostile peer can send wrong numbers but no code; and a
message whose numbers are not finite, or out of the bounds of its word, is no message. Standard library only, because
the candidate's start imports it. Does not cover whether the numbers are true.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum

from trainer.candidate.untrusted_numbers import within

_STRUCT = struct.Struct("<B3xIdd104s")
_TEXT_BYTES = 104
BUFFERS = 2
_BUFFER_BYTES = 16 * 2**20
_FEWEST_ROWS = 4


class MessageType(IntEnum):
    """The kinds of message. Up to REHEARSED the candidate's process speaks, from SCORE on the trainer."""

    STARTED = 1
    IMPORTED = 2
    FIRST_BATCH = 3
    WARM = 4
    PROGRESS = 5
    READY = 6
    SERVED = 7
    FAULT = 8
    SAVED = 9
    REHEARSED = 10
    SCORE = 32
    SCORED = 33
    SAVE = 34


@dataclass(frozen=True)
class _Bounds:
    """The largest `number` of a word, and the least and the most that `x` and `y` may be."""

    number: int = 0
    x: tuple[float, float] = (0, 0)
    y: tuple[float, float] = (0, 0)


_LARGEST_NUMBER = 2**32 - 1
_MOST_TOKENS = 1e15
_MOST_MIB, _MOST_CALIBRATION_S = 2**30, 1e6
_MOST_PARAMETERS, _MOST_BYTES = 1e15, 1e18
_LARGEST_FLOAT = sys.float_info.max
_BOUNDS = {
    MessageType.IMPORTED: _Bounds(2**20, (0, _MOST_MIB), (0, _MOST_CALIBRATION_S)),
    MessageType.WARM: _Bounds(_LARGEST_NUMBER),
    MessageType.PROGRESS: _Bounds(_LARGEST_NUMBER, (0, 1)),
    MessageType.READY: _Bounds(_LARGEST_NUMBER, (0, _MOST_TOKENS)),
    MessageType.SERVED: _Bounds(BUFFERS - 1, (2, 4)),
    MessageType.REHEARSED: _Bounds(_LARGEST_NUMBER, (0, _MOST_PARAMETERS), (0, _MOST_BYTES)),
    MessageType.SCORE: _Bounds(BUFFERS - 1, (2, 4)),
    MessageType.SCORED: _Bounds(0, (-_LARGEST_FLOAT, _LARGEST_FLOAT)),
}


class ChannelFault(Exception):
    """The peer sent something that is not a message; the text says what, as a sentence about the peer."""


@dataclass(frozen=True)
class ChannelMessage:
    """One message; which fields count depends on the word. `text` is cut to 104 bytes of UTF-8."""

    word: MessageType
    number: int = 0
    x: float = 0.0
    y: float = 0.0
    text: str = ""

    def pack(self) -> bytes:
        """The 128 bytes that travel."""
        text = self.text.encode()[:_TEXT_BYTES]
        return _STRUCT.pack(self.word, self.number, self.x, self.y, text)

    @classmethod
    def unpack(cls, raw: bytes) -> ChannelMessage:
        """Raises ChannelFault for bytes of another size, an unknown word, or a number that does not fit its word."""
        if len(raw) != _STRUCT.size:
            raise ChannelFault(f"it sent a message of {len(raw)} bytes; a message has {_STRUCT.size}")
        word, number, x, y, text = _STRUCT.unpack(raw)
        if word not in MessageType._value2member_map_:
            raise ChannelFault(f"it sent a message with the unknown word {word}")
        bounds = _BOUNDS.get(MessageType(word), _Bounds())
        if number > bounds.number or within(x, *bounds.x) is None or within(y, *bounds.y) is None:
            raise ChannelFault(f"it sent {MessageType(word).name} with numbers that do not fit: {number}, {x:g}, {y:g}")
        return cls(MessageType(word), number, x, y, text.rstrip(b"\0").decode(errors="replace"))


class Channel:
    """One end of the control socket. Reading returns None when the peer is gone."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    @classmethod
    def pair(cls) -> tuple[socket.socket, socket.socket]:
        """Two connected ends that keep message boundaries."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """The end inherited as a file descriptor."""
        return cls(socket.socket(fileno=fd))

    def send(self, message: ChannelMessage) -> None:
        """Send one message; OSError if the peer is gone."""
        self.end.send(message.pack())

    def receive(self) -> ChannelMessage | None:
        """The next message, or None at the end. A non-blocking end raises BlockingIOError when nothing waits."""
        raw = self.end.recv(2 * _STRUCT.size)
        return ChannelMessage.unpack(raw) if raw else None


@dataclass(frozen=True)
class Layout:
    """Two input buffers of int32 tokens and two logits buffers, sized for float32, in one memfd each."""

    rows: int
    context: int
    vocab: int

    @classmethod
    def fitting(cls, context: int, vocab: int, rows: int) -> Layout:
        """For scoring `rows` rows: as many at once as keep one float32 buffer within 16 MiB, but at least four.

        Larger batches were not faster on a CPU; on a GPU four rows of the largest profile are 256 MiB.
        """
        return cls(min(rows, max(_FEWEST_ROWS, _BUFFER_BYTES // (context * vocab * 4))), context, vocab)

    @property
    def input_bytes(self) -> int:
        """Size of one input buffer."""
        return self.rows * self.context * 4

    @property
    def logits_bytes(self) -> int:
        """Size of one logits buffer."""
        return self.rows * self.context * self.vocab * 4
