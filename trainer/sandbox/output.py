"""Keeps a bounded part of a candidate's output: head and tail, with long lines cut and control characters removed.

Promises: at most `cap_kib` is kept; memory is bounded by that and one read; time is proportional to the bytes read.
Secrets are removed from whole kept lines. The text is data: no score is taken from it.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable

from trainer.jobs.redaction import Redact
from trainer.sandbox.step_lines import Printed

LINE_BYTES = 2000
LATE_KIB = 64
LATE_HEADING = "[it asked for its score; the following output is shown to users and to no LLM]"
_ESCAPES = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n") + b"\x7f"
_HIDDEN = re.compile(
    "[\x80-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)  # more control characters, and marks of text direction
_SHAPE = r"\((?:\d{1,6}(?:, \d{1,6}){0,3},?)?\)"
_FAULT = re.compile(rf"model\(x\) gave (?:no tensor|shape {_SHAPE}), not logits of shape [\d, ()]{{0,40}}")
_TELLING = re.compile(rb"^(?:step |[a-z][A-Za-z_]{1,40}: ).{1,400}", re.MULTILINE)
_HEARD_PER_READ = 200


class LogSink:
    """Keeps head and tail of an output.

    `on_line` gets the lines that look like a step or a `name: value`; of more than 200 in one read, the first and the
    last hundred.
    """

    def __init__(self, cap_kib: int, on_line: Callable[[bytes], None], redact: Redact) -> None:
        self._half_bytes = max(1, cap_kib * 1024 // 2)
        self._on_line = on_line
        self._redact = redact
        self._head: list[bytes] = []
        self._head_bytes = 0
        self._head_is_full = False
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._tail_lines: list[bytes] = []
        self._dropped_bytes = 0
        self._partial = b""
        self._cutting = False
        self.seen_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take a chunk of output. An unfinished line waits for the next chunk, up to twice the longest kept line."""
        self.seen_bytes += len(chunk)
        whole, newline, partial = chunk.replace(b"\r", b"\n").rpartition(b"\n")
        if newline:
            if self._cutting:
                whole = whole.partition(b"\n")[2]
            self._take(self._partial + whole)
            self._partial, self._cutting = b"", False
        if not self._cutting:
            self._partial += partial
            if len(self._partial) > 2 * LINE_BYTES:
                self._take(self._partial)
                self._partial, self._cutting = b"", True

    def finish(self) -> None:
        """End the output, with an unfinished line as its last. Call this before `text` and `last_lines`."""
        self._take(self._partial)
        self._partial = b""
        lines = deque(_kept(self._redact(b"\n".join(self._tail))))
        size = _size(lines)
        while size > self._half_bytes and len(lines) > 1:
            size -= len(lines.popleft()) + 1
        self._tail_lines = list(lines)

    def text(self) -> str:
        """Return the kept text, with a line that says how many bytes are left out."""
        left_out = self._dropped_bytes + self._tail_bytes - _size(self._tail_lines)
        gap = [f"[{left_out} bytes left out]".encode()] if self._dropped_bytes else []
        return _text(b"".join(line + b"\n" for line in (*self._head, *gap, *self._tail_lines)))

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines that are not blank."""
        return [_text(line) for line in (self._head + self._tail_lines)[-count:]]

    def _take(self, block: bytes) -> None:
        """Take a block of whole lines."""
        if b"\x1b" in block:
            block = _ESCAPES.sub(b"", block)
        block = block.translate(None, _CONTROLS)
        heard = _TELLING.findall(block)
        if len(heard) > _HEARD_PER_READ:
            heard = heard[: _HEARD_PER_READ // 2] + heard[-_HEARD_PER_READ // 2 :]
        for line in heard:
            self._on_line(line)
        if not self._head_is_full:
            block = self._fill_head(self._redact(block))
        self._tail.append(block)
        self._tail_bytes += len(block)
        while self._tail_bytes - len(self._tail[0]) > self._half_bytes:
            dropped = len(self._tail.popleft())
            self._tail_bytes -= dropped
            self._dropped_bytes += dropped

    def _fill_head(self, block: bytes) -> bytes:
        """Add lines to the head until it is full, and return the rest of the block."""
        lines = block.split(b"\n")
        for at, line in enumerate(lines):
            for kept in _kept(line):
                self._head_bytes += len(kept) + 1
                if self._head_bytes > self._half_bytes:
                    self._head_is_full = True
                    return b"\n".join(lines[at:])
                self._head.append(kept)
        return b""


class Output:
    """The output of a candidate, before and after it asks for its score.

    Output from before may be quoted. Output from after may contain the rows that score the candidate: it is kept for
    users, only the numbers of the summary are read from it, and no text of it can reach a prompt.
    """

    def __init__(self, cap_kib: int, printed: Printed, redact: Redact) -> None:
        self._before = LogSink(cap_kib, printed.line, redact)
        self._after = LogSink(min(cap_kib, LATE_KIB), printed.late_line, redact)
        self._redact = redact
        self._sealed = False

    @property
    def seen_bytes(self) -> int:
        """The number of printed bytes."""
        return self._before.seen_bytes + self._after.seen_bytes

    def feed(self, chunk: bytes) -> None:
        """Take a chunk of output."""
        (self._after if self._sealed else self._before).feed(chunk)

    def seal(self) -> None:
        """Quote nothing from now on. Call this after a candidate asked for its score, before its first question."""
        self._before.finish()
        self._sealed = True

    def finish(self) -> None:
        """End the output."""
        (self._after if self._sealed else self._before).finish()

    def text(self) -> str:
        """Return all kept output, for users."""
        late = self._after.text()
        return self.quotable_text() + (f"{LATE_HEADING}\n{late}" if late else "")

    def quotable_text(self) -> str:
        """Return the kept output from before the candidate asked for its score."""
        return self._before.text()

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines for quoting, or none once the candidate has asked for its score."""
        return [] if self._sealed else self._before.last_lines(count)

    def fault(self, message: str) -> str:
        """Return the fault that the candidate's process reports, cleaned.

        Once the candidate has asked for its score, only the message of the trainer's own code is returned, and a fixed
        sentence instead of any other.
        """
        words = readable(message, self._redact)
        if not self._sealed or _FAULT.fullmatch(words):
            return words
        return "it reported a fault while it was being scored; its log may say which"

    def last_words(self, count: int) -> list[str]:
        """Return the last lines from before and after, to classify the candidate's end. Never quote them."""
        return (self._before.last_lines(count) + self._after.last_lines(count))[-count:]


def readable(message: str, redact: Redact) -> str:
    """Return a message of a candidate in one line, without control characters and secrets."""
    return _text(redact(message.encode(errors="replace").translate(None, _CONTROLS)).replace(b"\n", b" "))


def _kept(block: bytes) -> list[bytes]:
    return [line[:LINE_BYTES].rstrip() for line in block.split(b"\n") if line and not line.isspace()]


def _text(kept: bytes) -> str:
    return _HIDDEN.sub("", kept.decode(errors="replace"))


def _size(lines: Iterable[bytes]) -> int:
    return sum(len(line) + 1 for line in lines)
