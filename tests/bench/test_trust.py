"""The conclusions that the benches of trust draw from their figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.beside import Costs, Mean, _show
from tests.bench.honest import Seen, _in_words, _numbers
from tests.fixtures.examined import Look


def pairs(differences: list[float]) -> list[tuple[Costs, Costs]]:
    """Return the costs of two checkouts, of which the second needs so many seconds more."""
    return [({("plain", "both", "wall"): 5.0}, {("plain", "both", "wall"): 5.0 + more}) for more in differences]


def test_a_mean_has_the_interval_of_students_t() -> None:
    found = Mean.of([1.0, 2.0, 3.0])

    assert (found.n, found.value) == (3, 2.0)
    assert found.reach == pytest.approx(4.30 / 3**0.5)


@pytest.mark.parametrize(
    ("differences", "verdict", "dearer"),
    [
        ([-0.1, 0.2, -0.2, 0.1], "equal within the interval", False),
        ([1.0, 1.1, 0.9, 1.0], "dearer here", True),
        ([-1.0, -1.1, -0.9, -1.0], "cheaper here", False),
    ],
)
def test_pairs_say_which_code_is_dearer(
    differences: list[float], verdict: str, dearer: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _show(Path("other"), pairs(differences)) is dearer

    assert verdict in capsys.readouterr().out


def test_the_bound_of_false_alarms_is_three_in_n_or_the_upper_end_of_their_interval() -> None:
    none = [Seen("a", trials=1, looks=[Look(None, None)] * 299)]
    one = [Seen("a", trials=1, looks=[Look(None, None)] * 299, alarms=["it looks ahead"])]

    assert "0 false alarms in 300 examinations of 1 models" in _in_words(none)
    assert "below 1.00% of" in _in_words(none)
    assert "below 1.86% of" in _in_words(one)


def test_numbers_of_a_finding_are_told_those_of_its_parts_too() -> None:
    assert _numbers({"rows": 3, "noise": 0.5, "exact": True, "gain": {"mean": 1, "error": 2.0}}) == {
        "noise": 0.5,
        "gain mean": 1.0,
        "gain error": 2.0,
    }
