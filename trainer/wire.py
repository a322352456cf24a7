"""What the trainer and a candidate's process say to each other: fixed-size messages and the shape of shared buffers.

Promises: nothing here parses more than one fixed struct, so a hostile peer can send wrong numbers but no code.
Standard library only, because the candidate's start imports it. Does not cover what the numbers mean.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

_STRUCT = struct.Struct("<B3xIdd104s")
_TEXT_BYTES = 104
BUFFERS = 2
_BUFFER_BYTES = 16 * 2**20
_FEWEST_ROWS = 4


class Word(IntEnum):
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


class ChannelFault(Exception):
    """The peer sent something that is not a message."""


@dataclass(frozen=True)
class Message:
    """One message; which fields count depends on the word. `text` is cut to 104 bytes of UTF-8."""

    word: Word
    number: int = 0
    x: float = 0.0
    y: float = 0.0
    text: str = ""

    def pack(self) -> bytes:
        """The 128 bytes that travel."""
        text = self.text.encode()[:_TEXT_BYTES]
        return _STRUCT.pack(self.word, self.number, self.x, self.y, text)

    @classmethod
    def unpack(cls, raw: bytes) -> Message:
        """Raises ChannelFault for bytes of another size or an unknown word."""
        if len(raw) != _STRUCT.size:
            raise ChannelFault(f"a message of {len(raw)} bytes, expected {_STRUCT.size}")
        word, number, x, y, text = _STRUCT.unpack(raw)
        if word not in Word._value2member_map_:
            raise ChannelFault(f"a message with the unknown word {word}")
        return cls(Word(word), number, x, y, text.rstrip(b"\0").decode(errors="replace"))


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

    def send(self, message: Message) -> None:
        """Send one message; OSError if the peer is gone."""
        self.end.send(message.pack())

    def receive(self) -> Message | None:
        """The next message, or None at the end. A non-blocking end raises BlockingIOError when nothing waits."""
        raw = self.end.recv(2 * _STRUCT.size)
        return Message.unpack(raw) if raw else None


@dataclass(frozen=True)
class Layout:
    """Two input buffers of int32 tokens and two logits buffers, sized for float32, in one memfd each."""

    rows: int
    context: int
    vocab: int

    @classmethod
    def fitting(cls, context: int, vocab: int, rows: int) -> Layout:
        """For scoring `rows` rows: as many at once as keep one float32 buffer within 16 MiB, but at least four.

        Larger batches were not faster on a CPU; on a card four rows of the largest profile are 256 MiB.
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
