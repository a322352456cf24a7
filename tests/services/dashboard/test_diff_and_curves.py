"""The difference of two sources, and the paths of loss curves, as pure functions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dashboard.curves import curves_of, loss_at
from services.dashboard.diff import CONTEXT, MOST_LINES, diff_of
from trainer.jobs import LossPoint

LINES = st.lists(st.sampled_from(["a = 1", "b = 2", "", "def f():", "    return a"]), max_size=40)


def made_of(old: str, new: str) -> str:
    """The new source, made of the old one and the hunks of their difference."""
    lines, at = [], 0
    before = old.splitlines()
    for hunk in diff_of(old, new).hunks:
        first = next((line.old for line in hunk if line.old is not None), None)
        first = at + 1 if first is None else first
        lines += before[at : first - 1]
        at = first - 1
        for line in hunk:
            at += line.mark != "+"
            lines += [line.text] if line.mark != "-" else []
    return "\n".join([*lines, *before[at:]])


@given(LINES, LINES)
def test_the_hunks_make_the_new_source_out_of_the_old_one(old: list[str], new: list[str]) -> None:
    before, after = "\n".join(["x", *old]), "\n".join(["x", *new])

    assert made_of(before, after) == "\n".join(after.splitlines())


def test_a_hunk_has_context_and_far_changes_have_hunks_of_their_own() -> None:
    old = [f"line {n}" for n in range(60)]
    new = [*old[:10], "changed", *old[11:50], *old[51:]]

    found = diff_of("\n".join(old), "\n".join(new))

    assert [len(hunk) for hunk in found.hunks] == [2 * CONTEXT + 2, 2 * CONTEXT + 1]
    assert (found.added, found.removed, found.left_out) == (1, 2, 0)


def test_equal_sources_have_no_hunk() -> None:
    assert diff_of("a\nb", "a\nb").hunks == ()


def test_a_large_difference_is_bounded_and_counts_what_it_leaves_out() -> None:
    chance = random.Random(1)
    old, new = ("\n".join(str(chance.random()) for _ in range(20_000)) for _ in range(2))

    found = diff_of(old, new)

    assert sum(map(len, found.hunks)) == MOST_LINES
    assert (found.added, found.removed) == (20_000, 20_000)
    assert found.left_out == 40_000 - MOST_LINES


def test_what_a_large_difference_shares_is_its_context_and_counts_as_no_change() -> None:
    chance = random.Random(1)
    old, new = ("\n".join([*"abcde", *(str(chance.random()) for _ in range(size)), "z"]) for size in (3_000, 2_000))

    found = diff_of(old, new)

    assert (found.added, found.removed) == (2_000, 3_000)
    assert [line.text for line in found.hunks[0][:CONTEXT]] == ["c", "d", "e"]
    assert found.left_out == CONTEXT + 1 + 5_000 - MOST_LINES


def curve(*losses: float) -> list[LossPoint]:
    return [LossPoint(at, at / len(losses), loss) for at, loss in enumerate(losses)]


def test_two_curves_share_a_scale_and_compare_at_the_same_share() -> None:
    found = curves_of(curve(4.0, 3.0), curve(5.0, 4.0, 3.0, 2.0))

    assert found is not None
    assert (found.low, found.high) == (2.0, 5.0)
    assert (found.last, found.compared_there) == (3.0, 3.0)
    assert found.path.startswith("M6.0 ")


@pytest.mark.parametrize("losses", [[], [float("nan")], [float("inf"), float("nan")]])
def test_without_a_finite_loss_there_is_no_picture(losses: list[float]) -> None:
    assert curves_of(curve(*losses), []) is None


def test_before_the_first_point_there_is_no_loss() -> None:
    assert loss_at([LossPoint(5, 0.5, 1.0)], 0.4) is None
