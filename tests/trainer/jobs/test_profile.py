"""The budget of a user's own script: its uncounted steps, the cap of its warm-up, and the clock of its set-up."""

from __future__ import annotations

import pytest

from trainer.jobs import Clock, Degree, Direction, Metric, profile_named
from trainer.jobs.task import Task

CONSTANTS = {"MAX_SEQ_LEN": 64, "TIME_BUDGET": 300, "VOCAB_SIZE": 512}


@pytest.mark.parametrize(("told", "steps"), [({}, 11), ({"UNCOUNTED_STEPS": 0}, 0), ({"UNCOUNTED_STEPS": 200}, 200)])
def test_the_scripts_own_uncounted_steps_are_the_warm_up(told: dict[str, int], steps: int) -> None:
    assert profile_named("cpu").adopted(CONSTANTS | told).budget.warmup_steps == steps


@pytest.mark.parametrize(("seconds", "cap_s"), [(2, 100), (300, 100), (600, 200), (3600, 1200)])
def test_the_warm_up_is_capped_at_a_third_of_the_scripts_budget_and_at_least_100_seconds(
    seconds: int, cap_s: float
) -> None:
    own = profile_named("cpu").adopted(CONSTANTS | {"TIME_BUDGET": seconds})

    assert own.budget.warmup_cap_s == cap_s
    assert profile_named("80gb").adopted(CONSTANTS).with_budget(seconds).budget.warmup_cap_s == cap_s
    assert profile_named("cpu").with_budget(seconds).budget.warmup_cap_s == 0


def test_set_up_counts_processor_seconds_without_a_gpu() -> None:
    without, on_a_gpu = (profile_named(name).adopted(CONSTANTS).budget for name in ("cpu", "80gb"))

    assert (without.clock, without.clock_of_setup) == (Clock.WALL, Clock.PROCESSOR)
    assert (on_a_gpu.clock, on_a_gpu.clock_of_setup) == (Clock.WALL, Clock.WALL)


def test_a_task_gives_its_time_its_metric_and_its_noise_to_the_profile() -> None:
    accuracy = Metric("accuracy", Direction.HIGHER)
    task = Task("solve.py", ("python", "solve.py"), 20.0, "--seed", 0.01, accuracy, {"score.py": "0" * 64})

    profile = profile_named("cpu").of_task(task)

    assert (profile.metric, profile.degree, profile.sigma_floor) == (accuracy, Degree.CLAIMED, 0.01)
    assert (profile.budget.amount, profile.budget.clock, profile.budget.eval_rows) == (20.0, Clock.WALL, 0)
    assert profile.knobs == {}
