"""The one place where a direction counts: scores compare alike, whichever way a metric improves."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from trainer.jobs.metric import BITS_PER_BYTE, Degree, Direction, Metric, share_of

ACCURACY = Metric("accuracy", Direction.HIGHER)
numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(numbers, numbers)
def test_a_better_value_has_a_lower_score(one: float, other: float) -> None:
    assert (ACCURACY.score_of(one) < ACCURACY.score_of(other)) == (one > other)
    assert (BITS_PER_BYTE.score_of(one) < BITS_PER_BYTE.score_of(other)) == (one < other)


@given(numbers, st.sampled_from([ACCURACY, BITS_PER_BYTE]))
def test_a_score_gives_its_value_back(value: float, metric: Metric) -> None:
    assert metric.value_of(metric.score_of(value)) == value


def test_zero_is_shown_without_a_sign() -> None:
    assert ACCURACY.text(ACCURACY.score_of(0.0)) == "0.000000"
    assert math.copysign(1, ACCURACY.score_of(0.0)) == 1


def test_a_gain_is_a_share_of_the_baseline_whatever_its_sign() -> None:
    assert share_of(0.1, ACCURACY.score_of(0.5)) == 0.2
    assert share_of(0.1, 0.5) == 0.2
    assert share_of(0.1, 0.0) is None


def test_unit_direction_and_degree_are_explained() -> None:
    assert BITS_PER_BYTE.explained() == "bits per byte, lower is better"
    assert ACCURACY.explained() == "higher is better"
    assert ACCURACY.explained(Degree.CLAIMED) == "higher is better, claimed by the script"
