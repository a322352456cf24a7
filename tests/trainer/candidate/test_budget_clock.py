"""The candidate's clock: the warm-up is bounded, steps are counted once, the marks come in order."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trainer.candidate.budget_clock import BudgetClock
from trainer.candidate.protocol import Channel, MessageType


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    theirs, ours = Channel.pair()
    ours.setblocking(False)
    yield Channel(theirs), Channel(ours)
    theirs.close()
    ours.close()


def words(channel: Channel) -> list[MessageType]:
    heard = []
    try:
        while (message := channel.receive()) is not None:
            heard.append(message.word)
    except BlockingIOError:
        return [word for word in heard if word is not MessageType.PROGRESS]
    return heard


def test_a_budget_of_steps_allows_that_many_steps(ends: tuple[Channel, Channel]) -> None:
    budget_clock = BudgetClock("steps", 4, 0, 0.0, ends[0])
    budget_clock.batch_taken(100)

    taken = 0
    while budget_clock.progress() < 1:
        taken += 1
        budget_clock.batch_taken(100)

    assert (taken, budget_clock.steps, budget_clock.tokens) == (4, 4, 500)
    assert words(ends[1]) == [MessageType.FIRST_BATCH, MessageType.WARM]


def test_warm_up_costs_nothing_until_its_last_step(ends: tuple[Channel, Channel]) -> None:
    budget_clock = BudgetClock("steps", 2, 3, 1000.0, ends[0])
    budget_clock.batch_taken(1)

    shares = [budget_clock.progress() for _ in range(6)]

    assert shares == [0, 0, 0, 0, 0.5, 1]
    assert words(ends[1]) == [MessageType.FIRST_BATCH, MessageType.WARM]


def test_warm_up_ends_by_its_seconds_too(ends: tuple[Channel, Channel]) -> None:
    budget_clock = BudgetClock("wall", 1000, 10, 0.0, ends[0])

    budget_clock.batch_taken(1)

    assert words(ends[1]) == [MessageType.FIRST_BATCH, MessageType.WARM]


def test_script_that_never_asks_is_counted_by_its_optimiser(ends: tuple[Channel, Channel]) -> None:
    budget_clock = BudgetClock("wall", 1000, 2, 1000.0, ends[0])
    budget_clock.batch_taken(1)

    muon, adam = object(), object()

    for optimizer in (muon, adam):
        budget_clock.optimizer_stepped(optimizer, (), {})
    assert words(ends[1]) == [MessageType.FIRST_BATCH]
    budget_clock.optimizer_stepped(muon, (), {})

    assert words(ends[1]) == [MessageType.WARM]
    assert budget_clock.steps == 2


def test_progress_before_the_first_batch_is_zero(ends: tuple[Channel, Channel]) -> None:
    budget_clock = BudgetClock("wall", 1e-9, 0, 0.0, ends[0])

    assert budget_clock.progress() == 0
    budget_clock.batch_taken(1)
    assert budget_clock.progress() == 1


class Seconds:
    """What the candidate's clock reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("trainer.candidate.budget_clock.read_clock", lambda _: self.now)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


def test_long_set_up_costs_budget(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = Seconds(monkeypatch)
    budget_clock = BudgetClock("processor", 10, 0, 0.0, ends[0], free_setup=0.5, overrun=1)
    seconds.pass_by(3)

    budget_clock.batch_taken(1)

    assert budget_clock.progress() == pytest.approx(0.25)


def test_set_up_is_read_from_its_own_clock(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"wall": 100.0, "processor": 5.0}
    monkeypatch.setattr("trainer.candidate.budget_clock.read_clock", seconds.__getitem__)
    budget_clock = BudgetClock("wall", 10, 0, 0.0, ends[0], free_setup=0.5, overrun=1, setup_clock="processor")
    seconds.update(wall=160.0, processor=7.5)

    budget_clock.batch_taken(1)

    assert budget_clock.progress() == pytest.approx(0.2)


def test_short_set_up_costs_nothing(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = Seconds(monkeypatch)
    budget_clock = BudgetClock("processor", 10, 0, 0.0, ends[0], free_setup=0.5, overrun=1)
    seconds.pass_by(0.5)

    budget_clock.batch_taken(1)

    assert budget_clock.progress() == 0


@pytest.mark.parametrize(("step_s", "trained_s"), [(0.3, 10.2), (2.5, 10), (3, 9), (4, 8), (11, 11)])
def test_step_that_would_end_far_behind_the_budget_is_not_begun(
    step_s: float, trained_s: float, ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = Seconds(monkeypatch)
    budget_clock = BudgetClock("processor", 10, 0, 0.0, ends[0], overrun=1)
    budget_clock.batch_taken(1)
    while budget_clock.progress() < 1:
        seconds.pass_by(step_s)

    assert seconds.now - 100 == pytest.approx(trained_s)
