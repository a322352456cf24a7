"""What counts as training, wherever in a trial it is done."""

from __future__ import annotations

import dataclasses

import pytest

from tests.fixtures.trials import STEPS
from trainer.jobs import PROFILES, Clock
from trainer.trial.limits import Mark, Timeline
from trainer.trial.training_time import Grace, Trained, most_trained, tolerated, trained

BUDGET = dataclasses.replace(STEPS, clock=Clock.PROCESSOR, amount=15)
ON_THE_WALL = dataclasses.replace(PROFILES["80gb"].budget, clock=Clock.WALL, amount=300)


def at(seconds: float) -> Mark:
    return Mark(seconds, seconds)


def account(answers: list[float], setup: float = 0.1, save: float = 0.0, **fields: object) -> Trained:
    """Of a trial that trained for 15 s, in which each answer took so long."""
    marks = Timeline(at(0), imported=at(0), first_batch=at(setup), warm=at(setup), ready=at(setup + 15))
    now = setup + 15 + save
    marks.saved = at(now)
    for took in answers:
        now += took
        marks.answers.append(at(now))
    found = trained(marks, dataclasses.replace(BUDGET, **fields), at(now))  # type: ignore[arg-type]
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([0.1] * 64, 0.0),
        ([0.2, 0.0] * 32, 0.0),  # noticed two at a time
        ([0.1, 0.15] * 32, 0.0),
        ([5.0] + [0.1] * 63, 5 - 0.33),
        ([0.1, 5.0] + [0.1] * 62, 5.1 - 0.33),
        ([0.1] * 30 + [5.0] + [0.1] * 33, 5.1 - 0.33),
        ([0.1] * 63 + [5.0], 5.1 - 0.33),
        ([5.0], 5 - 0.03),
        ([], 0.0),
    ],
)
def test_an_answer_that_takes_longer_than_the_others_is_training(answers: list[float], asked: float) -> None:
    assert account(answers).asked == pytest.approx(asked, abs=0.01)


def test_what_may_be_compiled_at_the_first_question_is_bounded() -> None:
    found = account([150.0] + [0.1] * 63, warmup_cap_s=100)

    assert found.asked == pytest.approx(50 - 0.33, abs=0.01)


def test_set_up_beyond_what_is_free_and_saving_are_training() -> None:
    found = account([0.1] * 9, setup=2.0, save=0.7)

    assert found.before == pytest.approx(1.7)
    assert found.timed == pytest.approx(15.7)
    assert found.in_all == pytest.approx(17.4)
    assert (
        found.fault(BUDGET)
        == "its set-up, of which 0.3 processor seconds are free, took too long: it trained 17.4 processor seconds, "
        "with 1.7 processor seconds before its first batch; the budget is 15"
    )


def test_long_set_up_is_over_before_there_is_a_batch() -> None:
    found = trained(Timeline(at(0), imported=at(0)), BUDGET, at(20))

    assert found is not None
    assert found.fault(BUDGET) is not None


def test_nothing_is_counted_where_steps_are() -> None:
    assert trained(Timeline(at(0), imported=at(0), first_batch=at(1), warm=at(1)), STEPS, at(99)) is None


@pytest.mark.parametrize(("amount", "share"), [(3, 0.25), (15, 0.07), (300, 0.021)])
def test_what_is_free_is_a_small_share_of_a_budget_of_processor_seconds(amount: float, share: float) -> None:
    budget = dataclasses.replace(BUDGET, amount=amount)

    assert (most_trained(budget) + Grace.of(budget).setup) / amount - 1 <= share + 1e-9


def test_what_is_free_is_a_small_share_of_a_budget_on_the_wall() -> None:
    assert (most_trained(ON_THE_WALL) + Grace.of(ON_THE_WALL).setup) / 300 - 1 <= 0.081


@pytest.mark.parametrize(
    ("found", "phase"),
    [
        (Trained(before=0.0, timed=18.0, asked=0.0), "its training took too long"),
        (Trained(before=0.1, timed=18.0, asked=0.1), "its training took too long"),
        (Trained(before=3.0, timed=15.0, asked=0.0), "its set-up, of which 0.3 processor seconds are free, took"),
        (Trained(before=0.0, timed=15.0, asked=2.0), "its answers took too long"),
        (
            Trained(before=0.0, timed=18.0, asked=0.0, cut=True),
            "its warm-up of 11 steps, of which 100 s are free, took",
        ),
    ],
)
def test_a_time_out_names_the_phase_that_ran_out(found: Trained, phase: str) -> None:
    budget = dataclasses.replace(BUDGET, warmup_steps=11, warmup_cap_s=100)

    assert (found.fault(budget) or "").startswith(phase)


def test_warm_up_that_ends_at_its_cap_is_known() -> None:
    budget = dataclasses.replace(ON_THE_WALL, warmup_steps=11, warmup_cap_s=100)
    begun = Timeline(at(0), imported=at(0), first_batch=at(1), warm=at(101))

    cut, whole = (trained(dataclasses.replace(begun, warm=at(warm)), budget, at(500)) for warm in (101, 100))

    assert cut is not None
    assert whole is not None
    assert (cut.cut, whole.cut) == (True, False)


@pytest.mark.parametrize(("free", "before"), [(None, 7.0), (4.0, 6.0), (20.0, 0.0), (0.1, 7.0)])
def test_set_up_is_free_as_far_as_the_baselines(free: float | None, before: float) -> None:
    budget = dataclasses.replace(ON_THE_WALL, amount=10, free_setup=free)
    found = trained(Timeline(at(0), imported=at(0), first_batch=at(10)), budget, at(10))

    assert found is not None
    assert found.before == pytest.approx(before)


def test_set_up_without_a_gpu_counts_processor_seconds_beside_a_budget_of_wall_seconds() -> None:
    budget = dataclasses.replace(ON_THE_WALL, amount=10, setup_clock=Clock.PROCESSOR, free_setup=2.0)
    waited = Timeline(Mark(0, 0), imported=Mark(10, 1), first_batch=Mark(70, 4), warm=Mark(71, 5))

    found = trained(waited, budget, Mark(80, 9))

    assert found is not None
    assert (found.before, found.timed) == (pytest.approx(1.0), pytest.approx(9.0))


@pytest.mark.parametrize(("amount", "free", "late"), [(300, None, 15), (300, 40, 40), (300, 600, 60), (2, 0.1, 2)])
def test_a_busy_machine_excuses_no_more_than_the_free_set_up(amount: float, free: float | None, late: float) -> None:
    assert tolerated(dataclasses.replace(ON_THE_WALL, amount=amount, free_setup=free)) == pytest.approx(late)
