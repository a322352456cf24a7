"""Seconds of the LLM beside a trial are no hours of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.decision.cost import cost_of
from researcher.source.proposal import LlmCost, ProposerName
from tests.researcher.report.test_proposer_stats import RUN, experiment, first_trial
from trainer.jobs import Outcome

RAN = [(10.0, 20.0), (30.0, 40.0)]
TRIALS = [
    replace(first_trial(experiment(number, None, Outcome.OK, None)), wall_s=ended - began, finished_at=ended)
    for number, (began, ended) in enumerate(RAN)
]
WAITING = replace(TRIALS[0], finished=False, finished_at=None, wall_s=None)


@pytest.mark.parametrize(
    ("began", "ended", "beside_s"),
    [
        (0.0, 10.0, 0.0),
        (20.0, 30.0, 0.0),
        (40.0, 60.0, 0.0),
        (12.0, 18.0, 6.0),
        (15.0, 25.0, 5.0),
        (25.0, 32.0, 2.0),
        (15.0, 35.0, 10.0),
        (0.0, 100.0, 20.0),
    ],
)
def test_an_answer_beside_a_trial_takes_no_hours_and_no_rent_of_its_own(
    began: float, ended: float, beside_s: float
) -> None:
    asked = replace(
        experiment(1, ProposerName.LLM, Outcome.OK, None),
        proposed_at=ended,
        cost=LlmCost("u", "m", 1, 400, 100, ended - began),
    )

    cost = cost_of(RUN, [experiment(0, None, Outcome.OK, None), asked], [WAITING, *TRIALS])

    assert (cost.llm_s, cost.beside_s) == (ended - began, beside_s)
    assert cost.hours * 3600 == pytest.approx(20.0 + ended - began - beside_s)
    assert cost.money == pytest.approx(60.0 * cost.hours), "the price of an hour"


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 50.0)), max_size=5))
def test_hours_are_at_least_those_of_trials_and_at_most_those_with_all_answers(
    answers: list[tuple[float, float]],
) -> None:
    asked = [
        replace(
            experiment(number, ProposerName.LLM, Outcome.OK, None),
            proposed_at=ended,
            cost=LlmCost("u", "m", 1, 400, 100, seconds),
        )
        for number, (ended, seconds) in enumerate(answers)
    ]

    cost = cost_of(RUN, asked, TRIALS)

    assert cost.hours * 3600 + 1e-6 >= 20.0
    assert cost.hours * 3600 <= 20.0 + cost.llm_s + 1e-6
