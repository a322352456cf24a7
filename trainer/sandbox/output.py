"""A candidate's output: endless in, bounded out. Head and tail are kept, lines cut, controls and secrets taken out.

Promises: whatever is printed, at most `cap_kib` is kept, memory stays within that and one read, and the time spent is
proportional to the bytes read; secrets are looked for in whole lines of what is kept. The text is data: it never
decides anything.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable

from trainer.jobs.redaction import Redact
from trainer.sandbox.step_lines import Printed

LINE_BYTES = 2000
LATE_KIB = 64
LATE_HEADING = "[it asked for its score; what follows is shown to people and told to no model]"
_ESCAPES = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROLS = bytes(code for code in range(32) if code not in b"\t\n") + b"\x7f"
_HIDDEN = re.compile(
    "[\x80-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)  # more controls, and what turns text around
_SHAPE = r"\((?:\d{1,6}(?:, \d{1,6}){0,3},?)?\)"
_FAULT = re.compile(rf"model\(x\) gave (?:no tensor|shape {_SHAPE}), not logits of shape [\d, ()]{{0,40}}")
_TELLING = re.compile(rb"^(?:step |[a-z][A-Za-z_]{1,40}: ).{1,400}", re.MULTILINE)
_HEARD_PER_READ = 200


class LogSink:
    """Feed it what was read. `on_line` hears the lines that look like a step or a `name: value`; of a read with
    hundreds of them, the first and the last."""

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
        """Take what was read; an unfinished line waits for the next read, up to the length of a line."""
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
        """The output has ended: an unfinished line counts as one. Only now there is a text."""
        self._take(self._partial)
        self._partial = b""
        lines = deque(_kept(self._redact(b"\n".join(self._tail))))
        size = _size(lines)
        while size > self._half_bytes and len(lines) > 1:
            size -= len(lines.popleft()) + 1
        self._tail_lines = list(lines)

    def text(self) -> str:
        """What is kept, with a line that says how much is missing."""
        left_out = self._dropped_bytes + self._tail_bytes - _size(self._tail_lines)
        gap = [f"[{left_out} bytes left out]".encode()] if self._dropped_bytes else []
        return _text(b"".join(line + b"\n" for line in (*self._head, *gap, *self._tail_lines)))

    def last_lines(self, count: int) -> list[str]:
        """The last lines that are not blank."""
        return [_text(line) for line in (self._head + self._tail_lines)[-count:]]

    def _take(self, block: bytes) -> None:
        """A block of whole lines."""
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
        """Add lines until the head is full; the rest of the block."""
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
    """All that a candidate prints: before it asks for its score, and after, when it may have seen what scores it.

    What came before may be quoted; what came after is kept for people, and of it only the numbers of the summary are
    read. Nothing that a prompt could carry is made of its words.
    """

    def __init__(self, cap_kib: int, printed: Printed, redact: Redact) -> None:
        self._before = LogSink(cap_kib, printed.line, redact)
        self._after = LogSink(min(cap_kib, LATE_KIB), printed.late_line, redact)
        self._redact = redact
        self._sealed = False

    @property
    def seen_bytes(self) -> int:
        """How much was printed."""
        return self._before.seen_bytes + self._after.seen_bytes

    def feed(self, chunk: bytes) -> None:
        """Take what was read."""
        (self._after if self._sealed else self._before).feed(chunk)

    def seal(self) -> None:
        """It asks for its score: from here on nothing is quoted. Called before it is shown its first question."""
        self._before.finish()
        self._sealed = True

    def finish(self) -> None:
        """The output has ended."""
        (self._after if self._sealed else self._before).finish()

    def text(self) -> str:
        """All that is kept, for people."""
        late = self._after.text()
        return self.told() + (f"{LATE_HEADING}\n{late}" if late else "")

    def told(self) -> str:
        """What is kept of the output before it asked for its score."""
        return self._before.text()

    def last_lines(self, count: int) -> list[str]:
        """The last lines, to be quoted; none once it has asked for its score."""
        return [] if self._sealed else self._before.last_lines(count)

    def fault(self, said: str) -> str:
        """What its process says is wrong; once it has asked for its score the one sentence that our own code says then,
        or none."""
        words = readable(said, self._redact)
        if not self._sealed or _FAULT.fullmatch(words):
            return words
        return "it reported a fault while it was being scored; its log may say which"

    def last_words(self, count: int) -> list[str]:
        """The last lines whenever they came, to look for what ended it; no word of them is quoted."""
        return (self._before.last_lines(count) + self._after.last_lines(count))[-count:]


def readable(said: str, redact: Redact) -> str:
    """A candidate's own words in one line, as clean as its log."""
    return _text(redact(said.encode(errors="replace").translate(None, _CONTROLS)).replace(b"\n", b" "))


def _kept(block: bytes) -> list[bytes]:
    return [line[:LINE_BYTES].rstrip() for line in block.split(b"\n") if line and not line.isspace()]


def _text(kept: bytes) -> str:
    return _HIDDEN.sub("", kept.decode(errors="replace"))


def _size(lines: Iterable[bytes]) -> int:
    return sum(len(line) + 1 for line in lines)
