"""The contract's result: what an earlier version stored is still read."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.jobs import Outcome, TrialResult

# As the last version before `Measurements` wrote a result, some fields left out.
EARLIER: dict[str, Any] = {
    "id": "t-1-t0-a0",
    "spec_digest": "d",
    "outcome": "ok",
    "reason": "said",
    "started_at": 1.0,
    "finished_at": 2.0,
    "timing": {"wall_s": 20.5, "processor_s": 19.0, "timed": 15.0},
    "metric": {"name": "val_bpb", "value": 1.7, "lower_is_better": True},
    "heldout": {"name": "val_bpb", "value": 1.8, "lower_is_better": True},
    "unseen": None,
    "steps": 300,
    "calibration": {"before_s": 0.1, "after_s": None},
    "peak_memory_mib": 512.0,
    "peak_vram_mib": None,
}


def test_a_result_of_an_earlier_version_is_read_with_its_measurements() -> None:
    result = TrialResult.from_json(EARLIER)

    assert (result.val_bpb, result.heldout_bpb, result.unseen_bpb) == (1.7, 1.8, None)
    assert (result.wall_s, result.memory_mib, result.before_s, result.after_s) == (20.5, 512.0, 0.1, None)
    assert (result.timing is not None and result.timing.timed, result.steps) == (15.0, 300)
    assert TrialResult.from_json(result.to_json()) == result


def test_a_result_of_an_earlier_version_without_a_score_is_read() -> None:
    failed = EARLIER | {"outcome": "crashed", "metric": None, "heldout": None, "timing": None, "calibration": None}

    result = TrialResult.from_json(failed)

    assert (result.outcome, result.val_bpb, result.wall_s, result.before_s) == (Outcome.CRASHED, None, None, None)


@pytest.mark.parametrize("values", [None, [], {"metric": 1}, EARLIER | {"metric": []}, EARLIER | {"timing": "soon"}])
def test_what_is_no_result_is_refused_as_one(values: Any) -> None:
    with pytest.raises(ValueError, match="TrialResult"):
        TrialResult.from_json(values)
