"""The trainer's own arithmetic, and the messages and buffers it travels through."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.candidate.protocol import BUFFERS, Channel, ChannelFault, ChannelMessage, Layout, MessageType
from trainer.scoring.cross_entropy import LARGEST_LOGIT, Unscorable, nats
from trainer.scoring.exchange import Buffers
from trainer.scoring.rows import ScoringRows
from trainer.scoring.score import ScorePlan, Scoring

VOCAB, CONTEXT = 5, 4


def reference(logits: npt.NDArray[np.float64], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    below = logits - logits.max(axis=1, keepdims=True)
    logs = below - np.log(np.exp(below).sum(axis=1, keepdims=True))
    losses: npt.NDArray[np.float64] = -logs[np.arange(len(targets)), targets]
    return losses


@given(
    rows=st.integers(1, 50),
    vocab=st.integers(2, 40),
    scale=st.floats(0, 900),
    offset=st.floats(-900, 900),
    kind=st.sampled_from([np.float16, np.float32, np.float64]),
)
def test_cross_entropy_is_that_of_the_definition(
    rows: int, vocab: int, scale: float, offset: float, kind: type[np.floating]
) -> None:
    random = np.random.default_rng(rows)
    logits = (random.standard_normal((rows, vocab)) * scale + offset * random.integers(0, 2, (rows, 1))).astype(kind)
    targets = random.integers(0, vocab, rows)

    losses = nats(logits, targets)

    assert losses == pytest.approx(reference(logits.astype(np.float64), targets), rel=0, abs=1e-9)


class ChangesWhenRead(np.ndarray):
    """Logits in shared memory that an adversary changes after each time that they are read."""

    change: Callable[[], object]

    def __array_finalize__(self, source: Any) -> None:
        self.change = getattr(source, "change", lambda: None)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        read = super().__array_function__(function, types, args, kwargs)
        self.change()
        return read

    def __array_ufunc__(self, ufunc: np.ufunc, method: Any, *inputs: Any, **kwargs: Any) -> Any:
        plain = [each.view(np.ndarray) if isinstance(each, ChangesWhenRead) else each for each in inputs]
        read = getattr(ufunc, method)(*plain, **kwargs)
        self.change()
        return read

    def __getitem__(self, which: Any) -> Any:
        read = super().__getitem__(which)
        if isinstance(which, tuple):  # a slice of rows alone reads nothing
            self.change()
        return read


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_a_row_that_changes_while_it_is_read_costs_what_it_held_at_one_moment(kind: type[np.floating]) -> None:
    vocab, logit = 2**14, 12.0
    shared = np.zeros((20, vocab), dtype=kind)
    targets = np.zeros(len(shared), dtype=np.int64)
    low, high = (float(nats(np.array([[one] + [0] * (vocab - 1)], dtype=kind), targets[:1])[0]) for one in (logit, 0.0))

    changes: list[object] = []
    hostile = shared.view(ChangesWhenRead)
    hostile.change = lambda: changes.append(np.subtract(logit, shared[:, 0], out=shared[:, 0]))

    losses = nats(hostile, targets)

    assert set(losses.round(9)) <= {round(low, 9), round(high, 9)}
    assert changes, "the adversary was there"


FINITE = {np.float16: 6e4, np.float32: 3e38, np.float64: 1e300}


@st.composite
def any_logits(draw: st.DrawFn) -> npt.NDArray[np.floating]:
    """Every finite input that is not refused: constants, huge spreads, masks as low as they go, all types."""
    kind = draw(st.sampled_from([*FINITE]))
    vocab = draw(st.integers(2, 30))
    lowest, highest = -FINITE[kind], min(FINITE[kind], LARGEST_LOGIT)
    one = st.floats(lowest, highest) | st.sampled_from([lowest, highest, -0.0, 1e-45])
    row = st.lists(one, min_size=vocab, max_size=vocab) | one.map(lambda value: vocab * [value])
    rows = draw(st.lists(row, min_size=1, max_size=4))
    logits = np.array(rows).astype(kind)
    logits[:, 0] = np.clip(logits[:, 0], -highest, highest)  # the largest of a row is no mask
    return logits


@given(any_logits())
def test_losses_are_those_of_probabilities_whatever_the_logits(logits: npt.NDArray[np.floating]) -> None:
    vocab = logits.shape[1]

    losses = np.stack([nats(logits, np.full(len(logits), token)) for token in range(vocab)], axis=1)

    assert np.isfinite(losses).all()
    assert (losses >= 0).all()
    assert np.exp(-losses).sum(axis=1) == pytest.approx(np.ones(len(logits)), abs=1e-12)
    constant = (logits == logits[:, :1]).all(axis=1)
    assert losses[constant].reshape(-1) == pytest.approx(np.full(constant.sum() * vocab, math.log(vocab)), abs=1e-12)


@pytest.mark.parametrize("largest", [1.1e6, 1e15, 1e30, 3e38, -1.1e6, -1e30])
@pytest.mark.parametrize("share", [1.0, 0.02])
def test_logits_that_hold_no_probabilities_are_refused_even_at_few_positions(largest: float, share: float) -> None:
    logits = np.zeros((100, VOCAB), dtype=np.float32)
    logits[: int(100 * share)] = largest

    with pytest.raises(Unscorable):
        nats(logits, np.zeros(100, dtype=np.int64))


def test_a_mask_may_be_as_low_as_it_likes() -> None:
    logits = np.array([[1.0, 2.0, -3e38, -1e9]], dtype=np.float32)

    assert nats(logits, np.array([0])) == pytest.approx(reference(logits[:, :2].astype(np.float64), np.array([0])))


def test_a_certain_token_costs_nothing() -> None:
    logits = np.linspace(0, 290, 5000)[:, None] - [[0.0, 280.0]]

    losses = nats(logits, np.zeros(len(logits), dtype=np.int64))

    assert (losses >= 0).all()
    assert losses.max() < 1e-12


def test_threads_change_nothing() -> None:
    random = np.random.default_rng(1)
    logits = random.standard_normal((2000, 3000)).astype(np.float32)
    targets = random.integers(0, 3000, 2000)

    with ThreadPoolExecutor(3) as pool:
        assert (nats(logits, targets, pool) == nats(logits, targets)).all()


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_a_logit_that_is_not_finite_is_refused(bad: float, kind: type[np.floating]) -> None:
    logits = np.zeros((3, VOCAB), dtype=kind)
    logits[1, 2] = bad

    with pytest.raises(Unscorable, match="finite"):
        nats(logits, np.zeros(3, dtype=np.int64))


FITTING = [
    ChannelMessage(MessageType.IMPORTED, 2, 81559.0, 0.25, "2.13.0|a GPU"),
    ChannelMessage(MessageType.PROGRESS, 2**32 - 1, 0.5),
    ChannelMessage(MessageType.READY, 16, 32768.0),
    ChannelMessage(MessageType.SERVED, BUFFERS - 1, 4.0),
    ChannelMessage(MessageType.VERDICT, 12, 1e6, 8e6, "passes"),
    ChannelMessage(MessageType.SCORED, x=-1.5),
]


@given(st.sampled_from(FITTING), st.text(max_size=200))
def test_message_survives_the_wire(message: ChannelMessage, text: str) -> None:
    back = ChannelMessage.unpack(dataclasses.replace(message, text=text).pack())

    assert dataclasses.replace(back, text="") == dataclasses.replace(message, text="")
    assert len(back.text.encode(errors="replace")) <= 3 * 104


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, -1.0, 1e300])
@pytest.mark.parametrize(
    "word", [MessageType.IMPORTED, MessageType.PROGRESS, MessageType.READY, MessageType.SERVED, MessageType.VERDICT]
)
def test_message_with_a_number_that_does_not_fit_is_none(word: MessageType, wrong: float) -> None:
    with pytest.raises(ChannelFault, match=f"it sent {word.name} with numbers that do not fit"):
        ChannelMessage.unpack(ChannelMessage(word, x=wrong).pack())


@given(st.binary(min_size=128, max_size=128))
def test_any_bytes_are_a_message_of_finite_numbers_or_none(raw: bytes) -> None:
    with contextlib.suppress(ChannelFault):
        message = ChannelMessage.unpack(raw)
        assert math.isfinite(message.x)
        assert math.isfinite(message.y)


@pytest.mark.parametrize("raw", [b"", b"x" * 127, bytes(128), b"\x63" + bytes(127)])
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    with pytest.raises(ChannelFault):
        ChannelMessage.unpack(raw)


def test_shared_memory_cannot_be_cut_off_under_its_reader() -> None:
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))

    with pytest.raises(PermissionError):
        os.ftruncate(buffers.logits_fd, 0)

    buffers.close()


def test_logits_outlive_the_buffers_they_came_in() -> None:
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))
    logits = buffers.logits(1, 2 * CONTEXT, 4)

    buffers.close()

    assert (logits == 0).all()


def test_batches_of_all_slices_are_scored_and_the_answer_goes_back() -> None:
    random = np.random.default_rng(2)
    val, heldout = (random.integers(0, VOCAB, (rows, CONTEXT + 1)).astype(np.uint16) for rows in (7, 3))
    rows = ScoringRows(val, heldout, heldout[:2], np.array([0, 1, 2, 3, 4], dtype=np.int32))
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))
    ours, theirs = (Channel(end) for end in Channel.pair())
    plan = ScorePlan(7, 3, weights_fd=None, closer=lambda bpb: 16 if bpb > 0 else None, unseen=2)
    scoring = Scoring(ours, buffers, rows, plan)
    answers: list[float] = []
    candidate = threading.Thread(target=serve_zeros, args=(theirs, answers), daemon=True)
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
    assert scoring.asked == 16
    questions = scoring.causality.questions(scoring.asked)
    assert questions.scored == pytest.approx(np.full(len(questions.tokens), math.log(VOCAB)))
    for end in (ours.end, theirs.end):
        end.close()
    buffers.close()


def test_answer_to_a_question_that_was_not_asked_is_refused() -> None:
    rows = ScoringRows(*(np.zeros((n, 5), np.uint16) for n in (2, 1, 1)), np.ones(VOCAB, np.int32))
    buffers = Buffers(Layout(2, CONTEXT, VOCAB))
    ours, theirs = Channel.pair()
    scoring = Scoring(Channel(ours), buffers, rows, ScorePlan(2, 1, weights_fd=None, closer=lambda bpb: None))
    scoring.begin(half=False)

    with pytest.raises(Unscorable, match="not asked"):
        scoring.served(ChannelMessage(MessageType.SERVED, number=BUFFERS - 1, x=4.0))

    ours.close()
    theirs.close()
    buffers.close()


def serve_zeros(channel: Channel, answers: list[float]) -> None:
    """A candidate that gives every token the same chance: fresh shared memory is all zeros."""
    while (message := channel.receive()) is not None:
        if message.word is MessageType.SCORED:
            answers.append(message.x)
            return
        channel.send(ChannelMessage(MessageType.SERVED, number=message.number, x=4.0))
