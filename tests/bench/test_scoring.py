"""`scripts/bench scoring`: the reference, and when a limit is missed."""

import dataclasses
import math

import numpy as np
import pytest

from tests.bench.scoring import BAR_S, Measured, bars_missed, former_nats

QUICK = Measured([0.1, 0.1], [BAR_S / 2, BAR_S / 2], 1e-12)


def test_reference_is_the_definition() -> None:
    losses = former_nats(np.array([0.0, math.log(3.0), 5.0, 5.0], dtype=np.float32), np.array([0, 1]))

    assert losses == pytest.approx([math.log(4.0), math.log(2.0)], abs=1e-6)


def test_limits_are_those_of_the_seconds_in_half_precision_and_of_both_differences() -> None:
    slow = dataclasses.replace(QUICK, after_s=[2 * BAR_S, 2 * BAR_S])
    apart, undefined = (dataclasses.replace(QUICK, difference=value) for value in (1e-8, math.nan))

    assert bars_missed(QUICK, slow) == []
    assert len(bars_missed(slow, QUICK)) == 1
    assert len(bars_missed(apart, undefined)) == 2
