"""Adopted trials beside busy processes: no honest trial times out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services.adopt.test_adopt import FILES, Own, home, needs_landlock, own
from trainer.jobs import Outcome

__all__ = ["home", "own"]

NEIGHBOURS, BASELINES, TRIALS = 4, 3, 3
# A second or two before the first batch.
SETS_UP = "import numpy\nfor _ in range(15):\n    numpy.linalg.svd(numpy.ones((160, 160)))\n"


@pytest.fixture
def busy() -> Iterator[None]:
    """Keep four processes beside the trials busy."""
    neighbours = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(NEIGHBOURS)]
    yield
    for neighbour in neighbours:
        neighbour.kill()
        neighbour.wait()


@pytest.mark.slow
@needs_landlock
def test_no_adopted_trial_times_out_beside_four_busy_processes(own: Own, busy: None, tmp_path: Path) -> None:
    with_set_up = SETS_UP + FILES["train.py"]
    assert own.init()
    baseline = [own.trial(tmp_path, number, train=with_set_up) for number in range(BASELINES)]
    assert [result.outcome for result in baseline] == [Outcome.OK] * BASELINES, [each.reason for each in baseline]
    setups = [each.timing.setup for each in baseline if each.timing is not None and each.timing.setup is not None]
    assert len(setups) == BASELINES

    trials = [own.trial(tmp_path, number, setups, train=with_set_up) for number in range(BASELINES, BASELINES + TRIALS)]

    assert [each.outcome for each in trials] == [Outcome.OK] * TRIALS, [each.reason for each in trials]
