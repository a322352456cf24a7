"""The limits of a run: each includes the last experiment and the final confirmation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from researcher.decision.cost import Cost
from researcher.decision.goal import Standing, ends_at, exceeded, moment_text, reached, standing_of
from researcher.journal.records import Goal, Trial
from trainer.jobs import Kind, Outcome, profile_named

AT = 1_000_000.0
FREE = Cost(0, 0, 0, None)
NOW = Standing(7, FREE, AT, experiment_s=100, claim_s=800, price_per_hour=36.0)  # 0.01 a second
SPENT = replace(NOW, cost=Cost(100, 0, 0, 2.0))
BUDGET = profile_named("cpu").budget


@pytest.mark.parametrize(
    ("goal", "standing", "is_reached"),
    [
        (Goal(), replace(SPENT, measured=10_000), False),
        (Goal(experiments=8), NOW, False),
        (Goal(experiments=7), NOW, True),
        (Goal(until=AT + 901), NOW, False),
        (Goal(until=AT + 899), NOW, True),
        (Goal(max_cost=11.1), SPENT, False),
        (Goal(max_cost=10.9), SPENT, True),
        (Goal(max_cost=2.1), replace(SPENT, price_per_hour=None), False),
        (Goal(8, AT + 10_000, 10.9), SPENT, True),
    ],
)
def test_no_experiment_begins_that_would_end_with_its_confirmation_after_a_limit(
    goal: Goal, standing: Standing, is_reached: bool
) -> None:
    assert (reached(goal, standing) is not None) is is_reached


@pytest.mark.parametrize(
    ("goal", "is_over"),
    [
        (Goal(), False),
        (Goal(experiments=1), False),
        (Goal(until=AT + 1), False),
        (Goal(until=AT), True),
        (Goal(max_cost=2.1), False),
        (Goal(max_cost=2.0), True),
    ],
)
def test_a_limit_of_time_or_cost_that_has_passed_ends_all(goal: Goal, is_over: bool) -> None:
    assert (exceeded(goal, SPENT.cost, AT) is not None) is is_over


@pytest.mark.parametrize(
    ("goal", "end"),
    [
        (Goal(), None),
        (Goal(experiments=10), AT + 3 * 100 + 800),
        (Goal(experiments=3), AT + 800),
        (Goal(until=AT + 500), AT + 500),
        (Goal(until=AT - 500), AT),
        (Goal(max_cost=12.0), AT + 1000),
        (Goal(10, AT + 500, 12.0), AT + 500),
    ],
)
def test_the_expected_end_is_the_first_limit_with_the_final_confirmation(goal: Goal, end: float | None) -> None:
    assert ends_at(goal, SPENT) == end


def test_how_long_experiments_take_is_not_guessed() -> None:
    assert ends_at(Goal(experiments=10), replace(NOW, is_measured=False)) is None
    assert ends_at(Goal(experiments=10, until=AT + 9), replace(NOW, is_measured=False)) == AT + 9


def trial_of(number: int, took_s: float, outcome: Outcome = Outcome.OK, attempt: int = 0) -> Trial:
    return Trial(
        id=number, experiment=1, confirmation=None, kind=Kind.FIRST, number=number, attempt=attempt, faults=0, seed=1,
        score_to_beat=None, finished=True, outcome=outcome, reason=None, queued_at=AT, finished_at=AT + took_s,
    )  # fmt: skip


def test_a_trial_takes_what_the_latest_took_and_before_them_what_it_may_take() -> None:
    trials = [trial_of(number, 20 + number) for number in range(1, 5)]
    lost, failed = trial_of(9, 90_000, attempt=1), trial_of(10, 1, Outcome.CRASHED)

    early = standing_of([], trials[:1], FREE, BUDGET, AT, None)
    later = standing_of([], [*trials, lost, failed], FREE, BUDGET, AT, None)

    assert early.experiment_s == BUDGET.wall_limit_s
    assert (early.is_measured, later.is_measured) == (False, True)
    assert 21 <= later.experiment_s <= 24
    assert later.claim_s == 8 * later.experiment_s, "the longest claim: four pairs"


def test_a_moment_of_another_day_has_its_date() -> None:
    assert len(moment_text(AT)) > len("07:00")
