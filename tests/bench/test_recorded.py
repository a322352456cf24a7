"""The recording for `scripts/bench proposers`, and the world made of it."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from researcher.source.knobs import set_knobs
from services.machine.subject import render_subject
from tests.bench.design import BLOCK, REPEAT, point, searched, start_values
from tests.bench.proposers import interval
from tests.bench.proposing import OPTIMIZER, PROPOSERS, SimulatedRun
from tests.bench.record import recorded_profile
from tests.bench.table import Recording, World, read

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


def lines(count: int) -> list[str]:
    """Return a recording without real scores: a deep model is worse, and the deepest fails."""
    told = [json.dumps({"profile": PROFILE.name, "budget": asdict(PROFILE.budget)})]
    for number in range(count):
        each = asdict(point(SOURCE, PROFILE.context, 1, number))
        depth = each["knobs"]["DEPTH"]
        score = None if depth == 6 else 2.0 + 0.1 * depth + 0.001 * (number % 3)
        told.append(
            json.dumps(each | {"outcome": "ok" if score else "timed_out", "val_bpb": score, "wall_s": 8.0 + depth})
        )
    return told


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    file = tmp_path_factory.mktemp("recorded") / "trials.jsonl.xz"
    file.write_bytes(lzma.compress(("\n".join(lines(3 * len(BLOCK))) + "\n").encode()))
    return read(file)


@pytest.fixture(scope="module")
def world(recording: Recording) -> World:
    return World(recording)


def test_recording_is_read_without_a_line_that_was_cut_off(tmp_path: Path) -> None:
    file = tmp_path / "trials.jsonl"
    file.write_text("\n".join(lines(4))[:-20])

    assert [trial.knobs for trial in read(file).trials] == [
        point(SOURCE, PROFILE.context, 1, number).knobs for number in range(3)
    ]


def test_world_foresees_what_it_was_made_of_and_fails_where_trials_failed(world: World) -> None:
    start = start_values(searched(SOURCE))

    assert world.truth(start) == pytest.approx(2.2, abs=0.02)
    assert world.truth(start | {"DEPTH": 4}) == pytest.approx(2.4, abs=0.05)
    assert world.truth(start | {"DEPTH": 6, "ASPECT_RATIO": 100}) is None
    assert world.wall_s(start) == pytest.approx(10, abs=1)


def test_knobs_that_make_the_same_model_have_the_same_truth(world: World) -> None:
    start = start_values(searched(SOURCE))

    assert world.truth(start | {"WINDOW_PATTERN": "SLSL"}) == world.truth(start)  # of two layers the last is whole
    assert world.truth(start | {"ASPECT_RATIO": 63}) == world.truth(start)  # rounded up to whole heads


def test_run_in_the_world_goes_the_same_way_twice_and_holds_more_and_more(world: World) -> None:
    once, twice = (SimulatedRun(world, PROPOSERS[OPTIMIZER](3, world.context), 3).run(8) for _ in range(2))

    assert once.held == twice.held
    assert len(once.held) == 9
    assert once.held[-1] < once.held[0] - 0.05  # half the depth is found


def test_interval_of_equal_differences_is_that_difference_and_of_scattered_ones_holds_their_mean() -> None:
    low, high = interval(np.array([0.5, -0.5] * 50))

    assert interval(np.full(20, 0.25)) == (0.25, 0.25)
    assert low == pytest.approx(-0.1, abs=0.02)  # two standard errors of a mean of 100
    assert high == pytest.approx(0.1, abs=0.02)
