"""What became of a replica, as a verdict. What replicas find is in test_cheats and test_honest."""

from __future__ import annotations

import pytest

from trainer.jobs import Outcome
from trainer.replica import replica_fault
from trainer.verdict import Stop


@pytest.mark.parametrize("outcome", [Outcome.PREEMPTED, Outcome.LOST])
def test_what_the_machine_did_to_a_replica_is_not_the_candidates_fault(outcome: Outcome) -> None:
    stop = Stop(outcome, "the worker was told to stop")

    assert replica_fault(None, stop, None, []) == stop
