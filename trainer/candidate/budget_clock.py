"""The candidate's view of its budget: `progress()`, the warm-up, and messages to the trainer at each phase.

Promises: progress is 0 until the warm-up ends, then the used share of the budget in its clock, including a long set-up,
and 1 if the next step would end far beyond the budget. The trainer measures the same times from outside and uses only
those. Standard library only.
"""

from __future__ import annotations

import os
import time
from collections import deque

from trainer.candidate.protocol import Channel, ChannelMessage, MessageType

_REPORT_EVERY_S = 0.5
_STEPS_COMPARED = 3


class BudgetClock:
    """The candidate's clock. The warm-up ends after `warmup_steps` steps or `warmup_cap_s` wall seconds."""

    def __init__(
        self,
        clock: str,
        amount: float,
        warmup_steps: int,
        warmup_cap_s: float,
        channel: Channel,
        *,
        free_setup: float = 0.0,
        setup_clock: str | None = None,
        overrun: float = 0.0,
    ) -> None:
        self._clock = clock
        self._amount = amount
        self._warmup_steps = warmup_steps
        self._warmup_cap_s = warmup_cap_s
        self._channel = channel
        self._free_setup = free_setup
        self._overrun = overrun
        self._setup_clock = setup_clock or clock
        self._began_at = read_clock(self._setup_clock)
        self._stepped: dict[int, int] = {}
        self._before = 0.0
        self._stepped_at: float | None = None
        self._took = deque[float](maxlen=_STEPS_COMPARED)
        self._first_batch_at: float | None = None
        self._warm_at: float | None = None
        self._warm_step = 0
        self._asked = False
        self._reported_at = 0.0
        self.steps = 0
        self.tokens = 0

    def progress(self) -> float:
        """Return the used share of the budget, 0..1. A script calls this once before each optimiser step."""
        self.steps = self.steps + 1 if self._asked else 0
        self._asked = True
        if self._first_batch_at is None:
            return 0.0
        self._end_warmup()
        share = 1.0 if self._would_overrun() else self._share()
        self._report(share)
        return share

    def batch_taken(self, tokens: int) -> None:
        """Count a batch of `tokens` tokens. The first one starts the warm-up."""
        self.tokens += tokens
        if self._first_batch_at is None:
            self._first_batch_at = time.monotonic()
            self._before = max(0.0, read_clock(self._setup_clock) - self._began_at - self._free_setup)
            self._channel.send(ChannelMessage(MessageType.FIRST_BATCH))
            self._end_warmup()

    def optimizer_stepped(self, optimizer: object, *_: object) -> None:
        """Count a step of a script that never calls `progress`. Of several optimisers, the one with most steps counts.

        PyTorch calls this with the optimiser and the arguments of its step.
        """
        if self._first_batch_at is None or self._asked:
            return
        self._stepped[id(optimizer)] = self._stepped.get(id(optimizer), 0) + 1
        self.steps = max(self._stepped.values())
        self._end_warmup()
        self._report(self._share())

    def end_warmup(self) -> None:
        """End the warm-up now. The first batch must have been taken."""
        self._warm_at, self._warm_step = read_clock(self._clock), self.steps
        self._channel.send(ChannelMessage(MessageType.WARM, number=self.steps))

    def _end_warmup(self) -> None:
        if self._warm_at is not None or self._first_batch_at is None:
            return
        waited_s = time.monotonic() - self._first_batch_at
        if self.steps >= self._warmup_steps or waited_s >= self._warmup_cap_s:
            self.end_warmup()

    def _share(self) -> float:
        if self._warm_at is None:
            return 0.0
        return max(0.0, min(1.0, self._used(self._warm_at) / self._amount))  # the processor clock of a fork starts at 0

    def _used(self, warm_at: float) -> float:
        """Return the used part of the budget, in the unit of its clock."""
        return (
            self.steps - self._warm_step if self._clock == "steps" else self._before + read_clock(self._clock) - warm_at
        )

    def _would_overrun(self) -> bool:
        """Return whether the next step would use more than half of the allowed overrun.

        The step is estimated by the shortest of the last three, so only steps longer than half the overrun are avoided.
        """
        if self._warm_at is None or self._clock == "steps":
            return False
        now = read_clock(self._clock)
        if self._stepped_at is not None:
            self._took.append(now - self._stepped_at)
        self._stepped_at = now
        return bool(self._took) and self._used(self._warm_at) + min(self._took) > self._amount + self._overrun / 2

    def _report(self, share: float) -> None:
        now = time.monotonic()
        if now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            self._channel.send(ChannelMessage(MessageType.PROGRESS, number=self.steps, x=share))


def read_clock(clock: str) -> float:
    """Return the seconds of the wall clock, or the processor seconds of this process and of its ended children."""
    if clock != "processor":
        return time.monotonic()
    spent = os.times()
    return time.process_time() + spent.children_user + spent.children_system
