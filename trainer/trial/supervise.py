"""Supervision of one running candidate: one loop over its messages, its output, the clock and stop requests.

Promises: the loop never waits for the candidate without a deadline. It ends when the guardian has reported that the
whole process tree is dead, or when the guardian was killed or does not answer. Time and processor seconds are measured
here, outside the candidate.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import time
from collections.abc import Callable
from typing import Protocol

from trainer.candidate.protocol import Channel, ChannelFault, ChannelMessage, MessageType
from trainer.jobs import Clock, Outcome, Progress, TrialSpec
from trainer.jobs.redaction import Redact
from trainer.sandbox.cgroup import group_memory_mib
from trainer.sandbox.launch import ExitReport, GuardedProcess
from trainer.sandbox.output import Output, readable
from trainer.sandbox.step_lines import Printed
from trainer.sandbox.usage import Ledger, Usage, held_once_mib
from trainer.scoring.cross_entropy import Unscorable
from trainer.trial import machine
from trainer.trial.disk_usage import Hidden, Holdings
from trainer.trial.limits import Mark, PeakUsage, Reported, Timeline, between, limits
from trainer.trial.outcome import Termination
from trainer.trial.training_time import most_trained, tolerated, trained

_TICK_S = 0.1
_SAMPLE_S = 0.5
_GUARDIAN_S = 15.0
_READ_BYTES = 2**18
_READS = 16
_LOG_LIMIT_BYTES = 2**30


class Examination(Protocol):
    """Asks a candidate questions after it has asked for its score, and takes the answers."""

    @property
    def share(self) -> float:
        """The progress, 0..1."""

    @property
    def awaits_weights(self) -> bool:
        """True until the weights are written, if they are asked for. Until then the candidate may still train."""

    def begin(self, *, half: bool) -> None:
        """Ask the first questions. `half` asks for logits in half precision."""

    def served(self, message: ChannelMessage) -> bool:
        """Take an answer, and return True after the last one. Raise Unscorable."""

    def close(self) -> None:
        """Release the resources of the examination."""


class Supervisor:
    """Supervises one candidate until its end. Call `run` once; afterwards the public attributes hold the results."""

    def __init__(
        self,
        spec: TrialSpec,
        guarded: GuardedProcess,
        channel: Channel,
        scoring: Examination,
        report: Callable[[Progress], None],
        preempted: Callable[[], bool],
        holdings: Holdings | None,
        redact: Redact,
    ) -> None:
        self._spec = spec
        self._holdings = holdings
        self._redact = redact
        self._guarded = guarded
        self._ledger = Ledger(guarded.pid)
        self._channel = channel
        self._scoring = scoring
        self._report = report
        self._preempted = preempted
        self.printed = Printed()
        self.sink = Output(spec.caps.log_kib, self.printed, redact)
        self.claims = Reported()
        self.peaks = PeakUsage()
        self.marks = Timeline(Mark(time.monotonic(), 0.0))
        self._group_before_mib = group_memory_mib()
        self._machine_before = machine.ProcessorTime.now()
        self.stop: Termination | None = None
        self.ending: ExitReport | None = None
        self._stopped_s: float | None = None
        self._ended = False

    def run(self) -> None:
        """Supervise the candidate, and return when its whole process tree is dead."""
        with selectors.DefaultSelector() as selector:
            self._selector = selector
            selector.register(self._channel.end, selectors.EVENT_READ, self._read_messages)
            selector.register(self._guarded.log_fd, selectors.EVENT_READ, self._read_log)
            selector.register(self._guarded.report_fd, selectors.EVENT_READ, self._read_report)
            while not self._ended:
                asked_s, ready = time.monotonic(), selector.select(_TICK_S)
                self.peaks.woke(time.monotonic() - asked_s - _TICK_S)
                for key, _ in ready:
                    key.data()
                self._sample()
                self._check()
        self._drain()

    @property
    def timed(self) -> float | None:
        """The length of the timed phase in the budget's clock, or None if the phase never ended."""
        warm, ready = self.marks.warm, self.marks.ready
        if warm is None or ready is None:
            return None
        return between(self._spec.budget.clock, warm, ready, self.claims.steps)

    @property
    def setup(self) -> float | None:
        """The length of the set-up in its own clock, or None if there was no first batch."""
        imported, first = self.marks.imported, self.marks.first_batch
        if imported is None or first is None:
            return None
        return between(self._spec.budget.clock_of_setup, imported, first, 0)

    def _mark(self) -> Mark:
        self._ledger.measure()
        return Mark(time.monotonic(), self._ledger.processor_s)

    def _end(self, outcome: Outcome, reason: str, disturbed: str | None = None) -> None:
        if self.stop is None:
            self.stop = Termination(outcome, reason, disturbed)
            self._stopped_s = time.monotonic()
            self._guarded.stop()

    def _read_messages(self) -> None:
        for _ in range(_READS):
            try:
                message = self._channel.receive()
                if message is None:
                    self._selector.unregister(self._channel.end)
                    return
                self._heard(message)
            except BlockingIOError:
                return
            except (ConnectionResetError, BrokenPipeError):
                return
            except (ChannelFault, Unscorable) as fault:
                self._end(Outcome.UNSCORABLE, str(fault))
                return

    def _heard(self, message: ChannelMessage) -> None:
        marks, claims = self.marks, self.claims
        match message.word:
            case MessageType.IMPORTED if marks.imported is None:
                marks.imported = self._mark()
                claims.device = readable(message.text, self._redact)
                claims.threads, claims.memory_mib, claims.calibration_s = message.number, message.x, message.y
            case MessageType.NO_GPU if marks.imported is None:  # later the script could claim it
                words = readable(message.text, self._redact)
                self._end(Outcome.LOST, f"it needs a GPU, and torch can use none: {words}. Next: overnight gpu-check")
            case MessageType.FIRST_BATCH if marks.first_batch is None:
                marks.first_batch = self._mark()
            case MessageType.WARM if marks.warm is None and marks.first_batch is not None:
                marks.warm = self._mark()
            case MessageType.PROGRESS:
                claims.steps, claims.share = message.number, message.x
            case MessageType.READY if marks.ready is None and self.stop is None:
                self._ready(message)
            case MessageType.SERVED | MessageType.SAVED if marks.ready is not None and self.stop is None:
                self._answered(message)
            case MessageType.VERDICT:
                claims.verdict = message
            case MessageType.FAULT:
                self._end(Outcome.UNSCORABLE, self.sink.fault(message.text))

    def _answered(self, message: ChannelMessage) -> None:
        """Record an answer: the written weights, or logits.

        Until the weights are written, the candidate may train whatever it reports, so that time counts as training.
        Later only the extra time of slow answers counts.
        """
        marks = self.marks
        if self._scoring.awaits_weights:
            marks.saved = self._mark()
            if self._overtime(marks.saved):
                return
        else:
            marks.answers.append(Mark(time.monotonic(), self._ledger.glance()))
        if self._scoring.served(message):
            marks.scored = self._mark()
            marks.answers[-1:] = [marks.scored]
            self._overtime(marks.scored)

    def _ready(self, message: ChannelMessage) -> None:
        self.marks.ready = ready = self._mark()
        self._read_log()  # all output from before the candidate could see a question
        self.sink.seal()
        self.claims.steps, self.claims.tokens = message.number, int(message.x)
        if self.marks.warm is None:
            self._end(Outcome.UNSCORABLE, "it asked for its score before it took a batch from make_dataloader")
        elif not self._overtime(ready):
            self._scoring.begin(half=bool(self.claims.memory_mib))
            self.marks.saved = None if self._scoring.awaits_weights else ready

    def _read_log(self) -> None:
        for _ in range(_READS):
            try:
                chunk = os.read(self._guarded.log_fd, _READ_BYTES)
            except BlockingIOError:
                return
            if not chunk:
                with contextlib.suppress(KeyError):  # `_ready` may have read the end before the loop
                    self._selector.unregister(self._guarded.log_fd)
                return
            self.sink.feed(chunk)
        if self.sink.seen_bytes > _LOG_LIMIT_BYTES:
            self._end(Outcome.CRASHED, f"log flood: it printed more than {_LOG_LIMIT_BYTES // 2**20} MiB")

    def _read_report(self) -> None:
        self.ending = self._guarded.ending()
        self._ended = True

    def _drain(self) -> None:
        """Read the rest of the log and of the messages. All processes are dead, so no more is written."""
        while True:
            try:
                chunk = os.read(self._guarded.log_fd, _READ_BYTES)
            except BlockingIOError:
                break
            if not chunk:
                break
            self.sink.feed(chunk)
        self.sink.finish()
        try:
            while (message := self._channel.receive()) is not None:
                if message.word is MessageType.FAULT and self.stop is None:
                    self.stop = Termination(Outcome.UNSCORABLE, self.sink.fault(message.text))
        except (BlockingIOError, ConnectionResetError, ChannelFault):
            return

    def _sample(self) -> None:
        now = time.monotonic()
        if now - self.peaks.sampled_s < _SAMPLE_S:
            return
        usage = self._ledger.measure()
        self.peaks.sampled(now, self._ledger.processor_s, stopped=usage.stopped)
        self._hold_to_caps(usage)
        self._hold_to_disk(usage)
        mark = Mark(now, self._ledger.processor_s)
        if self.marks.saved is None:
            self._overtime(mark, may_run_on=True)
        self._report_mark(mark)

    def _hold_to_caps(self, usage: Usage) -> None:
        caps, held_mib = self._spec.caps, usage.rss_mib + usage.files_mib
        if len(usage.pids) > caps.processes:
            self._end(Outcome.CRASHED, f"it started {len(usage.pids)} processes; the cap is {caps.processes}")
        elif caps.memory_mib is not None and held_mib > caps.memory_mib:
            once_mib = held_once_mib(self._guarded.pid, usage.files_mib, self._group_before_mib)
            held_mib = held_mib if once_mib is None else min(held_mib, once_mib)
            counted = "" if once_mib is not None else ", with shared memory counted once for each process"
            if held_mib > caps.memory_mib:
                self._end(
                    Outcome.OUT_OF_MEMORY,
                    f"it held {held_mib:.0f} MiB{counted}; the cap is {caps.memory_mib} MiB",
                )
        self.peaks.rss_mib = max(self.peaks.rss_mib, held_mib)

    def _hold_to_disk(self, usage: Usage) -> None:
        if self._holdings is None or self.stop is not None:
            return
        try:
            held = self._holdings.measure(usage.pids)
        except Hidden as hidden:
            self._end(Outcome.CRASHED, f"it made {hidden}")
            return
        if held.mib > (cap_mib := self._spec.caps.folder_mib):
            self._end(
                Outcome.CRASHED,
                f"it filled the disk with {held.files} files, {held.mib:.0f} MiB; the cap is {cap_mib} MiB",
            )

    def _overtime(self, now: Mark, *, may_run_on: bool = False) -> bool:
        """End the candidate if it trained too long, in any phase, and return whether it did.

        On a busy machine, one that may run on is ended only beyond the tolerated time, because an end within it may be
        due to the machine. Such a time-out does not count at once, and a later one does.
        """
        budget = self._spec.budget
        account = trained(self.marks, budget, now)
        fault = account.fault(budget) if account is not None else None
        if account is None or fault is None:
            return False
        is_near = account.in_all - most_trained(budget) <= tolerated(budget)
        busy = self._busy() if is_near and budget.clock is Clock.WALL else None
        if busy is not None and may_run_on:
            return False
        self._end(Outcome.TIMED_OUT, fault, busy)
        return True

    def _busy(self) -> str | None:
        return machine.busy_text(self._machine_before, machine.ProcessorTime.now(), self._ledger.processor_s)

    def _check(self) -> None:
        now = time.monotonic()
        if self._stopped_s is not None:
            if now - self._stopped_s > _GUARDIAN_S:
                self._ended = True
            return
        if self._preempted():
            self._end(Outcome.PREEMPTED, "the worker was told to stop")
        marks, budget, first = self.marks, self._spec.budget, self.marks.first_batch
        if first is not None and marks.warm is None and now - first.wall_s >= budget.warmup_cap_s:
            marks.warm = self._mark()
        for limit in limits(marks, budget, most_trained(budget) + tolerated(budget) + 2 * _SAMPLE_S):
            if limit.since is not None and now - limit.since.wall_s > limit.wall_s:
                self._end(Outcome.TIMED_OUT, f"{limit.failure} within {limit.wall_s:g} s", self._busy())

    def _report_mark(self, now: Mark) -> None:
        marks, budget = self.marks, self._spec.budget
        phase, share = "starting", 0.0
        if marks.saved is not None:
            phase, share = "scoring", self._scoring.share
        elif marks.first_batch is not None:
            phase = "timed"
            if marks.warm is not None:
                account = trained(marks, budget, now)
                share = self.claims.share if account is None else account.in_all / budget.amount
        last = self.printed.last
        self._report(
            Progress(
                phase=phase,
                progress=min(1.0, share),
                elapsed_s=now.wall_s - marks.launched.wall_s,
                step=last.step if last is not None else self.claims.steps or None,
                loss=last.loss if last is not None else None,
            )
        )
