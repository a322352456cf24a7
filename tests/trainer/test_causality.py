"""Rows asked again: what honest models and models that cheat look like. Models are functions of tokens, in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tests.trainer.conftest import MakeSpec
from trainer.causality import MOST_TOLERANCE, Causality, Finding
from trainer.jobs import Kind
from trainer.stage import questions

Tokens = npt.NDArray[np.integer]
Logits = npt.NDArray[np.float32]
Model = Callable[[Tokens], Logits]

VOCAB, CONTEXT, ROWS, BATCH = 50, 40, 96, 8
RANDOM = np.random.default_rng(5)
TABLE = RANDOM.standard_normal((VOCAB, VOCAB)).astype(np.float32)
VAL = RANDOM.integers(0, VOCAB, (ROWS, CONTEXT + 1)).astype(np.uint16)


def past(tokens: Tokens) -> Logits:
    """Each position sees the mean of what is up to it."""
    seen = TABLE[tokens].cumsum(axis=1) / np.arange(1, tokens.shape[1] + 1)[None, :, None]
    return (3 * seen).astype(np.float32)


def everything(tokens: Tokens) -> Logits:
    """Attention without its mask."""
    return past(tokens) + TABLE[tokens].mean(axis=1, keepdims=True)


def peek(share: float) -> Model:
    """One token ahead at a share of positions, which depends on the token there."""

    def model(tokens: Tokens) -> Logits:
        logits, ahead = past(tokens), np.zeros_like(tokens)
        ahead[:, :-1] = tokens[:, 1:]
        here = np.arange(tokens.shape[1]) % 100 < share * 100 if share < 0.05 else (tokens * 7 + 3) % 100 < share * 100
        return logits + np.where(np.broadcast_to(here, tokens.shape)[..., None], 4 * TABLE[ahead], 0)

    return model


def blocks(tokens: Tokens) -> Logits:
    """Averages over blocks of eight positions."""
    means = TABLE[tokens].reshape(len(tokens), -1, 8, VOCAB).mean(axis=2)
    return past(tokens) + means.repeat(8, axis=1)


def circular(tokens: Tokens) -> Logits:
    """A filter in frequency space without padding: what is at the end comes round to the beginning."""
    kernel = np.zeros(tokens.shape[1])
    kernel[:4] = 0.25
    turned = np.fft.ifft(np.fft.fft(TABLE[tokens], axis=1) * np.fft.fft(kernel)[None, :, None], axis=1).real
    return past(tokens) + turned.astype(np.float32)


def mixed(tokens: Tokens) -> Logits:
    """The rows of a batch see each other."""
    return past(tokens) + 0.5 * past(tokens).mean(axis=0, keepdims=True)


def noisy(size: float) -> Model:
    """Dropout that was left on."""
    chance = np.random.default_rng(1)
    return lambda tokens: past(tokens) + (size * chance.uniform(-1, 1, (*tokens.shape, VOCAB))).astype(np.float32)


def learning() -> Model:
    """It trains on what it is asked."""
    state = np.zeros(VOCAB, dtype=np.float32)

    def model(tokens: Tokens) -> Logits:
        state[:] += 0.5 * np.bincount(tokens.reshape(-1), minlength=VOCAB) / tokens.size * VOCAB
        return past(tokens) + state

    return model


def not_a_number_when_asked_again() -> Model:
    asked = iter(range(10**6))

    def model(tokens: Tokens) -> Logits:
        logits = past(tokens)
        return logits if next(asked) < ROWS // BATCH else logits * np.nan

    return model


def examine(model: Model, seed: int = 0, count: int = ROWS, kind: type[np.floating] = np.float32) -> Finding:
    """As the trainer does it: all validation rows in order, then those to ask again, of more that it might have."""
    causality = Causality(VAL, max(count, 2 * ROWS), np.random.default_rng(seed))

    def answer(tokens: Tokens, take: Callable[[int, Logits, int], None]) -> None:
        for first in range(0, len(tokens), BATCH):
            batch = tokens[first : first + BATCH, :-1].astype(np.int64)
            whole = np.zeros((BATCH, CONTEXT), dtype=np.int64)
            whole[: len(batch)] = batch
            take(first, model(whole)[: len(batch)].astype(kind).reshape(-1, VOCAB), len(batch))

    answer(VAL, causality.remember)
    causality.ask_only(count)
    answer(causality.tokens, causality.compare)
    return causality.finding()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (everything, "looks ahead"),
        (peek(1.0), "looks ahead"),
        (peek(0.1), "looks ahead"),
        (blocks, "looks ahead"),
        (circular, "looks ahead"),
        (mixed, "other rows of a batch"),
        (learning(), "earlier calls"),
        (noisy(0.6), "chance"),
        (not_a_number_when_asked_again(), "differ by inf"),
    ],
    ids=[
        "no mask",
        "one token",
        "one token at a tenth",
        "blocks",
        "circular filter",
        "batch mixing",
        "learning",
        "noise",
        "nan",
    ],
)
def test_a_model_that_sees_more_than_the_past_of_its_row_is_found(model: Model, said: str) -> None:
    fault = examine(model).fault

    assert fault is not None
    assert said in fault


@pytest.mark.parametrize("model", [past, noisy(0.02), noisy(0.1)], ids=["exact", "rounding", "dropout left on"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_an_honest_model_passes_every_time(model: Model, kind: type[np.floating]) -> None:
    assert [examine(model, seed, kind=kind).fault for seed in range(20)] == 20 * [None]


@pytest.mark.parametrize("noise", [0.0, 0.1], ids=["exact", "hidden in noise"])
def test_a_look_ahead_smaller_than_what_is_allowed_is_found_by_where_it_leans(noise: float) -> None:
    def model(tokens: Tokens) -> Logits:
        ahead = np.zeros((*tokens.shape, VOCAB), dtype=np.float32)
        np.put_along_axis(ahead[:, :-1], tokens[:, 1:, None], 0.04, axis=2)
        return noisy(noise)(tokens) + ahead

    finding = examine(model, count=2 * ROWS)

    assert finding.change < finding.tolerance
    assert finding.fault is not None
    assert "lean" in finding.fault


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
def test_how_often_a_look_ahead_is_found_is_what_the_theory_says(share: float) -> None:
    nights = 80

    found = sum(examine(peek(share), seed, count=32).fault is not None for seed in range(nights))

    here = np.arange(CONTEXT - 1) % 100 < share * 100
    true = here.mean() if share < 0.05 else share
    expected = 1 - (1 - true) ** examine(past, count=32).rows
    assert found / nights == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / nights) + 0.03)


def test_the_share_that_is_found_surely_follows_from_the_rows() -> None:
    finding = Finding(rows=448, noise=0.0, change=0.0, position=0)

    assert finding.caught_share == pytest.approx(0.0102, abs=1e-4)
    assert 1 - (1 - finding.caught_share) ** finding.rows == pytest.approx(0.99)
    assert replace(finding, rows=0).caught_share == 1.0


def test_noise_widens_what_counts_as_the_same_but_not_far() -> None:
    assert [Finding(1, noise, 0.0, 0).tolerance for noise in (0.0, 0.03, 0.4)] == [0.05, 0.12, MOST_TOLERANCE]


def test_rows_asked_again_are_the_same_up_to_their_cut_and_go_on_differently_at_once() -> None:
    causality = Causality(VAL, ROWS, np.random.default_rng(3))

    originals = {row[:1].tobytes() + row[1:2].tobytes(): row for row in VAL}
    differing = [
        int(np.argmax(asked != originals[asked[:1].tobytes() + asked[1:2].tobytes()]))
        for asked in causality.tokens
        if asked[:1].tobytes() + asked[1:2].tobytes() in originals
    ]
    assert sum(at > 0 for at in differing) > ROWS / 2
    assert len(causality.tokens) == ROWS
    assert causality.finding().rows == ROWS - ROWS // 8


def test_more_questions_than_rows_examine_as_many_positions_and_say_so() -> None:
    count = 4 * ROWS

    causality = Causality(VAL, count, np.random.default_rng(3))

    places = [place for place in map(examined, causality.tokens) if 3 < place[1] <= CONTEXT]
    assert len(places) > count / 2
    assert len(set(places)) == len(places)
    assert causality.finding().rows == count - count // 8
    assert examine(past, count=count).fault is None
    assert examine(peek(0.02), count=count).fault is not None


def examined(asked: Tokens) -> tuple[int, int]:
    """The row it was made of, and how long it is the same; other rows are so for three tokens at most."""
    same = np.cumprod(asked == VAL, axis=1).sum(axis=1)
    return int(same.argmax()), int(same.max())


def test_no_more_is_promised_than_there_are_positions_that_can_be_examined() -> None:
    alike = np.repeat(VAL[:1], 3, axis=0)

    found = [Causality(rows, 10**6, np.random.default_rng(0)).finding() for rows in (VAL, VAL[:1], alike)]

    places = ROWS * (CONTEXT - 1)
    assert found[0].rows == places - places // 8
    assert [each.caught_share for each in found[1:]] == [1.0, 1.0], "no row goes on differently anywhere"


@pytest.mark.parametrize(
    ("trial", "kind", "to_beat", "asked"),
    [
        ("t0", Kind.BASELINE, None, 512),
        ("t1", Kind.BASELINE, None, 0),
        ("t0", Kind.MANUAL, None, 512),
        ("t0", Kind.FIRST, None, None),
        ("t0", Kind.FIRST, 2.0, None),
        ("t0", Kind.FIRST, 2.001, 512),
        ("t0", Kind.FIRST, 2.05, 512),
        ("t0", Kind.FIRST, 2.07, 2048),
        ("t1", Kind.CONFIRM, None, 2048),
        ("t1", Kind.DRIFT, None, 2048),
        ("t2", Kind.CONFIRM, None, 0),
    ],
)
def test_the_more_is_at_stake_the_more_is_asked(
    spec: MakeSpec, trial: str, kind: Kind, to_beat: float | None, asked: int | None
) -> None:
    assert questions(spec("tiny", trial=f"x-t0-3-{trial}-a0", kind=kind, score_to_beat=to_beat), 2.0) == asked
