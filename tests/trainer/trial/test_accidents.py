"""Accidents of a real trial: who is killed or stopped from outside, and that no candidate is blamed for it at once."""

from __future__ import annotations

import dataclasses
import os
import selectors
import signal
import time
from collections.abc import Callable

import pytest

from tests.fixtures.trials import STEPS, MakeSpec, everything_dead
from trainer.jobs import Kind, Outcome, Progress, TrialResult, TrialSpec
from trainer.sandbox import launch
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.procfs import Process, descendants
from trainer.trial import supervise
from trainer.trial.trial import run_trial


def guardian() -> Process:
    """The only child of this process that has one of its own, while a trial runs."""
    return next(process for process in descendants(os.getpid()) if process.parent == os.getpid() and below(process.pid))


def below(pid: int) -> list[Process]:
    return [process for process in descendants(pid) if process.parent == pid]


class Outside:
    """Does something once, when the trial is in a phase; it is the trial's `report`."""

    def __init__(self, phase: str, act: Callable[[], None], looks: int = 1) -> None:
        self._phase, self._act, self._left = phase, act, looks

    def report(self, progress: Progress) -> None:
        """Called with every sample."""
        if progress.phase == self._phase and self._left:
            self._left -= 1
            if not self._left:
                self._act()


class Clock:
    """The supervisor's clock, which a test sets forward; `freeze` does so while the supervisor waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = self._frozen_s = 0.0
        monkeypatch.setattr(supervise.time, "monotonic", lambda real=time.monotonic: real() + self.ahead_s)
        monkeypatch.setattr(selectors.DefaultSelector, "select", self._select(selectors.DefaultSelector.select))

    def set_forward(self, by_s: float) -> None:
        """Time passes in which everybody runs."""
        self.ahead_s += by_s

    def freeze(self, for_s: float) -> None:
        """Time passes in which the supervisor does not run."""
        self._frozen_s = for_s

    def _select(self, real: Callable[..., object]) -> Callable[..., object]:
        def select(selector: object, timeout: float | None = None) -> object:
            self.ahead_s, self._frozen_s = self.ahead_s + self._frozen_s, 0.0
            return real(selector, timeout)

        return select


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def measure(spec: TrialSpec, config: WorkerConfig, outside: Outside) -> TrialResult:
    result = run_trial(spec, config, outside.report, lambda: False)
    assert everything_dead(config.work)
    return result


@pytest.mark.parametrize(
    ("number", "outcome", "words"),
    [
        (signal.SIGKILL, Outcome.CRASHED, "killed by SIGKILL, which the trainer did not send"),
        pytest.param(
            signal.SIGUSR1, Outcome.CRASHED, "killed by SIGUSR1, which the trainer did not send", marks=pytest.mark.slow
        ),
        pytest.param(signal.SIGSEGV, Outcome.CRASHED, None, marks=pytest.mark.slow),
    ],
)
def test_candidate_that_is_killed_from_outside_has_crashed_and_it_is_said_that_nobody_here_did_it(
    number: signal.Signals, outcome: Outcome, words: str | None, spec: MakeSpec, config: WorkerConfig
) -> None:
    outside = Outside("timed", lambda: os.kill(below(guardian().pid)[0].pid, number))

    result = measure(spec("hangs_in_training"), config, outside)

    assert result.outcome is outcome
    assert result.disturbed is None if words is None else words in (result.disturbed or "")


@pytest.mark.slow
def test_guardian_that_somebody_else_tells_to_end_loses_the_trial(spec: MakeSpec, config: WorkerConfig) -> None:
    outside = Outside("timed", lambda: os.kill(guardian().pid, signal.SIGTERM))

    result = measure(spec("hangs_in_training"), config, outside)

    assert (result.outcome, result.reason) == (Outcome.LOST, "somebody else told its guardian to end the trial")


def test_interrupt_and_hang_up_from_outside_do_nothing_to_a_candidate(spec: MakeSpec, config: WorkerConfig) -> None:
    def interrupt() -> None:
        for number in (signal.SIGINT, signal.SIGHUP):
            os.kill(below(guardian().pid)[0].pid, number)

    result = measure(
        spec("hangs_in_scoring", budget=dataclasses.replace(STEPS, scoring_s=1)), config, Outside("scoring", interrupt)
    )

    assert result.outcome is Outcome.TIMED_OUT, result.reason


def test_supervisor_that_was_frozen_while_a_limit_passed_has_lost_the_trial(
    spec: MakeSpec, config: WorkerConfig, clock: Clock
) -> None:
    result = measure(spec("hangs_in_training"), config, Outside("timed", lambda: clock.freeze(5000)))

    assert result.outcome is Outcome.LOST
    assert "the supervisor itself did not run for 5000 s" in result.reason


def test_limit_that_passes_while_the_supervisor_runs_is_the_candidates(
    spec: MakeSpec, config: WorkerConfig, clock: Clock
) -> None:
    result = measure(spec("hangs_in_training"), config, Outside("timed", lambda: clock.set_forward(5000)))

    assert result.outcome is Outcome.TIMED_OUT
    assert "it was stopped" not in (result.disturbed or "")


def test_candidate_that_was_stopped_while_a_limit_passed_was_held_up(
    spec: MakeSpec, config: WorkerConfig, clock: Clock
) -> None:
    stop = Outside("timed", lambda: os.kill(below(guardian().pid)[0].pid, signal.SIGSTOP))
    wait = Outside("timed", lambda: clock.set_forward(5000), looks=4)  # it was seen stopped at two of them

    def report(progress: Progress) -> None:
        wait.report(progress)
        stop.report(progress)

    result = run_trial(spec("hangs_in_training"), config, report, lambda: False)

    assert result.outcome is Outcome.TIMED_OUT
    assert "it was stopped for" in (result.disturbed or "")


def test_guardian_that_was_stopped_while_a_limit_passed_has_lost_the_trial(
    spec: MakeSpec, config: WorkerConfig, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "_GUARDIAN_S", 0.1)
    monkeypatch.setattr(launch, "_CLOSE_S", 0.1)

    def stop() -> None:
        os.kill(guardian().pid, signal.SIGSTOP)
        clock.set_forward(5000)

    result = measure(spec("hangs_in_training"), config, Outside("timed", stop))

    assert (result.outcome, result.reason) == (
        Outcome.LOST,
        "its guardian did not answer, so the time that passed says nothing",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "outcome", "words"),
    [("replica", Outcome.UNSCORABLE, "killed by SIGKILL"), ("its guardian", Outcome.LOST, None)],
)
def test_replica_that_is_killed_from_outside_makes_no_score_unscorable_for_good(
    victim: str,
    outcome: Outcome,
    words: str | None,
    spec: MakeSpec,
    config: WorkerConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[int] = []
    real = launch.GuardedProcess.start.__func__  # type: ignore[attr-defined]

    def start(cls: type[launch.GuardedProcess], orders: launch.Launch) -> launch.GuardedProcess:
        guarded: launch.GuardedProcess = real(cls, orders)
        started.append(guarded.pid)
        return guarded

    def kill_replica() -> bool:
        if len(started) == 2 and (found := below(started[1])):
            os.kill(found[0].pid if victim == "replica" else started[1], signal.SIGKILL)
            started.append(0)
        return False

    monkeypatch.setattr(launch.GuardedProcess, "start", classmethod(start))

    first = spec("tiny", trial="e-1-t0-a0", kind=Kind.FIRST, score_to_beat=99.0)
    result = run_trial(first, config, lambda _: None, kill_replica)

    assert result.outcome is outcome, result.reason
    assert result.disturbed is None if words is None else words in (result.disturbed or "")
    again = run_trial(dataclasses.replace(first, id="e-1-t0-a1", repeat=1), config, lambda _: None, lambda: False)
    assert again.outcome is Outcome.OK
