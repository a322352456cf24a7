"""No schedule lets an answer of the LLM overlap the timed phase of a trial whose result counts.

hypothesis draws the schedules: any number of trials and clients on two GPUs, of which each may die, freeze and go on,
in every phase. The model beside the machine knows what really runs, as no record can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trainer.jobs import HOLD_S, Fenced, GpuLease, GpuTaken, LeasePhase, Span

IDLE, STARTING, TIMED, SCORING = LeasePhase


def held(phase: LeasePhase, at: float = 0.0) -> GpuLease:
    lease = GpuLease().acquired("trial", at)
    for each in (TIMED, SCORING):
        lease = lease.beaten("trial", each, at) if phase in (each, SCORING) else lease
    return lease


@pytest.mark.parametrize(
    ("phase", "beside", "may"),
    [
        *((IDLE, beside, True) for beside in (True, False)),
        *((phase, beside, False) for phase in (STARTING, TIMED) for beside in (True, False)),
        (SCORING, True, True),
        (SCORING, False, False),
    ],
)
def test_an_answer_begins_in_idle_or_where_both_fit_in_scoring(phase: LeasePhase, beside: bool, may: bool) -> None:
    lease = GpuLease() if phase is IDLE else held(phase)

    assert lease.may_answer(1.0, beside=beside) is may
    if may:
        assert lease.answering("a", "client", 1.0, beside=beside).answer is not None
    else:
        with pytest.raises(GpuTaken):
            lease.answering("a", "client", 1.0, beside=beside)


def test_a_trial_waits_for_the_end_of_an_answer_and_no_other_answer_begins_meanwhile() -> None:
    lease = GpuLease().answering("a", "client", 0.0, beside=False)
    with pytest.raises(GpuTaken, match="answering for 3 s"):
        lease.acquired("trial", 3.0)

    lease = lease.wanted(3.0).answered("a", 6000, 4.0)

    assert not lease.may_answer(4.0, beside=True)
    started = lease.acquired("trial", 5.0)
    assert (started.phase, started.is_wanted(5.0), started.llm_mib) == (STARTING, False, 6000)


def test_an_answer_never_ends_by_time() -> None:
    lease = GpuLease().answering("a", "client", 0.0, beside=False)

    with pytest.raises(GpuTaken):
        lease.acquired("trial", 1e9)
    assert lease.silenced(1e9).acquired("trial", 1e9).phase is STARTING


@pytest.mark.parametrize("phase", [STARTING, TIMED, SCORING])
def test_a_trial_without_beats_loses_the_gpu_and_cannot_come_back(phase: LeasePhase) -> None:
    lease = held(phase)
    with pytest.raises(GpuTaken):
        lease.acquired("other", HOLD_S - 0.1)

    by_trial = lease.acquired("other", HOLD_S)
    by_llm = lease.answering("a", "client", HOLD_S, beside=False)

    for taken in (by_trial, by_llm):
        for late in (lambda it: it.beaten("trial", SCORING, HOLD_S), lambda it: it.released("trial", HOLD_S)):
            with pytest.raises(Fenced):
                late(taken)


def test_a_resent_change_counts_once() -> None:
    lease = GpuLease().acquired("trial", 0.0)
    assert lease.acquired("trial", 5.0) is lease

    lease = lease.released("trial", 6.0).answering("a", "client", 7.0, beside=False)
    assert lease.answering("a", "client", 9.0, beside=False) is lease


def test_a_phase_does_not_return() -> None:
    with pytest.raises(ValueError, match="cannot return from scoring to timed"):
        held(SCORING).beaten("trial", TIMED, 1.0)


def test_an_answer_of_another_client_cannot_be_ended_twice() -> None:
    lease = GpuLease().answering("a", "client", 0.0, beside=False).silenced(1.0)

    with pytest.raises(Fenced):
        lease.answered("a", 0, 2.0)


def test_the_overlap_is_that_of_the_recorded_intervals_and_not_of_the_rules() -> None:
    timed = GpuLease(TIMED, "trial", 100.0, timed=Span(10.0), answers=(Span(0.0, 12.0), Span(15.0, 16.0)))

    assert timed.overlap_s(20.0) == 3.0
    assert timed.released("trial", 18.0).overlap_s(30.0) == 3.0
    assert Span(5.0, 6.0).overlap_s(Span(7.0), 9.0) == 0.0


@dataclass
class Trial:
    """A trial's process. `phase` is what its candidate really does, `ended` that its processes are dead."""

    holder: str
    phase: LeasePhase = STARTING
    beats: bool = True
    fenced: bool = False
    ended: bool = False


@dataclass
class Gpu:
    lease: GpuLease = field(default_factory=GpuLease)
    trials: list[Trial] = field(default_factory=list)
    generations: set[str] = field(default_factory=set)  # what the server really does


