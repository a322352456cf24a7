"""How many first steps a script's own clock leaves out, read from its text."""

from __future__ import annotations

import ast

import pytest

from services.adopt.uncounted_steps import uncounted_steps
from tests.fixtures.trials import SUBJECTS

SUMMED = """
WARM_STEPS = 25
total, step = 0.0, 0
while True:
    t0 = time.time()
    optimizer.step()
    dt = time.time() - t0
    {condition}
    progress = min(total / TIME_BUDGET, 1.0)
    step += 1
    if step > 10 and total >= TIME_BUDGET:
        break
"""


@pytest.mark.parametrize(
    ("condition", "steps"),
    [
        ("if step > 10: total += dt", 11),
        ("if step > 0: total += dt", 1),
        ("if step: total += dt", 1),
        ("if step >= 200: total += dt", 200),
        ("if not step < WARM_STEPS: total += dt", 25),
        ("if 4 < step and dt0 is None: total += dt", None),
        ("if step > 10: total = total + dt", 11),
        ("if step <= 2:\n        pass\n    else:\n        total += dt", 3),
        ("total += dt", 0),
        ("if math.isfinite(dt): total += dt", None),
        ("if step < 0: total += dt", None),
    ],
)
def test_steps_before_the_sum_begins_are_uncounted(condition: str, steps: int | None) -> None:
    assert uncounted_steps(ast.parse(SUMMED.format(condition=condition))) == steps


@pytest.mark.parametrize(
    ("script", "steps"),
    [
        ("start = time.time()\nwhile time.time() - start < TIME_BUDGET:\n    optimizer.step()\n", 0),
        (
            "start = time.time()\nfor step in range(10**6):\n    if step == 7:\n        start = time.time()\n"
            "    optimizer.step()\n    if time.time() - start > TIME_BUDGET: break\n",
            7,
        ),
        (
            "start = time.time()\nfor step in itertools.count(1):\n    optimizer.step()\n    if step == 7:\n"
            "        start = time.perf_counter()\n    elapsed = time.perf_counter() - start\n"
            "    if elapsed > TIME_BUDGET: break\n",
            7,
        ),
        (
            "def main():\n    total, step = 0.0, 1\n    while total < TIME_BUDGET:\n        optimizer.step()\n"
            "        step += 1\n        if step > 5: total += dt\n",
            4,
        ),
        (
            "total, step = 0, 0\nwhile total < prepare.TIME_BUDGET:\n    step += 1\n    if step > 3: total += dt\n",
            3,
        ),
        ("for step in range(100):\n    optimizer.step()\n", None),
        ("while progress() < 1:\n    optimizer.step()\nprint(TIME_BUDGET)\n", None),
    ],
)
def test_the_start_time_the_loop_and_the_counters_first_value_matter(script: str, steps: int | None) -> None:
    assert uncounted_steps(ast.parse(script)) == steps


def test_the_fields_own_script_leaves_out_eleven() -> None:
    assert uncounted_steps(ast.parse((SUBJECTS / "own" / "train.py").read_text())) == 11
