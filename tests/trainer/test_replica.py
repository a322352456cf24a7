"""What became of a replica, as a verdict. What replicas find is in test_cheats and test_honest."""

from __future__ import annotations

import os

import pytest

from trainer import linux
from trainer.jobs import Outcome
from trainer.replica import replica_fault
from trainer.verdict import Stop


@pytest.mark.parametrize("outcome", [Outcome.PREEMPTED, Outcome.LOST])
def test_what_the_machine_did_to_a_replica_is_not_the_candidates_fault(outcome: Outcome) -> None:
    stop = Stop(outcome, "the worker was told to stop")

    assert replica_fault(None, stop, None, []) == stop


def test_its_weights_are_a_file_that_the_candidate_never_had_and_nobody_can_change() -> None:
    written = linux.growing_memory("weights")
    os.write(written, b"weights" * 10**6)
    os.utime(written, (1, 1))
    linux.freeze_memory(written)

    given = linux.frozen_copy(written, "weights")

    assert os.lseek(given, 0, os.SEEK_CUR) == 0
    assert os.stat(given).st_ino != os.stat(written).st_ino
    assert os.stat(given).st_mtime > 1
    with open(given, "rb") as file:
        assert file.read() == b"weights" * 10**6
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(given, b"x")
        again = os.open(f"/proc/self/fd/{given}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.write(again, b"x")
    os.close(again)
    os.close(written)
