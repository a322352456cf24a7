"""The lease of one GPU that trials and an LLM share, as a pure state machine; `lease_store` keeps it in Redis.

A trial holds the lease from its start to its end, in the phases starting, timed and scoring; else the phase is idle.
Invariant: an answer of the LLM begins in the phases idle and scoring only, and no trial starts before the answer has
ended. So no answer overlaps the timed phase of a trial that holds the lease.

A trial whose process has died loses the lease by time. An answer does not: a server may go on with it while its client
is frozen. Only the client that began the answer ends it, or a later client that has silenced the server. The holder's
name is new for each attempt and serves as the fencing token: whoever lost the lease cannot change it any more, and
`Fenced` tells him. Times are seconds of one clock, that of the Redis server.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

HOLD_S = 20.0  # without a beat for so long, a trial has lost the lease; as long as a job's lease on a single host
WANTED_S = 5.0  # a waiting trial repeats its wish at least as often


class LeasePhase(StrEnum):
    """The phase of the trial that holds a GPU."""

    IDLE = "idle"
    STARTING = "starting"
    TIMED = "timed"
    SCORING = "scoring"


_ORDER = tuple(LeasePhase)


class GpuTaken(Exception):
    """Raised when the GPU is not free for a trial, or for an answer. The message says why."""


class Fenced(Exception):
    """Raised when a trial, or an answer, no longer holds what it wants to change."""


@dataclass(frozen=True)
class Span:
    """An interval of time. `until` is None while it lasts."""

    since: float
    until: float | None = None

    def overlap_s(self, other: Span, at: float) -> float:
        """Return the seconds that both intervals share up to the time `at`."""
        ends = (at if span.until is None else span.until for span in (self, other))
        return max(0.0, min(ends) - max(self.since, other.since))


@dataclass(frozen=True)
class LlmAnswer:
    """An answer of the LLM in progress. `owner` is a name that its client made for it, `client` that of the client."""

    owner: str
    client: str
    since: float


@dataclass(frozen=True)
class GpuLease:
    """The state of one GPU. Each method returns the next state, or raises GpuTaken or Fenced and changes nothing.

    `holder` names the attempt in a phase other than idle, and `until` is the time at which it loses the lease without
    a beat. `wanted_until` is in the future while a trial waits. `timed` is the timed phase of the present or last
    holder, and `answers` are those that ended since its start. `llm_mib` is the GPU memory of the loaded LLM.
    """

    phase: LeasePhase = LeasePhase.IDLE
    holder: str = ""
    until: float = 0.0
    wanted_until: float = 0.0
    answer: LlmAnswer | None = None
    timed: Span | None = None
    answers: tuple[Span, ...] = ()
    llm_mib: int = 0

    def is_held(self, at: float) -> bool:
        """Return True while a trial holds the lease."""
        return self.phase is not LeasePhase.IDLE and at < self.until

    def is_wanted(self, at: float) -> bool:
        """Return True while a trial waits for the end of an answer."""
        return at < self.wanted_until

    def acquired(self, holder: str, at: float) -> GpuLease:
        """Start a trial. A repeated call of the holder changes nothing."""
        if self.holder == holder and self.phase is not LeasePhase.IDLE:
            return self
        if self.answer is not None:
            raise GpuTaken(f"the LLM has been answering for {at - self.answer.since:.0f} s")
        if self.is_held(at):
            raise GpuTaken(f"another trial, {self.holder}, is {self.phase} on the GPU")
        return GpuLease(LeasePhase.STARTING, holder, at + HOLD_S, llm_mib=self.llm_mib)

    def wanted(self, at: float) -> GpuLease:
        """Ask for the end of the answer in progress. Until then, no other answer begins."""
        return replace(self, wanted_until=at + WANTED_S)

    def beaten(self, holder: str, phase: LeasePhase, at: float) -> GpuLease:
        """Prolong the trial's hold, in the same or a later phase."""
        self._require_holder(holder)
        if _ORDER.index(phase) < _ORDER.index(self.phase):
            raise ValueError(f"a trial cannot return from {self.phase} to {phase}")
        timed = self.timed
        if phase is LeasePhase.TIMED and timed is None:
            timed = Span(at)
        if phase is LeasePhase.SCORING and timed is not None and timed.until is None:
            timed = replace(timed, until=at)
        return replace(self, phase=phase, until=at + HOLD_S, timed=timed)

    def released(self, holder: str, at: float) -> GpuLease:
        """End the trial. An answer that began while it was scored goes on."""
        self._require_holder(holder)
        timed = replace(self.timed, until=at) if self.timed is not None and self.timed.until is None else self.timed
        return replace(self, phase=LeasePhase.IDLE, holder="", until=0.0, timed=timed)

    def overlap_s(self, at: float) -> float:
        """Return the seconds of the timed phase in which the LLM answered."""
        if self.timed is None:
            return 0.0
        spans = self.answers if self.answer is None else (*self.answers, Span(self.answer.since))
        return sum(self.timed.overlap_s(span, at) for span in spans)

    def may_answer(self, at: float, *, beside: bool) -> bool:
        """Return True if an answer may begin now. `beside` means that trial and LLM fit the GPU together."""
        return self._why_silent(at, beside=beside) is None

    def answering(self, owner: str, client: str, at: float, *, beside: bool) -> GpuLease:
        """Begin an answer. A repeated call of the owner changes nothing.

        A trial that did not beat loses the lease here, and cannot return to it.
        """
        if self.answer is not None and self.answer.owner == owner:
            return self
        if (why := self._why_silent(at, beside=beside)) is not None:
            raise GpuTaken(why)
        free = self if self.is_held(at) or self.phase is LeasePhase.IDLE else self.released(self.holder, at)
        return replace(free, answer=LlmAnswer(owner, client, at))

    def answered(self, owner: str, llm_mib: int, at: float) -> GpuLease:
        """End an answer, which leaves `llm_mib` of the GPU to the loaded LLM."""
        if self.answer is None or self.answer.owner != owner:
            raise Fenced("the answer was ended by another client")
        return replace(self, answer=None, answers=(*self.answers, Span(self.answer.since, at)), llm_mib=llm_mib)

    def silenced(self, at: float) -> GpuLease:
        """End the answer of another client, after the server was silenced and its memory freed."""
        if self.answer is None:
            return replace(self, llm_mib=0)
        return self.answered(self.answer.owner, 0, at)

    def with_llm(self, llm_mib: int) -> GpuLease:
        """Return the lease after a load or an unload of the LLM."""
        return replace(self, llm_mib=llm_mib)

    def _why_silent(self, at: float, *, beside: bool) -> str | None:
        if self.answer is not None:
            return "the LLM already answers another question"
        if self.is_wanted(at):
            return "a trial is about to start"
        if self.is_held(at) and not (beside and self.phase is LeasePhase.SCORING):
            return f"a trial is {self.phase} on the GPU of the LLM"
        return None

    def _require_holder(self, holder: str) -> None:
        if self.phase is LeasePhase.IDLE or self.holder != holder:
            raise Fenced(f"{holder} has lost the GPU")
