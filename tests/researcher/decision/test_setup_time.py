"""How long set-up and warm-up of a trial may take, from those of the baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from researcher.decision.setup_time import BASELINE_SETUP_S, with_setup, with_warmup
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


@pytest.mark.parametrize(
    ("measured", "cap_s"),
    [(None, 600.0), ([], 100), ([40.0, 12.0, 11.0], 100), ([240.0, 30.0, 29.0], 360.0)],
    ids=["the baseline's own", "of an earlier version", "fast cores", "slow cores"],
)
def test_compilation_on_slow_cores_is_not_paid_from_the_budget(measured: list[float] | None, cap_s: float) -> None:
    assert with_warmup(ON_A_GPU, measured).warmup_cap_s == cap_s
    assert with_warmup(ON_A_GPU, measured).amount == ON_A_GPU.amount


@pytest.mark.parametrize(("amount", "cap_s"), [(300.0, 150.0), (120.0, 100)])
def test_a_script_that_times_itself_has_half_of_its_budget_at_most(amount: float, cap_s: float) -> None:
    own = replace(WITHOUT, amount=amount)

    assert with_warmup(own, None).warmup_cap_s == with_warmup(own, [500.0]).warmup_cap_s == cap_s


def test_a_budget_that_counts_from_the_first_step_has_no_warm_up() -> None:
    assert with_warmup(PROFILES["cpu"].budget, None) == PROFILES["cpu"].budget
