"""What became of a replica, as a verdict. What replicas find is in test_cheats and test_honest."""

from __future__ import annotations

import dataclasses

import pytest

from trainer.jobs import Outcome
from trainer.launch import Ending
from trainer.replica import ReplicaEnded, replica_fault
from trainer.verdict import Stop

FINE = Ending(exit_code=0, signal=None, ended_by="itself", processor_s=1, peak_rss_mib=1, leftovers=0)
KILLED = dataclasses.replace(FINE, exit_code=None, signal=9)
LATE = Stop(Outcome.TIMED_OUT, "it was not scored within 9 s")


@pytest.mark.parametrize("outcome", [Outcome.PREEMPTED, Outcome.LOST])
def test_what_the_machine_did_to_a_replica_is_not_the_candidates_fault(outcome: Outcome) -> None:
    stop = Stop(outcome, "the worker was told to stop")

    assert replica_fault(None, ReplicaEnded(stop, None)) == stop


@pytest.mark.parametrize(
    "ended",
    [
        ReplicaEnded(None, None),
        ReplicaEnded(LATE, None),
        ReplicaEnded(None, dataclasses.replace(KILLED, ended_by="request")),
        ReplicaEnded(None, dataclasses.replace(FINE, exit_code=70, ended_by="not started")),
        ReplicaEnded(LATE, KILLED, away_s=32),
    ],
    ids=["guardian killed", "guardian stopped", "guardian told to end", "not started", "supervisor frozen"],
)
def test_replica_whose_guardian_or_supervisor_met_with_an_accident_is_lost(ended: ReplicaEnded) -> None:
    fault = replica_fault(None, ended)

    assert fault is not None
    assert fault.outcome is Outcome.LOST


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (ReplicaEnded(None, KILLED), "killed by SIGKILL"),
        (ReplicaEnded(LATE, KILLED), "not scored within 9 s"),
        (ReplicaEnded(Stop(Outcome.UNSCORABLE, "it answered something else"), FINE), None),
        (ReplicaEnded(None, dataclasses.replace(FINE, exit_code=1)), None),
        (ReplicaEnded(None, dataclasses.replace(KILLED, signal=11)), None),
    ],
    ids=["killed", "timed out", "answers wrongly", "exits", "faults"],
)
def test_replica_that_may_have_been_ended_from_outside_is_marked_so(ended: ReplicaEnded, words: str | None) -> None:
    fault = replica_fault(None, ended)

    assert fault is not None
    assert fault.outcome is Outcome.UNSCORABLE
    assert fault.disturbed is None if words is None else words in (fault.disturbed or "")
