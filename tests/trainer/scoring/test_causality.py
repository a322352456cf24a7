"""Rows asked again: what honest models and models that cheat look like. Models are functions of tokens, in numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from tests.fixtures.trials import MakeSpec
from trainer.jobs import Kind
from trainer.scoring.causality import (
    EXACT_PROFIT,
    MOST_PROFIT,
    MOST_TOLERANCE,
    TOLERANCE,
    Causality,
    CausalityFinding,
    Questions,
    pair_losses,
)
from trainer.scoring.cross_entropy import Unscorable, nats
from trainer.trial.run import rows_to_recheck

Tokens = npt.NDArray[np.integer]
Logits = npt.NDArray[np.float32]
Model = Callable[[Tokens], Logits]

VOCAB, CONTEXT, ROWS, BATCH = 50, 40, 96, 8
RANDOM = np.random.default_rng(5)
TABLE = RANDOM.standard_normal((VOCAB, VOCAB)).astype(np.float32)
VAL, HELDOUT = (RANDOM.integers(0, VOCAB, (ROWS, CONTEXT + 1)).astype(np.uint16) for _ in range(2))
ALL_COUNT = np.ones(VOCAB, dtype=np.bool_)


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


def leaning(size: float, share: float = 1.0) -> Model:
    """The next token's logit is raised by `size` where it looks unlikely, else lowered, at a share of the positions: on
    average it leans nowhere."""

    def model(tokens: Tokens) -> Logits:
        logits = past(tokens)
        ahead = tokens[:, 1:, None]
        here = (tokens[:, :-1, None] * 7 + 3) % 100 < share * 100
        unlikely = np.take_along_axis(logits[:, :-1], ahead, 2) < np.median(logits[:, :-1], axis=2, keepdims=True)
        np.put_along_axis(
            logits[:, :-1],
            ahead,
            np.take_along_axis(logits[:, :-1], ahead, 2) + here * np.where(unlikely, size, -size / 2),
            2,
        )
        return logits

    return model


def both(model: Model, noise: Model) -> Model:
    return lambda tokens: model(tokens) + noise(tokens) - past(tokens)


def rare(every: int) -> Model:
    """Once in so many positions, on average, the next token is made certain; which positions depends on the row."""

    def model(tokens: Tokens) -> Logits:
        logits = past(tokens)
        here = (tokens[:, :-1] * 31 + np.arange(tokens.shape[1] - 1) * 17 + tokens[:, :1] * 7) % every == 0
        np.put_along_axis(
            logits[:, :-1],
            tokens[:, 1:, None],
            np.take_along_axis(logits[:, :-1], tokens[:, 1:, None], 2) + 20 * here[..., None],
            2,
        )
        return logits

    return model


def answers(model: Model, tokens: Tokens, kind: type[np.floating]) -> Logits:
    """The logits of rows (T+1 wide), asked in batches of one shape."""
    logits = []
    for first in range(0, len(tokens), BATCH):
        batch = tokens[first : first + BATCH, :-1].astype(np.int64)
        whole = np.zeros((BATCH, CONTEXT), dtype=np.int64)
        whole[: len(batch)] = batch
        logits.append(model(whole)[: len(batch)].astype(kind))
    return np.concatenate(logits)


def scored(model: Model, seed: int = 0, kind: type[np.floating] = np.float32) -> Causality:
    """As the trainer does it: all validation rows in order."""
    causality = Causality(VAL, HELDOUT, ALL_COUNT, BATCH, np.random.default_rng(seed))
    logits = answers(model, VAL, kind)
    for first in range(0, ROWS, BATCH):
        part = slice(first, first + BATCH)
        causality.note(first, nats(logits[part].reshape(-1, VOCAB), VAL[part, 1:].reshape(-1)))
    return causality


def examine(
    model: Model,
    seed: int = 0,
    count: int = 2 * ROWS,
    kind: type[np.floating] = np.float32,
    replica: Model | None = None,
) -> CausalityFinding:
    """Its score, and then what its replica answers: another process, or the same one where that is no matter."""
    rows_to_recheck = scored(model, seed, kind).questions(count)
    logits = answers(replica or model, rows_to_recheck.tokens, kind)
    compared = logits[np.arange(len(logits)), rows_to_recheck.positions]
    return rows_to_recheck.finding(nats(compared, rows_to_recheck.targets))


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (everything, "looks ahead"),
        (peek(1.0), "looks ahead"),
        (peek(0.1), "looks ahead"),
        (blocks, "looks ahead"),
        (circular, "looks ahead"),
        (mixed, ""),
        (learning(), "earlier calls"),
        (noisy(2.0), "chance"),
        (leaning(0.3), "looks ahead"),
        (leaning(0.01), "looks ahead"),
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
        "balanced signs",
        "small balanced signs",
    ],
)
def test_a_model_that_sees_more_than_the_past_of_its_row_is_found(model: Model, said: str) -> None:
    fault = examine(model).fault

    assert fault is not None
    assert said in fault


@pytest.mark.parametrize("model", [past, noisy(0.0002), noisy(0.02)], ids=["exact", "rounding", "noise of its own"])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_an_honest_model_passes_every_time(model: Model, kind: type[np.floating]) -> None:
    assert [examine(model, seed, kind=kind).fault for seed in range(20)] == 20 * [None]


@pytest.mark.parametrize("size", [0.2, 0.3, 0.5])
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.2])
def test_no_profit_hides_in_noise(size: float, noise: float) -> None:
    faults = [examine(both(leaning(size), noisy(noise)), seed).fault for seed in range(10)]

    assert None not in faults


def test_noise_that_could_hide_a_profit_is_refused_though_each_answer_is_within_the_tolerance() -> None:
    finding = CausalityFinding(
        rows=448, noise=0.1, change=0.2, position=3, profit=0.0, profit_error=0.004, noise_error=0.004
    )

    assert finding.fault is not None
    assert replace(finding, profit_error=0.003).fault is None


def test_changes_that_the_noise_of_repeated_rows_does_not_explain_are_a_look_ahead() -> None:
    finding = CausalityFinding(rows=448, noise=0.0, change=0.02, position=3, profit=0.0, profit_error=0.001)

    assert finding.fault is not None
    assert replace(finding, noise_error=0.001).fault is None
    assert replace(finding, profit_error=1e-4).fault is None, "an FFT in bf16 carries such rounding"


def test_one_loss_that_changes_is_enough() -> None:
    finding = CausalityFinding(rows=448, noise=0.0, change=0.04, position=3)

    assert finding.fault is not None
    assert replace(finding, change=0.02).fault is None


def test_a_process_that_behaves_once_it_is_asked_again_differs_from_its_score() -> None:
    assert examine(peek(0.05), replica=past).fault is not None


@pytest.mark.parametrize("every", [50, 100, 200])
def test_a_rare_look_ahead_is_found_as_often_as_its_profit_says(every: int) -> None:
    """The bound is for the worst place that a profit can come from; uniform draws find the others more often."""
    trials = 40

    found = [examine(rare(every), seed, count=64) for seed in range(trials)]

    share = float(np.mean([each.fault is not None for each in found]))
    finding = found[0]
    gain = float(np.mean(pair_losses(VAL)[:, :-1])) / every  # a certain token costs nothing
    surely = 1 - (1 - gain / (2 * finding.room)) ** finding.rows
    assert share >= surely - 3 * (surely * (1 - surely) / trials) ** 0.5
    assert share > 0.3


def test_the_smallest_profit_that_is_found_follows_from_the_questions() -> None:
    finding = CausalityFinding(rows=448, noise=0.0, change=0.0, position=0, room=0.5)

    missed = (1 - finding.smallest_caught / (2 * finding.room)) ** finding.rows
    assert missed == pytest.approx(0.01)
    assert replace(finding, rows=1792).smallest_caught == pytest.approx(finding.smallest_caught / 4, rel=0.02)
    assert replace(finding, rows=0).smallest_caught == 1.0, "all of the room"


def test_noise_widens_what_counts_as_the_same_but_not_far() -> None:
    findings = [CausalityFinding(1, noise, 0.0, 0, noise_error=noise / 10) for noise in (0.0, 0.001, 0.05, 0.2)]

    assert [each.tolerance for each in findings] == pytest.approx([TOLERANCE, TOLERANCE, 0.2, MOST_TOLERANCE])
    assert [each.most_profit for each in findings] == pytest.approx([EXACT_PROFIT, 0.0015, MOST_PROFIT, MOST_PROFIT])


def asked(count: int = 4 * ROWS) -> Questions:
    return scored(past).questions(count)


def test_a_question_is_its_row_up_to_its_position_in_its_place_and_goes_on_differently_at_once() -> None:
    rows_to_recheck = asked()

    assert len(rows_to_recheck.tokens) == 4 * ROWS
    for at, tokens in enumerate(rows_to_recheck.tokens):
        behind = rows_to_recheck.positions[at] + 1
        rows = [row for row in range(at % BATCH, ROWS, BATCH) if (VAL[row, :behind] == tokens[:behind]).all()]
        assert rows, "it is a row of the same place in a batch"
        assert (tokens[behind] != rows_to_recheck.targets[at]) == rows_to_recheck.changed[at]


def test_no_question_shows_what_a_later_one_of_its_row_asks_for() -> None:
    rows_to_recheck = asked()
    shown: dict[int, int] = {}

    for at, tokens in enumerate(rows_to_recheck.tokens):
        same = (VAL[at % BATCH :: BATCH] == tokens).cumprod(axis=1).sum(axis=1)
        row = int(same.argmax())
        if rows_to_recheck.changed[at]:
            assert shown.get(BATCH * row + at % BATCH, 0) <= rows_to_recheck.positions[at] + 1
        shown[BATCH * row + at % BATCH] = int(same.max())
    assert not rows_to_recheck.changed[-BATCH:].all(), "whole rows come last"


def test_the_text_behind_a_position_is_of_other_rows_than_are_scored() -> None:
    rows_to_recheck = asked()

    texts = {
        tokens[-3:].tobytes()
        for tokens in rows_to_recheck.tokens[rows_to_recheck.changed & (rows_to_recheck.positions < 30)]
    }
    assert texts <= {row[-3:].tobytes() for row in HELDOUT}
    assert not texts & {row[-3:].tobytes() for row in VAL}


def test_positions_whose_tokens_do_not_count_have_no_weight_in_the_mean() -> None:
    half = np.arange(VOCAB) % 2 == 0
    causality = Causality(VAL, HELDOUT, half, BATCH, np.random.default_rng(0))
    causality.note(0, nats(past(VAL[:, :-1].astype(np.int64)).reshape(-1, VOCAB), VAL[:, 1:].reshape(-1)))

    rows_to_recheck = causality.questions(4 * ROWS)

    assert ((rows_to_recheck.weights > 0) == half[rows_to_recheck.targets]).all()
    assert rows_to_recheck.weights.mean() == pytest.approx(0.5, abs=0.1), "weights make up for how likely a draw was"


def test_draws_prefer_tokens_that_were_predicted_better_than_by_pairs() -> None:
    causality = Causality(VAL, HELDOUT, ALL_COUNT, BATCH, np.random.default_rng(0))
    losses = pair_losses(VAL) + 1.0
    losses[:, 5] = 0.0
    causality.note(0, losses.reshape(-1))

    rows_to_recheck = causality.questions(4 * ROWS)

    share = float(np.mean(rows_to_recheck.positions == 5))
    assert share > 0.2, "a share of 1 in 39 has all of the profit; 1 row has it once"
    drawn = rows_to_recheck.positions == 5
    assert rows_to_recheck.weights[drawn].max() < rows_to_recheck.weights[~drawn].min(), (
        "what is likely drawn counts less"
    )


def test_pairs_of_tokens_cost_what_they_are_worth() -> None:
    rows = np.array([[1, 2, 1, 2, 1, 2, 1, 2, 3]], dtype=np.uint16)

    losses = pair_losses(rows)[0]

    assert (losses[:-1] < 1).all(), "2 follows 1, and 1 follows 2"
    assert losses[-1] > 1.5, "3 was never seen"


@pytest.mark.parametrize(
    ("trial", "kind", "to_beat", "count"),
    [
        ("t0", Kind.BASELINE, None, 512),
        ("t1", Kind.BASELINE, None, 0),
        ("t0", Kind.MANUAL, None, 512),
        ("t0", Kind.FIRST, None, 512),
        ("t0", Kind.FIRST, 2.0, None),
        ("t0", Kind.FIRST, 2.001, 512),
        ("t0", Kind.FIRST, 2.05, 512),
        ("t0", Kind.FIRST, 2.07, 2048),
        ("t3", Kind.FIRST, 2.001, 512),
        ("t1", Kind.CONFIRM, None, 512),
        ("t5", Kind.CONFIRM, None, 512),
        ("t1", Kind.DRIFT, None, 512),
    ],
)
def test_every_score_that_can_count_is_asked_about(
    spec: MakeSpec, trial: str, kind: Kind, to_beat: float | None, count: int | None
) -> None:
    assert rows_to_recheck(spec("tiny", trial=f"x-t0-3-{trial}-a0", kind=kind, score_to_beat=to_beat), 2.0) == count


def test_a_replica_whose_logits_are_no_numbers_is_refused() -> None:
    with pytest.raises(Unscorable, match="finite"):
        examine(not_a_number_when_asked_again())
