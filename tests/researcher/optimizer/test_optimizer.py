"""The optimiser moves a few knobs, inside their ranges, and learns from every result."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researcher.errors import Rejected
from researcher.journal.records import Decision
from researcher.optimizer.constraints import repaired, whole_batches
from researcher.optimizer.evidence import Measured
from researcher.optimizer.optimizer import EXPLORED_SHARE, Optimizer, Sampler
from researcher.proposers.llm_proposer import Vetting
from researcher.proposers.proposers import Proposers
from researcher.proposers.schedule import Mix
from researcher.source.edits import apply_edits
from researcher.source.knobs import read_knobs, set_knobs
from researcher.source.proposal import KnobValue, Proposal, ProposerName, SetKnobs
from researcher.source.validation import validate
from services.machine.subject import render_subject
from tests.fixtures.journal_story import PROFILE, Story
from tests.fixtures.overlapping_run import OverlappingRun
from tests.fixtures.range_shares import from_share, to_share
from trainer.jobs import PROFILES

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


class Journal:
    """What a journal would tell an optimiser: one experiment a source, made from the last one kept."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.scores: dict[int, list[float]] = {}
        self.count = 0

    def add(self, source: str, *scores: float, parent: int | None = None) -> int:
        self.count += 1
        if scores:
            self.scores[self.count] = [*scores]
        self.optimizer.learn([Measured(self.count, parent, source)], self.scores)
        return self.count

    def again(self, experiment: int, score: float) -> None:
        self.scores[experiment].append(score)
        self.optimizer.learn([], self.scores)


def walk(optimizer: Optimizer, steps: int) -> tuple[float, list[Proposal]]:
    best, best_score = SOURCE, world(SOURCE)
    tried, proposals, journal = {SOURCE}, [], Journal(optimizer)
    head = journal.add(SOURCE, best_score)

    def new(proposal: Proposal) -> Proposal:
        if apply_edits(best, proposal.edits) in tried:
            raise Rejected("tried")
        return proposal

    for _ in range(steps):
        proposals.append(optimizer.propose(best, new))
        source = apply_edits(best, proposals[-1].edits)
        tried.add(source)
        told = journal.add(source, world(source), parent=head)
        if world(source) < best_score:
            best, best_score, head = source, world(source), told
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
    journal = Journal(optimizer)
    head = journal.add(SOURCE, 1.0)

    assert look_around(journal, SOURCE, head, 2) == [{"DEPTH": 1}, {"DEPTH": 3}]
    assert [list(move) for move in look_around(journal, SOURCE, head, 1)] == [["LR"]]


def look_around(journal: Journal, source: str, head: int, count: int) -> list[dict[str, KnobValue]]:
    """The next moves but for those that explore, each of them worse than the head; in the order of what they move to.
    Instead of one that explores the head is measured once more."""
    found: list[dict[str, KnobValue]] = []
    while len(found) < count:
        proposal = journal.optimizer.propose(source, passes)
        if explores(proposal):
            journal.add(source, *journal.scores[head], parent=head)
        else:
            found.append(moves(proposal))
            journal.add(apply_edits(source, proposal.edits), 1.5, parent=head)
    return sorted(found, key=str)


def explores(proposal: Proposal) -> bool:
    return "a uniform draw" in proposal.hypothesis


def test_tpe_explores_in_its_share_of_moves_and_says_so() -> None:
    _, proposals = walk(Optimizer(seed=1, context=256), 60)

    exploring = [moves(proposal) for proposal in proposals if explores(proposal)]
    assert 0.25 < len(exploring) / 60 < 0.55, f"{EXPLORED_SHARE} is its share"
    assert any(len(move) > 1 for move in exploring), "looking around moves one knob at a time"
    assert {proposal.proposer for proposal in proposals} == {ProposerName.OPTIMIZER}


def test_what_an_adviser_is_shown_as_the_optimisers_next_move_is_no_uniform_draw() -> None:
    journal = Journal(Optimizer(seed=1, context=256))
    head = journal.add(SOURCE, 1.0)
    while not explores(journal.optimizer.propose(SOURCE, passes)):
        journal.add(SOURCE, 1.0, parent=head)

    assert not explores(journal.optimizer.propose(SOURCE, passes, may_explore=False))


def passes(proposal: Proposal) -> Proposal:
    """Nothing stands against it."""
    return proposal