class AnySchedule(RuleBasedStateMachine):
    """Trials and clients on two GPUs. Time passes by itself between all rules."""

    @initialize(beside=st.booleans())
    def begin(self, beside: bool) -> None:
        self.at, self.made, self.beside = 100.0, 0, beside
        self.gpus = (Gpu(), Gpu())
        self.client: str | None = "client 0"

    def new(self, kind: str) -> str:
        self.made += 1
        return f"{kind} {self.made}"

    def change(self, gpu: Gpu, change: Callable[[GpuLease], GpuLease]) -> bool:
        try:
            gpu.lease = change(gpu.lease)
        except GpuTaken:
            return False
        return True

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 6.0, HOLD_S, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.at += seconds

    @rule(number=st.integers(0, 1))
    def a_trial_comes(self, number: int) -> None:
        gpu, trial = self.gpus[number], Trial(self.new("trial"))
        if any(not each.ended for each in gpu.trials):
            return  # the host's lock
        if self.change(gpu, lambda lease: lease.acquired(trial.holder, self.at)):
            gpu.trials.append(trial)
        else:
            gpu.lease = gpu.lease.wanted(self.at)

    @rule(number=st.integers(0, 1))
    def a_trial_comes_from_a_host_without_the_lock(self, number: int) -> None:
        gpu, trial = self.gpus[number], Trial(self.new("trial"))
        if self.change(gpu, lambda lease: lease.acquired(trial.holder, self.at)):
            gpu.trials.append(trial)

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_candidate_goes_on(self, data: st.DataObject) -> None:
        """Its phase changes, whether or not anybody hears of it."""
        _, trial = data.draw(st.sampled_from(self.running()))
        if trial.phase is not SCORING:
            trial.phase = list(LeasePhase)[list(LeasePhase).index(trial.phase) + 1]

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_trial_beats(self, data: st.DataObject) -> None:
        gpu, trial = data.draw(st.sampled_from(self.running()))
        if not trial.beats:
            return
        try:
            gpu.lease = gpu.lease.beaten(trial.holder, trial.phase, self.at)
        except Fenced:
            trial.fenced = trial.ended = True

    @precondition(lambda self: self.running())
    @rule(data=st.data(), beats=st.booleans())
    def a_trial_freezes_or_wakes(self, data: st.DataObject, beats: bool) -> None:
        _, trial = data.draw(st.sampled_from(self.running()))
        trial.beats = beats

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_trial_dies(self, data: st.DataObject) -> None:
        _, trial = data.draw(st.sampled_from(self.running()))
        trial.ended = True

    @precondition(lambda self: self.running())
    @rule(data=st.data())
    def a_trial_ends_well(self, data: st.DataObject) -> None:
        gpu, trial = data.draw(st.sampled_from(self.running()))
        if trial.beats and trial.phase is SCORING:
            try:
                gpu.lease = gpu.lease.released(trial.holder, self.at)
            except Fenced:
                trial.fenced = True
            trial.ended = True

    @precondition(lambda self: self.client is not None)
    @rule(number=st.integers(0, 1))
    def the_client_asks(self, number: int) -> None:
        gpu, owner, client = self.gpus[number], self.new("answer"), self.client or ""
        if self.change(gpu, lambda lease: lease.answering(owner, client, self.at, beside=self.beside)):
            gpu.generations.add(owner)

    @precondition(lambda self: self.client is not None)
    @rule(number=st.integers(0, 1))
    def the_answer_ends(self, number: int) -> None:
        gpu = self.gpus[number]
        for owner in list(gpu.generations):
            gpu.generations.remove(owner)
            gpu.lease = gpu.lease.answered(owner, 6000, self.at)

    @precondition(lambda self: self.client is not None)
    @rule(server_goes_on=st.booleans())
    def the_client_dies(self, server_goes_on: bool) -> None:
        self.client = None
        if not server_goes_on:
            for gpu in self.gpus:
                gpu.generations.clear()

    @precondition(lambda self: self.client is None)
    @rule()
    def the_next_client_silences_the_server(self) -> None:
        self.client = self.new("client")
        for gpu in self.gpus:
            gpu.generations.clear()
            gpu.lease = gpu.lease.silenced(self.at)

    @rule(number=st.integers(0, 1))
    def the_server_of_redis_loses_all(self, number: int) -> None:
        """The client cancels its answer at its next look, which comes before a new trial is timed."""
        gpu = self.gpus[number]
        gpu.generations.clear()
        gpu.lease = GpuLease()

    def running(self) -> list[tuple[Gpu, Trial]]:
        return [(gpu, trial) for gpu in self.gpus for trial in gpu.trials if not trial.ended]

    @invariant()
    def no_answer_overlaps_a_timed_phase_that_counts(self) -> None:
        for gpu in self.gpus:
            for trial in gpu.trials:
                overlaps = bool(gpu.generations) and not trial.ended and trial.phase in (STARTING, TIMED)
                holds = gpu.lease.holder == trial.holder and gpu.lease.phase is not IDLE
                assert not (overlaps and holds), "only a trial that has lost the GPU may train beside an answer"

    @invariant()
    def at_most_one_trial_holds_a_gpu_and_no_answer_is_unrecorded(self) -> None:
        for gpu in self.gpus:
            assert len(gpu.generations) <= 1
            assert gpu.generations <= {gpu.lease.answer.owner if gpu.lease.answer else ""}
            assert gpu.lease.overlap_s(self.at) == 0


TestAnySchedule = AnySchedule.TestCase
TestAnySchedule.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
