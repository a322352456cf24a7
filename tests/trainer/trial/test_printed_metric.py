"""The value of a metric in the output of a command."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.trial.printed_metric import printed_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("accuracy: 0.5\n", 0.5),
        ("accuracy=0.5", 0.5),
        ("  accuracy :  -1.5e-3  \n", -0.0015),
        ("accuracy: 1\naccuracy: 2\nloss: 3\n", 2.0),
        ('{"accuracy": 0.5, "loss": 1}', 0.5),
        ('accuracy: 1\n{"accuracy": 2}', 2.0),
        ('{"accuracy": 2}\naccuracy: 1', 1.0),
        (f'{{"accuracy": {10**400}}}', math.inf),
        ('{"accuracy": true}', None),
        ('{"accuracy": "1"}', None),
        ('{"accuracy": ', None),
        ("[" * 100_000, None),
        ("val_accuracy: 1", None),
        ("accuracy: 1 of 2", None),
        ("accuracy: 1 %", None),
        ("accuracy:", None),
        ("", None),
    ],
)
def test_the_last_line_with_the_name_counts(text: str, value: float | None) -> None:
    assert printed_value(text, "accuracy") == value


def test_a_name_is_no_pattern() -> None:
    assert printed_value("acc@1: 1", "acc.1") is None
    assert printed_value("acc@1: 1", "acc@1") == 1


def test_a_number_that_is_none_is_given_as_such() -> None:
    value = printed_value("accuracy: nan", "accuracy")

    assert value is not None
    assert math.isnan(value)
    assert printed_value("accuracy: -inf", "accuracy") == -math.inf


@given(st.floats(allow_nan=False))
def test_any_printed_number_is_read(value: float) -> None:
    assert printed_value(f"accuracy: {value}", "accuracy") == value


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    printed_value(text, "a")