def test_after_a_structural_keep_it_looks_around_again_but_first_where_it_never_did() -> None:
    journal = Journal(Optimizer(seed=1, context=256))
    head = journal.add(SOURCE, 1.0)
    look_around(journal, SOURCE, head, 2)
    other = SOURCE.replace("FIXED = 7", "FIXED = 8")
    head = journal.add(other, 0.9, parent=head)

    moved: list[str] = []
    while "DEPTH" not in moved:
        moved += [name for move in look_around(journal, other, head, 1) for name in move]

    assert {"LR", "TOTAL_BATCH_SIZE", "WARM", "WINDOWS"} < set(moved), (
        "the sides of DEPTH are known, of the code before"
    )
    assert len(moved) < 15


@pytest.mark.parametrize("sampler", Sampler)
def test_the_same_journal_gives_the_same_next_move(sampler: Sampler) -> None:
    proposals = []
    for _ in range(2):
        journal = Journal(Optimizer(seed=3, context=256, sampler=sampler))
        head = journal.add(SOURCE, 1.9)
        for lr in range(20):
            journal.add(SOURCE.replace("0.04", f"0.1{lr}"), *([1.8 + lr / 100] if lr else []), parent=head)
        proposals.append(journal.optimizer.propose(SOURCE, passes))

    assert proposals[0] == proposals[1]


def test_after_a_later_repeat_it_is_as_if_the_mean_had_been_known_from_the_start() -> None:
    def told(lucky: float) -> tuple[Journal, int]:
        journal, chance = Journal(Optimizer(seed=3, context=256)), random.Random(3)
        head = journal.add(SOURCE, 2.0)
        tried = [journal.add(anywhere(SOURCE, chance, 256), lucky + number, parent=head) for number in range(30)]
        return journal, tried[0]

    journal, lucky = told(1.0)
    promised = journal.optimizer.propose(SOURCE, passes)
    journal.again(lucky, 9.0)
    known, same = told(1.0)
    known.scores[same] = [1.0, 9.0]

    found = journal.optimizer.propose(SOURCE, passes)

    assert found != promised
    assert found == known.optimizer.propose(SOURCE, passes)


def test_uniform_draws_are_spread_over_the_whole_ranges_whatever_was_measured() -> None:
    journal = Journal(Optimizer(seed=1, context=256, sampler=Sampler.RANDOM))
    head = journal.add(SOURCE, 1.0)
    found = []
    for _ in range(150):
        found.append(journal.optimizer.propose(SOURCE, passes))
        journal.add(apply_edits(SOURCE, found[-1].edits), 1.5, parent=head)

    rates = [float(moves(proposal)["LR"]) for proposal in found if "LR" in moves(proposal)]
    assert 0.3 < sum(rate < math.sqrt(0.005 * 0.2) for rate in rates) / len(rates) < 0.7, "half of a log range"
    assert {moves(proposal).get("DEPTH", 2) for proposal in found} == {1, 2, 3, 4, 5, 6}
    assert {proposal.proposer for proposal in found} == {ProposerName.RANDOM}
    assert all(len(moves(proposal)) <= 4 for proposal in found)


SUBJECTS = {name: (render_subject(profile)["train.py"], profile.context) for name, profile in sorted(PROFILES.items())}


@given(st.data())
@settings(max_examples=25)
def test_whatever_the_journal_holds_every_proposal_can_be_run_and_is_another_program(data: st.DataObject) -> None:
    source, context = SUBJECTS[data.draw(st.sampled_from(sorted(SUBJECTS)))]
    journal = Journal(
        Optimizer(seed=data.draw(st.integers(0, 99)), context=context, sampler=data.draw(st.sampled_from(Sampler)))
    )
    chance = random.Random(data.draw(st.integers(0, 2**32)))
    incumbent, head = source, journal.add(source, 2.0)
    for _ in range(data.draw(st.integers(0, 25))):
        moved = anywhere(incumbent, chance, context)
        if chance.random() < 0.2:
            moved = moved.replace("SOFTCAP = 15", f"SOFTCAP = {chance.randrange(16, 40)}")
        scores = [chance.gauss(2, 0.1) for _ in range(chance.choice((0, 1, 1, 1, 3)))]
        told = journal.add(moved, *scores, parent=head)
        if scores and chance.random() < 0.3:
            incumbent, head = moved, told

    proposal = journal.optimizer.propose(incumbent, passes)

    candidate = validate(proposal, incumbent, lambda _: None).source
    knobs, before = read_knobs(candidate), read_knobs(incumbent)
    assert all(knob.range is None or knob.range.holds(knob.value) for knob in before.values())
    assert all(knobs[name].range == knob.range for name, knob in before.items()), "a value outside counts as no range"
    values = {name: knob.value for name, knob in knobs.items()}
    assert values["TOTAL_BATCH_SIZE"] % (values["DEVICE_BATCH_SIZE"] * context) == 0
    assert shape(values) != shape({name: knob.value for name, knob in before.items()})


