"""A candidate's output: endless in, bounded out. Head and tail are kept, lines cut, control sequences removed.

Promises: whatever is printed, at most `cap_kib` is kept and the time spent is proportional to the bytes read. The text
is data: it never decides anything. Does not cover secrets; a candidate is given none.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

LINE_BYTES = 2000
_CONTROL = re.compile(rb"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|\][^\x07\n]*(?:\x07|\x1b\\)?|[@-Z\\^_])|[\x00-\x08\x0b-\x1f\x7f]")


class LogSink:
    """Feed it bytes; `on_line` hears each whole line that is not blank, as bytes without its end."""

    def __init__(self, cap_kib: int, on_line: Callable[[bytes], None]) -> None:
        self._half_bytes = max(1, cap_kib * 1024 // 2)
        self._on_line = on_line
        self._head: list[bytes] = []
        self._head_left = self._half_bytes
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._left_out_bytes = 0
        self._partial = b""
        self._cutting = False
        self.seen_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Take what was read; an unfinished line is kept for the next call, up to the length of a line."""
        self.seen_bytes += len(chunk)
        whole, newline, partial = chunk.replace(b"\r", b"\n").rpartition(b"\n")
        if newline:
            if self._cutting:
                whole = whole.partition(b"\n")[2]
            for line in _CONTROL.sub(b"", self._partial + whole).split(b"\n"):
                self._take(line)
            self._partial, self._cutting = b"", False
        if not self._cutting:
            self._partial += partial
            if len(self._partial) > 2 * LINE_BYTES:
                self._take(_CONTROL.sub(b"", self._partial))
                self._partial, self._cutting = b"", True

    def finish(self) -> None:
        """The output has ended: an unfinished line counts as one."""
        if self._partial:
            self._take(_CONTROL.sub(b"", self._partial))
            self._partial = b""

    def text(self) -> str:
        """What is kept, with a line that says how much is missing."""
        gap = [f"[{self._left_out_bytes} bytes left out]".encode()] if self._left_out_bytes else []
        kept = [*self._head, *gap, *self._tail]
        return b"".join(line + b"\n" for line in kept).decode(errors="replace")

    def last_lines(self, count: int) -> list[str]:
        """The last lines that are not blank."""
        lines = list(self._tail)[-count:]
        if len(lines) < count:
            lines = self._head[-(count - len(lines)) :] + lines
        return [line.decode(errors="replace") for line in lines]

    def _take(self, line: bytes) -> None:
        if not line or line.isspace():
            return
        line = line[:LINE_BYTES].rstrip()
        self._on_line(line)
        size = len(line) + 1
        if size <= self._head_left:
            self._head.append(line)
            self._head_left -= size
            return
        self._head_left = 0
        self._tail.append(line)
        self._tail_bytes += size
        while self._tail_bytes > self._half_bytes and len(self._tail) > 1:
            dropped = len(self._tail.popleft()) + 1
            self._tail_bytes -= dropped
            self._left_out_bytes += dropped
