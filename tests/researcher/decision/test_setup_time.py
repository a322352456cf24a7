"""How long the set-up of a trial may take, from the baseline's own set-ups."""

from __future__ import annotations

from dataclasses import replace

import pytest

from researcher.decision.setup_time import BASELINE_SETUP_S, with_setup
from trainer.jobs import PROFILES, Clock

ON_A_GPU = PROFILES["80gb"].budget
WITHOUT = replace(ON_A_GPU, setup_clock=Clock.PROCESSOR, setup_s=60)


def test_the_baselines_own_set_up_is_free() -> None:
    found = with_setup(WITHOUT, None)

    assert (found.free_setup, found.setup_s) == (BASELINE_SETUP_S, BASELINE_SETUP_S)


@pytest.mark.parametrize(
    ("measured", "free"), [([3.0], 6.0), ([3.0, 4.0, 90.0], 8.0), ([20.0, 30.0], 50.0), ([0.0] * 5, 0.0)]
)
def test_later_trials_have_twice_the_median(measured: list[float], free: float) -> None:
    assert with_setup(ON_A_GPU, measured).free_setup == free
    assert with_setup(WITHOUT, measured).free_setup == free


@pytest.mark.parametrize(("median", "on_a_gpu_s", "without_s"), [(1.0, 120, 60), (80.0, 160, 1600)])
def test_a_set_up_that_hangs_is_ended_after_a_multiple_of_what_is_free(
    median: float, on_a_gpu_s: float, without_s: float
) -> None:
    assert with_setup(ON_A_GPU, [median]).setup_s == on_a_gpu_s
    assert with_setup(WITHOUT, [median]).setup_s == without_s


def test_a_journal_of_an_earlier_version_keeps_its_limits() -> None:
    assert with_setup(ON_A_GPU, []) == ON_A_GPU
