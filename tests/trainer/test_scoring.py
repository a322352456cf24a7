"""The trainer's own arithmetic, and the messages and buffers it travels through."""

from __future__ import annotations

import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.dialogue import Buffers, Unscorable
from trainer.rows import ScoringRows
from trainer.scoring import Plan, Scoring, nats
from trainer.wire import BUFFERS, Channel, ChannelFault, Layout, Message, Word

VOCAB, CONTEXT = 5, 4


def reference(logits: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    losses: npt.NDArray[np.float64] = -logs[np.arange(len(targets)), targets]
    return losses


@given(st.integers(1, 50), st.integers(2, 40), st.floats(0, 20), st.sampled_from([np.float16, np.float32]))
def test_cross_entropy_is_that_of_the_definition(rows: int, vocab: int, scale: float, kind: type[np.floating]) -> None:
    random = np.random.default_rng(rows)
    logits = (random.standard_normal((rows, vocab)) * scale).astype(kind)
    targets = random.integers(0, vocab, rows)

    losses = nats(logits, targets)

    assert losses == pytest.approx(reference(logits.astype(np.float64), targets), abs=1e-4)


def test_threads_change_nothing() -> None:
    random = np.random.default_rng(1)
    logits = random.standard_normal((2000, 300)).astype(np.float32)
    targets = random.integers(0, 300, 2000)

    with ThreadPoolExecutor(3) as pool:
        assert (nats(logits, targets, pool) == nats(logits, targets)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_refused(bad: float) -> None:
    logits = np.zeros((3, VOCAB), dtype=np.float16)
    logits[1, 2] = bad

    with pytest.raises(Unscorable, match="finite"):
        nats(logits, np.zeros(3, dtype=np.int64))


@given(st.sampled_from(Word), st.integers(0, 2**32 - 1), st.floats(allow_nan=False), st.text(max_size=200))
def test_message_survives_the_wire(word: Word, number: int, x: float, text: str) -> None:
    back = Message.unpack(Message(word, number, x, -x, text).pack())

    assert (back.word, back.number, back.x) == (word, number, x)
    assert len(back.text.encode(errors="replace")) <= 3 * 104


@pytest.mark.parametrize("raw", [b"", b"x" * 127, bytes(128), b"\x63" + bytes(127)])
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    with pytest.raises(ChannelFault):
        Message.unpack(raw)


def test_shared_memory_cannot_be_cut_off_under_its_reader() -> None:
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))

    with pytest.raises(PermissionError):
        os.ftruncate(buffers.logits_fd, 0)

    buffers.close()


def test_batches_of_all_slices_are_scored_rows_are_asked_again_and_the_answer_goes_back() -> None:
    random = np.random.default_rng(2)
    val, heldout = (random.integers(0, VOCAB, (rows, CONTEXT + 1)).astype(np.uint16) for rows in (7, 3))
    rows = ScoringRows(val, heldout, heldout[:2], np.array([0, 1, 2, 3, 4], dtype=np.int32))
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))
    ours, theirs = (Channel(end) for end in Channel.pair())
    plan = Plan(7, 24, 3, weights_fd=None, closer=lambda bpb: 16 if bpb > 0 else 0, unseen=2)
    scoring = Scoring(ours, buffers, rows, plan)
    answers: list[float] = []
    candidate = threading.Thread(target=serve_zeros, args=(theirs, answers))
    candidate.start()

    scoring.begin(half=False)
    while (message := ours.receive()) is not None and not scoring.served(message):
        pass
    candidate.join(10)

    weights = rows.token_bytes[val[:, 1:]]
    expected = math.log2(VOCAB) * (weights > 0).sum() / weights.sum()
    assert scoring.val is not None
    assert scoring.val.bpb == pytest.approx(expected, rel=1e-6)
    assert answers == [scoring.val.bpb]
    assert scoring.heldout is not None
    assert scoring.unseen is not None
    assert scoring.unseen.bytes == rows.token_bytes[rows.unseen[:, 1:]].sum()
    assert scoring.finding is not None
    assert (scoring.finding.rows, scoring.finding.change) == (14, 0.0), "one in eight is asked as it was"
    for end in (ours.end, theirs.end):
        end.close()
    buffers.close()


def test_answer_to_a_question_that_was_not_asked_is_refused() -> None:
    rows = ScoringRows(*(np.zeros((n, 5), np.uint16) for n in (2, 1, 1)), np.ones(VOCAB, np.int32))
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))
    ours, theirs = Channel.pair()
    scoring = Scoring(Channel(ours), buffers, rows, Plan(2, 2, 1, weights_fd=None, closer=lambda bpb: None))
    scoring.begin(half=False)

    with pytest.raises(Unscorable, match="not asked"):
        scoring.served(Message(Word.SERVED, number=BUFFERS - 1, x=4.0))

    ours.close()
    theirs.close()
    buffers.close()


def serve_zeros(channel: Channel, answers: list[float]) -> None:
    """A candidate that gives every token the same chance: fresh shared memory is all zeros."""
    while (message := channel.receive()) is not None:
        if message.word is Word.SCORED:
            answers.append(message.x)
            return
        channel.send(Message(Word.SERVED, number=message.number, x=4.0))
