"""A machine that other programs keep busy: which time-outs may be due to it, and that they are marked for a repeat."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.fixtures.trials import STEPS, MakeSpec, Run
from trainer.jobs import Clock, Outcome
from trainer.trial.machine import ProcessorTime, busy_text

BUDGET = replace(STEPS, clock=Clock.WALL, amount=0.5)  # with the overrun 2.5 s, and on a busy machine 4.5 s
TRAINS = """
import time
from prepare import make_dataloader, evaluate_bpb
begun = time.monotonic()
for _ in make_dataloader(None, 8, 32, "train"):
    time.sleep(0.01)
    if time.monotonic() - begun > {seconds}:
        break
evaluate_bpb(lambda x: x, None, 8)
"""


@pytest.fixture
def others(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """Let the kernel's counters show two processors, of which other programs use this share."""
    passed = iter(range(1, 10_000))

    def readings() -> Iterator[ProcessorTime]:
        for at in passed:
            yield ProcessorTime(1000.0 * at, 1000.0 * at * request.param)

    counters = readings()
    monkeypatch.setattr(ProcessorTime, "now", lambda: next(counters))
    return float(request.param)


@pytest.mark.parametrize(
    ("used_s", "own_s", "words"),
    [(100.0, 0.0, "used 50% of its"), (100.0, 90.0, None), (200.0, 20.0, "used 90% of its"), (20.0, 0.0, "used 10%")],
)
def test_only_the_use_of_other_programs_makes_a_machine_busy(used_s: float, own_s: float, words: str | None) -> None:
    found = busy_text(ProcessorTime(500.0, 300.0), ProcessorTime(700.0, 300.0 + used_s), own_s)

    assert found is None if words is None else words in (found or "")


def test_a_kernel_that_shows_no_counters_shows_no_busy_machine() -> None:
    assert busy_text(None, ProcessorTime(1.0, 1.0), 0.0) is None
    assert busy_text(ProcessorTime(1.0, 1.0), None, 0.0) is None
    assert busy_text(ProcessorTime(1.0, 1.0), ProcessorTime(1.0, 1.0), 0.0) is None


def test_counters_of_this_machine_grow() -> None:
    before, now = ProcessorTime.now(), ProcessorTime.now()

    assert before is not None
    assert now is not None
    assert 0 < before.used_s < before.passed_s <= now.passed_s


@pytest.mark.parametrize(
    ("others", "seconds", "is_repeated"), [(0.5, 3.2, True), (0.01, 3.2, False), (0.5, 9.0, False)], indirect=["others"]
)
def test_a_time_out_near_its_limit_is_measured_again_on_a_busy_machine(
    others: float, seconds: float, is_repeated: bool, spec: MakeSpec, run: Run
) -> None:
    result = run(spec(TRAINS.format(seconds=seconds), budget=BUDGET))

    assert result.outcome is Outcome.TIMED_OUT, result.reason
    assert result.reason.startswith("its training took too long")
    assert (result.disturbed is not None) is is_repeated, f"others use {others:.0%}"


@pytest.mark.parametrize(("others", "is_repeated"), [(0.5, True), (0.01, False)], indirect=["others"])
def test_a_phase_that_hangs_on_a_busy_machine_is_measured_once_more(
    others: float, is_repeated: bool, spec: MakeSpec, run: Run
) -> None:
    result = run(spec("hangs_in_scoring", budget=replace(STEPS, scoring_s=1)))

    assert (result.outcome, result.reason) == (Outcome.TIMED_OUT, "it was not scored within 1 s")
    assert (result.disturbed is not None) is is_repeated, f"others use {others:.0%}"
