"""A replica's examination and what became of it, as a verdict. What replicas find is in test_cheats and test_honest."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from torch import nn

from tests.fixtures.examined import examined
from trainer.candidate.protocol import Channel, Layout, MessageType
from trainer.jobs import Outcome
from trainer.sandbox import syscalls
from trainer.sandbox.launch import ExitReport
from trainer.scoring.causality import Causality, CausalityFinding
from trainer.scoring.exchange import Buffers
from trainer.scoring.replica import ReplicaExam
from trainer.scoring.rows import ScoringRows
from trainer.scoring.score import ScorePlan, Scoring
from trainer.trial.outcome import ReplicaEnded, Termination, replica_fault

VOCAB, CONTEXT, ROWS, BATCH = 20, 8, 16, 4

FINE = ExitReport(exit_code=0, signal=None, ended_by="itself", processor_s=1, peak_rss_mib=1, leftovers=0)
KILLED = dataclasses.replace(FINE, exit_code=None, signal=9)
LATE = Termination(Outcome.TIMED_OUT, "it was not scored within 9 s")


@pytest.mark.parametrize("outcome", [Outcome.PREEMPTED, Outcome.LOST])
def test_what_the_machine_did_to_a_replica_is_not_the_candidates_fault(outcome: Outcome) -> None:
    stop = Termination(outcome, "the worker was told to stop")

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
        (ReplicaEnded(Termination(Outcome.UNSCORABLE, "it answered something else"), FINE), None),
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


def test_its_weights_are_a_file_that_the_candidate_never_had_and_nobody_can_change() -> None:
    written = syscalls.growing_memory("weights")
    os.write(written, b"weights" * 10**6)
    os.utime(written, (1, 1))
    syscalls.freeze_memory(written)

    given = syscalls.frozen_copy(written, "weights")

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


def test_one_question_is_on_the_way_at_a_time() -> None:
    """The batch behind it could show what it asks for: both lie in memory that the candidate can read."""
    ours, theirs = (Channel(end) for end in Channel.pair())
    buffers = Buffers(Layout(BATCH, CONTEXT, VOCAB))
    rows = random_rows()
    causality = Causality(rows.val, rows.heldout, rows.token_bytes > 0, BATCH, np.random.default_rng(0))
    exam = ReplicaExam(ours, buffers, causality.questions(64))
    theirs.end.setblocking(False)

    exam.begin(half=False)

    asked = theirs.receive()
    assert asked is not None
    assert asked.word is MessageType.SCORE
    with pytest.raises(BlockingIOError):
        theirs.receive()
    for end in (ours.end, theirs.end):
        end.close()
    buffers.close()


class Dropout(nn.Module):
    """Dropout that is left on, whatever mode it is told to be in."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCAB, VOCAB)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(self.table(x), 0.5, training=True)  # type: ignore[no-any-return]


def test_dropout_that_was_left_on_answers_alike() -> None:
    finding = finding_of(Dropout())

    assert (finding.noise, finding.change, finding.fault) == (0.0, 0.0, None)
    assert finding.rows > 40


def random_rows() -> ScoringRows:
    random = np.random.default_rng(2)
    val, heldout = (random.integers(0, VOCAB, (ROWS, CONTEXT + 1)).astype(np.uint16) for _ in range(2))
    return ScoringRows(val, heldout, heldout[:0], np.ones(VOCAB, dtype=np.int32))


def finding_of(model: nn.Module) -> CausalityFinding:
    """Of the model, which answers first for its score, then in the place of its replica."""
    rows, buffers = random_rows(), Buffers(Layout(BATCH, CONTEXT, VOCAB))
    plan = ScorePlan(ROWS, 0, weights_fd=None, closer=lambda _: 64)
    refusal, scoring = examined(model, buffers, lambda channel: Scoring(channel, buffers, rows, plan))
    assert refusal is None
    questions = scoring.causality.questions(64)
    refusal, exam = examined(model, buffers, lambda channel: ReplicaExam(channel, buffers, questions))
    buffers.close()
    assert refusal is None
    assert exam.finding is not None
    return exam.finding