def shape(values: dict[str, KnobValue]) -> dict[str, KnobValue]:
    """What train.py makes of its knobs."""
    depth, head, windows = values["DEPTH"], values["HEAD_DIM"], values["WINDOW_PATTERN"]
    width = math.ceil(depth * values["ASPECT_RATIO"] / head) * head
    layers = [windows[layer % len(windows)] for layer in range(depth - 1)]
    return values | {"ASPECT_RATIO": width, "WINDOW_PATTERN": "".join(layers)}


def anywhere(source: str, chance: random.Random, context: int) -> str:
    """A candidate that can be run, with some of its knobs anywhere in their ranges."""
    knobs = read_knobs(source)
    ranges = {name: knob.range for name, knob in knobs.items() if knob.range is not None}
    values = {name: knob.value for name, knob in knobs.items()}
    moved = {
        name: chance.choice(wanted.choices) if wanted.kind == "choice" else from_share(chance.random(), wanted)
        for name, wanted in ranges.items()
        if chance.random() < 0.4
    }
    after = whole_batches(values | moved, ranges, context)
    return source if after is None else set_knobs(source, {name: after[name] for name in ranges})


@given(st.integers(0, 10_000))
def test_a_share_of_a_range_and_back_is_the_same_value(at: int) -> None:
    for name, knob in read_knobs(SUBJECTS["80gb"][0]).items():
        if knob.range is not None and knob.range.kind != "choice":
            value = from_share(at / 10_000, knob.range)
            assert knob.range.holds(value), name
            assert from_share(to_share(value, knob.range), knob.range) == value


def test_device_batches_always_fill_a_step() -> None:
    ranges = {name: knob.range for name, knob in read_knobs(SOURCE).items() if knob.range is not None}
    for total in (2**10, 2**12, 2**14):
        for device in (4, 16, 64):
            knobs = whole_batches({"TOTAL_BATCH_SIZE": total, "DEVICE_BATCH_SIZE": device}, ranges, 256)
            assert knobs is not None
            assert knobs["TOTAL_BATCH_SIZE"] == total, "the device batch follows the step, where it can"
            assert total % (knobs["DEVICE_BATCH_SIZE"] * 256) == 0


def test_a_step_too_small_for_any_device_batch_grows_as_little_as_can_be() -> None:
    ranges = {name: knob.range for name, knob in read_knobs(SOURCE).items() if knob.range is not None}

    knobs = whole_batches({"TOTAL_BATCH_SIZE": 2**10, "DEVICE_BATCH_SIZE": 16}, ranges, 1024)

    assert knobs == {"TOTAL_BATCH_SIZE": 2**12, "DEVICE_BATCH_SIZE": 4}
    assert whole_batches({"TOTAL_BATCH_SIZE": 2**10, "DEVICE_BATCH_SIZE": 16}, {}, 1024) is None, "neither may move"


def test_batches_that_do_not_fit_a_script_of_your_own_are_no_business_of_the_optimiser() -> None:
    old = {"TOTAL_BATCH_SIZE": 1000, "DEVICE_BATCH_SIZE": 16}

    assert repaired(old, old | {"DEVICE_BATCH_SIZE": 8}, {}, 256) == old | {"DEVICE_BATCH_SIZE": 8}


@pytest.mark.parametrize(
    ("knob", "value", "taken_back"),
    [
        ("ASPECT_RATIO", 60, True),
        ("ASPECT_RATIO", 70, False),
        ("WINDOW_PATTERN", "SSLL", True),
        ("WINDOW_PATTERN", "L", False),
    ],
)
def test_moves_that_leave_the_model_what_it_was_are_taken_back(knob: str, value: KnobValue, taken_back: bool) -> None:
    old: dict[str, KnobValue] = {"DEPTH": 2, "ASPECT_RATIO": 64, "HEAD_DIM": 32, "WINDOW_PATTERN": "SSSL"}

    assert (repaired(old, old | {knob: value}, {}, 256) == old) is taken_back


@pytest.mark.parametrize("sampler", Sampler)
def test_changed_ranges_begin_a_new_study_with_what_still_fits(sampler: Sampler) -> None:
    optimizer = Optimizer(seed=1, context=256, sampler=sampler)
    walk(optimizer, 12)
    narrower = SOURCE.replace("range 1..6", "range 1..3").replace("one of SSSL L", "one of SSSL LL")
    found: list[dict[str, KnobValue]] = []

    def no(proposal: Proposal) -> None:
        found.append(moves(proposal))
        raise Rejected("not this one")

    with pytest.raises(Rejected, match="nothing new"):
        optimizer.propose(narrower, no)

    assert {1} <= {move.get("DEPTH", 1) for move in found} <= {1, 2, 3}
    assert {move.get("WINDOWS", "LL") for move in found} == {"LL"}


