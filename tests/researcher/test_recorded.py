"""What is recorded for `scripts/bench proposers`, and what is made of it."""

from __future__ import annotations

from collections import Counter

from researcher.knobs import set_knobs
from services.subject import render_subject
from tests.bench.design import BLOCK, REPEAT, point, searched, start_values
from tests.bench.record import recorded_profile

PROFILE = recorded_profile()
SOURCE = render_subject(PROFILE)["train.py"]


def test_design_is_the_same_whenever_it_is_asked_and_never_twice_the_same_trial() -> None:
    once = [point(SOURCE, PROFILE.context, 1, number) for number in range(56)]

    assert once == [point(SOURCE, PROFILE.context, 1, number) for number in range(56)]
    assert len({(each.seed, str(each.knobs)) for each in once}) == 56


def test_every_block_of_the_design_has_each_kind_in_its_share_and_only_values_that_run() -> None:
    points = [point(SOURCE, PROFILE.context, 1, number) for number in range(2 * len(BLOCK))]

    assert Counter(each.design for each in points[: len(BLOCK)]) == Counter(BLOCK)
    assert {each.design for each in points if each.knobs == start_values(searched(SOURCE))} >= {REPEAT}
    for each in points:
        set_knobs(SOURCE, each.knobs)  # refuses what is outside of a range
        rows, rest = divmod(int(each.knobs["TOTAL_BATCH_SIZE"]), PROFILE.context)
        assert rest == 0
        assert rows % int(each.knobs["DEVICE_BATCH_SIZE"]) == 0
