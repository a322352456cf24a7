"""The protocol between the trainer and a candidate's process: fixed-size messages and the shape of shared buffers.

Promises: only one fixed struct is parsed, so a hostile peer can send wrong numbers but no code. A message is refused if
its numbers are not finite or out of the bounds of its type. Standard library only, because the candidate's start
imports this module. Does not cover whether the numbers are true. Numbers that a candidate prints pass `within` as well.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum

_STRUCT = struct.Struct("<B3xIdd104s")
_TEXT_BYTES = 104
BUFFERS = 2
_BUFFER_BYTES = 16 * 2**20
_FEWEST_ROWS = 4


class MessageType(IntEnum):
    """The types of messages. The candidate's process sends those up to VERDICT, the trainer those from SCORE on."""

    STARTED = 1
    IMPORTED = 2
    FIRST_BATCH = 3
    WARM = 4
    PROGRESS = 5
    READY = 6
    SERVED = 7
    FAULT = 8
    SAVED = 9
    VERDICT = 10
    NO_GPU = 11
    SCORE = 32
    SCORED = 33
    SAVE = 34


@dataclass(frozen=True)
class _Bounds:
    """The bounds of a message type: the largest `number`, and the smallest and largest `x` and `y`."""

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
    MessageType.VERDICT: _Bounds(_LARGEST_NUMBER, (0, _MOST_PARAMETERS), (0, _MOST_BYTES)),
    MessageType.SCORE: _Bounds(BUFFERS - 1, (2, 4)),
    MessageType.SCORED: _Bounds(0, (-_LARGEST_FLOAT, _LARGEST_FLOAT)),
}


def within(value: float | str | bytes, least: float, most: float) -> float | None:
    """Return the number as a float if `least <= number <= most`, otherwise None. Text is parsed like a Python float.

    The bounds are finite, so NaN and infinities give None.
    """
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if least <= number <= most else None


class ChannelFault(Exception):
    """Raised when the peer sends bytes that are no message. The text is a sentence about the peer."""


@dataclass(frozen=True)
class ChannelMessage:
    """One message. Its type, `word`, determines the meaning of its fields. `text` is cut to 104 bytes of UTF-8."""

    word: MessageType
    number: int = 0
    x: float = 0.0
    y: float = 0.0
    text: str = ""

    def pack(self) -> bytes:
        """Return the 128 bytes of the message."""
        text = self.text.encode()[:_TEXT_BYTES]
        return _STRUCT.pack(self.word, self.number, self.x, self.y, text)

    @classmethod
    def unpack(cls, raw: bytes) -> ChannelMessage:
        """Parse a message. Raise ChannelFault for another size, an unknown type, or a number out of its bounds."""
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
    """One end of the control socket."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end

    @classmethod
    def pair(cls) -> tuple[socket.socket, socket.socket]:
        """Return two connected ends that keep the boundaries of messages."""
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """Return the end of an inherited file descriptor."""
        return cls(socket.socket(fileno=fd))

    def send(self, message: ChannelMessage) -> None:
        """Send one message. Raise OSError if the peer is gone."""
        self.end.send(message.pack())

    def receive(self) -> ChannelMessage | None:
        """Return the next message, or None if the peer is gone.

        Raise ChannelFault for other bytes, and BlockingIOError if a non-blocking end has no message.
        """
        raw = self.end.recv(2 * _STRUCT.size)
        return ChannelMessage.unpack(raw) if raw else None


@dataclass(frozen=True)
class Layout:
    """The shape of the shared buffers: two of int32 inputs and two of float32 logits, each pair in one memory file."""

    rows: int
    context: int
    vocab: int

    @classmethod
    def fitting(cls, context: int, vocab: int, rows: int) -> Layout:
        """Return the layout for scoring `rows` rows: as many at once as fit into 16 MiB of logits, but at least four.

        Larger batches were not faster on a CPU. On a GPU, four rows of the largest profile take 256 MiB.
        """
        return cls(min(rows, max(_FEWEST_ROWS, _BUFFER_BYTES // (context * vocab * 4))), context, vocab)

    @property
    def input_bytes(self) -> int:
        """The size of one input buffer."""
        return self.rows * self.context * 4

    @property
    def logits_bytes(self) -> int:
        """The size of one logits buffer."""
        return self.rows * self.context * self.vocab * 4
