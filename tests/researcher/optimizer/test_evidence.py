"""What counts around an incumbent: means of all scores, moves of knobs alone from elsewhere, shifted to it."""

from __future__ import annotations

import pytest

from researcher.optimizer.evidence import Evidence, Measured, structure_of
from researcher.source.knobs import read_knobs

A = """\
DEPTH = 2  # layers; range 1..6
LR = 0.04  # step size; range 0.005..0.2 log
FIXED = 7
"""
B = A.replace("FIXED = 7", "FIXED = 8")
C = A.replace("FIXED = 7", "FIXED = 9")


def deep(source: str, depth: int) -> str:
    return source.replace("DEPTH = 2", f"DEPTH = {depth}")


def around(
    source: str, *told: tuple[int | None, str, list[float]], extra: dict[int, list[float]] | None = None
) -> dict[tuple[object, ...], float]:
    """What `told` (parent, source, scores), numbered from 1, says around a source."""
    evidence = Evidence()
    scores = {number: item[2] for number, item in enumerate(told, 1) if item[2]}
    fresh = [Measured(number, parent, text) for number, (parent, text, _) in enumerate(told, 1)]
    evidence.learn(fresh, scores)
    evidence.learn([], scores | (extra or {}))
    knobs = read_knobs(source)
    ranges = {name: knob.range for name, knob in knobs.items() if knob.range is not None}
    return dict(evidence.around(structure_of(source), ranges, {name: knob.value for name, knob in knobs.items()}))


def test_a_structure_is_the_code_without_the_values_of_its_ranged_knobs() -> None:
    assert structure_of(A) == structure_of(deep(A, 5).replace("0.04", "0.1")) == structure_of(f"# why\n{A}")
    assert structure_of(A) != structure_of(B)
    assert structure_of(A) == structure_of(A.replace("1..6", "1..4")), "a range is a comment"


@pytest.mark.parametrize(
    "other",
    [
        deep(A, 5).replace("0.04", "0.1"),
        deep(A, 2**2).replace("DEPTH = 4", "DEPTH = 2**2"),
        deep(A, 4).replace("= 4 ", "= 4  # was 2"),
        A.replace("FIXED = 7", "FIXED = 7\nDEPTH = 4  # layers; range 1..6"),
        A.replace("DEPTH = 2", "DEPTH = 9"),
        A.replace("DEPTH = 2", "DEPTH = (2, 3)"),
        A.replace("DEPTH = 2", "DEPTH = int(2)"),
        A.replace("1..6", "1..4"),
        f"{A}LATER = 3\n",
        f"EARLIER = 3\n{A}",
        "FIXED = 7\n",
    ],
)
def test_what_was_read_before_changes_nothing_in_what_a_source_is(other: str) -> None:
    alone, after = Evidence(), Evidence()
    alone.learn([Measured(2, None, other)], {})
    after.learn([Measured(1, None, A), Measured(2, None, other)], {})

    names = [name for name, knob in read_knobs(other).items() if knob.range is not None]
    structure = structure_of(other)
    assert alone.own(structure, names) <= after.own(structure, names)
    assert len(after.own(structure, [])) == len(alone.own(structure, [])) == 1
    assert all(
        tuple(read_knobs(other)[name].value for name in names) in of.own(structure, names) for of in (alone, after)
    )


def test_repeats_are_one_observation_with_the_mean_of_all_also_when_they_come_later() -> None:
    assert around(A, (None, A, [1.0, 1.2])) == {(2, 0.04): pytest.approx(1.1)}
    assert around(A, (None, A, [1.0]), extra={1: [1.0, 1.2, 1.4]}) == {(2, 0.04): pytest.approx(1.2)}


def test_the_same_knobs_of_two_experiments_are_one_observation() -> None:
    assert around(A, (None, A, [1.0]), (1, deep(A, 3), [2.0]), (1, f"{deep(A, 3)}# a user's", [3.0, 4.0])) == {
        (2, 0.04): 1.0,
        (3, 0.04): 3.0,
    }


def test_a_failed_candidate_is_as_bad_as_the_worst_seen() -> None:
    assert around(A, (None, A, [1.0]), (1, deep(A, 6), []), (1, deep(A, 3), [1.7])) == {
        (2, 0.04): 1.0,
        (6, 0.04): 1.7,
        (3, 0.04): 1.7,
    }


def test_a_broken_structural_edit_says_nothing_against_the_knobs_it_left_alone() -> None:
    assert around(A, (None, A, [1.0]), (1, B, []), (1, deep(B, 5), []), (1, deep(A, 3), [2.0])) == {
        (2, 0.04): 1.0,
        (3, 0.04): 2.0,
    }


def test_a_measured_structural_edit_says_nothing_of_them_either() -> None:
    assert around(A, (None, A, [1.0]), (1, deep(B, 5), [9.0])) == {(2, 0.04): 1.0}


def test_after_a_structural_keep_what_knobs_gained_before_is_carried_over_to_the_new_score() -> None:
    found = around(B, (None, A, [2.0]), (1, deep(A, 3), [1.8]), (1, B, [1.5]), (3, deep(B, 4), [1.6]))

    assert found == {(2, 0.04): pytest.approx(1.5), (3, 0.04): pytest.approx(1.3), (4, 0.04): 1.6}


def test_what_was_measured_around_the_incumbent_itself_counts_instead_of_what_was_carried_over() -> None:
    found = around(B, (None, A, [2.0]), (1, deep(A, 3), [1.8]), (1, B, [1.5]), (3, deep(B, 3), [1.9]))

    assert found == {(2, 0.04): 1.5, (3, 0.04): 1.9}


def test_back_at_the_structure_before_the_shift_is_undone_and_siblings_are_shifted_through_it() -> None:
    told = ((None, A, [2.0]), (1, B, [1.5]), (2, deep(B, 4), [1.4]), (1, C, [2.5]), (4, deep(C, 5), [2.7]))

    assert around(A, *told) == {(2, 0.04): 2.0, (4, 0.04): pytest.approx(1.9), (5, 0.04): pytest.approx(2.2)}
    assert around(C, *told)[4, 0.04] == pytest.approx(2.4)


def test_a_knob_that_only_the_incumbent_has_is_taken_to_have_been_as_there() -> None:
    wider = f"{A}WIDTH = 8  # units; range 2..64\n"

    found = around(wider, (None, A, [2.0]), (1, deep(A, 3), [1.8]), (1, wider, [1.5]))

    assert found == {(2, 0.04, 8): 1.5, (3, 0.04, 8): pytest.approx(1.3)}


def test_what_is_outside_of_the_ranges_of_now_does_not_count() -> None:
    assert around(A.replace("1..6", "1..3"), (None, A, [2.0]), (1, deep(A, 5), [1.0])) == {(2, 0.04): 2.0}


def test_before_the_first_score_nothing_is_known() -> None:
    assert around(A, (None, A, [])) == {}
