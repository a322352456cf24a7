"""The optimiser moves a few knobs, inside their ranges, and learns from every result."""

from __future__ import annotations

import math

import pytest

from researcher.edits import apply_edits
from researcher.errors import Rejected
from researcher.knobs import read_knobs
from researcher.optimizer import Optimizer, whole_batches
from researcher.proposal import KnobValue, Proposal, SetKnobs

SOURCE = """\
DEPTH = 2  # layers; range 1..6
LR = 0.04  # step size; range 0.005..0.2 log
TOTAL_BATCH_SIZE = 2**12  # tokens in a step; range 2**10..2**14 pow2
DEVICE_BATCH_SIZE = 16  # rows at once; range 4..64 pow2
WARM = 0.0  # share; range 0.0..0.3
WINDOWS = "SSSL"  # pattern; one of SSSL L
FIXED = 7  # no range
"""


def world(source: str) -> float:
    """A made-up score with its minimum at LR 0.1, depth 4, windows SSSL."""
    knobs = {name: knob.value for name, knob in read_knobs(source).items()}
    lr, depth = knobs["LR"], knobs["DEPTH"]
    assert isinstance(lr, float)
    assert isinstance(depth, int)
    return 1 + math.log(lr / 0.1) ** 2 + 0.1 * (depth - 4) ** 2 + 0.3 * (knobs["WINDOWS"] == "L")


def moves(proposal: Proposal) -> dict[str, KnobValue]:
    (edit,) = proposal.edits
    assert isinstance(edit, SetKnobs)
    return edit.knobs


def walk(optimizer: Optimizer, steps: int) -> tuple[float, list[Proposal]]:
    best, best_score = SOURCE, world(SOURCE)
    tried, proposals = {SOURCE}, []
    optimizer.learn(SOURCE, best_score)

    def check(proposal: Proposal) -> None:
        if apply_edits(best, proposal.edits) in tried:
            raise Rejected("tried")

    for _ in range(steps):
        proposals.append(optimizer.propose(best, check))
        source = apply_edits(best, proposals[-1].edits)
        tried.add(source)
        optimizer.learn(source, world(source))
        if world(source) < best_score:
            best, best_score = source, world(source)
    return best_score, proposals


def test_it_finds_most_of_what_there_is_to_find_in_forty_moves() -> None:
    scores = [walk(Optimizer(seed=seed, context=256), 40)[0] for seed in range(3)]

    assert max(scores) < 1.15, f"from {world(SOURCE):.2f} to {scores}"


def test_every_move_stays_inside_the_ranges_and_touches_few_knobs() -> None:
    _, proposals = walk(Optimizer(seed=1, context=256), 30)

    for proposal in proposals:
        assert 1 <= len(moves(proposal)) <= 4, "three knobs, and the device batch that has to follow"
        assert "FIXED" not in moves(proposal)


def test_it_looks_on_both_sides_of_a_knob_before_it_turns_to_the_next_one() -> None:
    optimizer = Optimizer(seed=1, context=256)
    optimizer.learn(SOURCE, 1.0)
    depths = set()
    for _ in range(2):
        proposal = optimizer.propose(SOURCE, refuse_no_change)
        depths.add(moves(proposal)["DEPTH"])
        optimizer.learn(apply_edits(SOURCE, proposal.edits), 1.5)

    assert depths == {1, 3}
    assert list(moves(optimizer.propose(SOURCE, refuse_no_change))) == ["LR"]


def refuse_no_change(proposal: Proposal) -> None:
    if apply_edits(SOURCE, proposal.edits) == SOURCE:
        raise Rejected("changes nothing")


def test_device_batches_always_fill_a_step() -> None:
    for total in (2**10, 2**12, 2**14):
        for device in (4, 16, 64):
            knobs = whole_batches({"TOTAL_BATCH_SIZE": total, "DEVICE_BATCH_SIZE": device}, 256)
            batch = knobs["DEVICE_BATCH_SIZE"]
            assert isinstance(batch, int)
            assert total % (batch * 256) == 0


def test_the_same_journal_gives_the_same_next_move() -> None:
    one, other = Optimizer(seed=3, context=256), Optimizer(seed=3, context=256)
    for optimizer in (one, other):
        optimizer.learn(SOURCE, 1.9)
        optimizer.learn(SOURCE.replace("0.04", "0.1"), None)

    assert one.propose(SOURCE, lambda _: None) == other.propose(SOURCE, lambda _: None)


def test_changed_ranges_begin_a_new_study_with_what_still_fits() -> None:
    optimizer = Optimizer(seed=1, context=256)
    walk(optimizer, 3)

    proposal = optimizer.propose(SOURCE.replace("range 1..6", "range 1..3"), lambda _: None)

    assert moves(proposal).get("DEPTH", 1) in (1, 2, 3)


def test_without_a_single_range_it_says_what_is_missing() -> None:
    with pytest.raises(Rejected, match="no knob with a range"):
        Optimizer(seed=1, context=256).propose("A = 1\n", lambda _: None)


def test_when_everything_was_tried_it_gives_up_in_words() -> None:
    def never(_: Proposal) -> None:
        raise Rejected("tried")

    with pytest.raises(Rejected, match="nothing new"):
        Optimizer(seed=1, context=256).propose("A = 1  # a; range 1..2\n", never)
