"""Reads the candidate's log for step lines and the summary at the end.

Promises: bounded memory whatever is printed. All numbers are claims of the candidate: they are shown to users and
compared with the trainer's own score, but no score comes from them.
"""

from __future__ import annotations

import math
import re

from trainer.candidate.protocol import within
from trainer.jobs import LossPoint
from trainer.jobs.result import LOSS_POINTS

_STEP = re.compile(rb"step\s+(\d{1,12})\s+\(\s*([\d.]{1,12})%\).*?loss:\s*([-+.\w]{1,24})")
_SUMMARY = re.compile(rb"([a-z][A-Za-z_]{1,40}):\s+([-+.\w]{1,40})$")
_MOST = {"val_bpb": 1e12, "peak_vram_mb": 1e9, "total_tokens_M": 1e9, "num_steps": 1e12, "num_params_M": 1e9}
_LARGEST_LOSS = 1e12


class Printed:
    """Reads lines one by one. A full loss curve drops every other point and doubles its stride."""

    def __init__(self) -> None:
        self._points: list[LossPoint] = []
        self._stride = 1
        self._skipped = 0
        self.last: LossPoint | None = None
        self.summary: dict[str, float] = {}

    def line(self, line: bytes) -> None:
        """Read a step line or a line of the summary, and ignore any other."""
        line = line.rstrip()
        if line.startswith(b"step"):
            self._step(line)
        else:
            self.late_line(line)

    def late_line(self, line: bytes) -> None:
        """Read a line of the summary, and ignore any other.

        After the candidate asked for its score, only such lines are read. Numbers are rounded to nine digits, so that
        they carry no hidden text.
        """
        line = line.rstrip()
        if b":" in line[:48] and (found := _SUMMARY.match(line)):
            self._read_summary(found[1].decode(), found[2])

    @property
    def curve(self) -> tuple[LossPoint, ...]:
        """At most LOSS_POINTS points, including the last one."""
        if self.last is None or (self._points and self._points[-1] == self.last):
            return tuple(self._points)
        return (*self._points[: LOSS_POINTS - 1], self.last)

    @property
    def steps(self) -> int | None:
        """The number of steps by the summary, or else by the last step line."""
        steps = self.summary.get("num_steps")
        if steps is not None:
            return int(steps)
        return self.last.step + 1 if self.last is not None else None

    def _read_summary(self, name: str, text: bytes) -> None:
        """Record a line of the summary, and ignore a value out of bounds.

        Only a val_bpb out of bounds is kept, as NaN: it was printed, and NaN agrees with no score.
        """
        most = _MOST.get(name)
        if most is None:
            return
        value = within(text, -most if name == "val_bpb" else 0, most)
        if value is not None:
            self.summary[name] = float(f"{value:.9g}")
        elif name == "val_bpb" and _is_number(text):
            self.summary[name] = math.nan

    def _step(self, line: bytes) -> None:
        found = _STEP.match(line)
        if found is None:
            return
        share, loss = within(found[2], 0, _LARGEST_LOSS), within(found[3], -_LARGEST_LOSS, _LARGEST_LOSS)
        if share is None or loss is None:
            return
        self.last = LossPoint(step=int(found[1]), progress=min(1.0, share / 100), loss=loss)
        self._skipped += 1
        if self._skipped >= self._stride:
            self._skipped = 0
            self._points.append(self.last)
        if len(self._points) >= LOSS_POINTS:
            self._points = self._points[::2]
            self._stride *= 2


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
