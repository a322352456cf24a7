"""From inside no trial can tell which it is: a first one, a claim's, an incumbent confirmation or a repeat.

Until it asks for its score; what it is asked then is another matter. The time of day cannot be hidden from it.
"""

from __future__ import annotations

import pytest

from tests.fixtures.trials import MakeSpec, Run
from trainer.jobs import Kind

EVERY = {
    "a first one": {"trial": "night-7-t0-a0", "kind": Kind.FIRST, "score_to_beat": 1.5},
    "the baseline": {"trial": "night-0-t3-a0", "kind": Kind.BASELINE},
    "a claim": {"trial": "night-7-t1-a0", "kind": Kind.CONFIRM},
    "a later claim": {"trial": "night-12-t11-a2", "kind": Kind.CONFIRM, "repeat": 1},
    "an incumbent confirmation": {"trial": "night-7-t4-a1", "kind": Kind.DRIFT},
    "a single trial": {"trial": "single-trial-0-t0-a4", "kind": Kind.MANUAL, "repeat": 4},
}


@pytest.mark.slow
def test_whatever_a_trial_is_for_its_candidate_finds_the_same(spec: MakeSpec, run: Run) -> None:
    seen = {}
    for name, fields in EVERY.items():
        log = run(spec("looks_around", seed=5, **fields)).log
        assert log is not None
        seen[name] = log.tail

    first, *others = seen.values()
    assert "OVERNIGHT_SEED" in first
    assert others == [first] * len(others), seen