def test_without_a_single_range_it_says_what_is_missing() -> None:
    with pytest.raises(Rejected, match="no knob with a range"):
        Optimizer(seed=1, context=256).propose("A = 1\n", lambda _: None)


def test_a_move_that_is_repaired_away_is_never_proposed() -> None:
    source = "TOTAL_BATCH_SIZE = 2**12\nDEVICE_BATCH_SIZE = 16  # rows; range 16..64 pow2\n"

    with pytest.raises(Rejected, match="nothing new"):
        Optimizer(seed=1, context=256).propose(source, passes)


def test_when_everything_was_tried_it_gives_up_in_words() -> None:
    def never(_: Proposal) -> None:
        raise Rejected("tried")

    with pytest.raises(Rejected, match="nothing new"):
        Optimizer(seed=1, context=256).propose("A = 1  # a; range 1..2\n", never)


class Listens(Optimizer):
    """Remembers what it was told."""

    told: list[tuple[list[Measured], dict[int, list[float]]]]

    def learn(self, fresh: Iterable[Measured], scores: Mapping[int, Sequence[float]]) -> None:
        self.told = [*getattr(self, "told", []), ([*fresh], {number: [*of] for number, of in scores.items()})]


def test_it_is_told_each_candidate_once_and_every_score_that_comes_later(tmp_path: Path) -> None:
    story, optimizer = Story(tmp_path), Listens(seed=1, context=256)
    story.baseline(2.0, 2.2)
    kept = story.try_out("better", 1.9, Decision.KEEP)
    story.try_out("crashed", None, Decision.CRASH)
    story.journal.reject(story.run, Proposal(ProposerName.LLM, "no", "h", ()), "does not parse", story.tick())
    proposers = Proposers(
        mix=Mix.RANDOM, vetting=Vetting(PROFILE, str), optimizer=optimizer, llm=None, folder=tmp_path,
        publish_status=print,
    )  # fmt: skip

    proposers.learn(story.journal)
    story.claim([1.8, 1.7, 1.75], [2.1, 2.1, 2.1])
    proposers.learn(story.journal)

    first, second = optimizer.told
    assert [(one.experiment, one.parent) for one in first[0]] == [(1, None), (kept, 1), (3, kept)]
    assert first[1] == {1: [2.0, 2.2], kept: [1.9]}
    assert second == ([], {1: [2.0, 2.2, 2.1, 2.1, 2.1], kept: [1.9, 1.8, 1.7, 1.75]})


def test_a_slow_trial_keeps_nothing_from_it_and_after_a_restart_it_is_told_in_the_same_order(tmp_path: Path) -> None:
    story, optimizers = OverlappingRun(tmp_path), [Listens(seed=1, context=256) for _ in range(2)]
    story.baseline(2.0)
    before, after = (
        Proposers(
            mix=Mix.RANDOM,
            vetting=Vetting(PROFILE, str),
            optimizer=optimizer,
            llm=None,
            folder=tmp_path,
            publish_status=print,
        )
        for optimizer in optimizers
    )
    slow, fast = story.begin(), story.begin()

    before.learn(story.journal)
    for item in (fast, slow):
        story.end(item, Decision.DISCARD)
        before.learn(story.journal)
    after.learn(story.journal)

    told = [[one.experiment for fresh, _ in optimizer.told for one in fresh] for optimizer in optimizers]
    assert told == [[1, fast.id, slow.id]] * 2
    assert [len(fresh) for fresh, _ in optimizers[0].told] == [1, 1, 1]
    story.journal.close()


def test_with_uniform_draws_alone_nobody_else_is_named_as_the_proposer(tmp_path: Path) -> None:
    story, optimizer = Story(tmp_path), Optimizer(seed=1, context=256, sampler=Sampler.RANDOM)
    story.baseline(2.0)
    proposers = Proposers(
        mix=Mix.RANDOM, vetting=Vetting(PROFILE, str), optimizer=optimizer, llm=None, folder=tmp_path,
        publish_status=print,
    )  # fmt: skip

    found = [proposers.next_draft(story.journal, source, lambda: None) for source in (SOURCE, "A = 1\n")]

    assert [draft is not None and draft.proposal.proposer for draft in found] == [
        ProposerName.RANDOM,
        ProposerName.RANDOM,
    ]
    assert [draft is not None and draft.rejected is None for draft in found] == [True, False]
