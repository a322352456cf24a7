"""What a night learns of its edits: kinds, dead ends, near misses; two of those at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from researcher.combining import combined
from researcher.edits import apply_edits
from researcher.errors import Rejected
from researcher.experiment import Decision
from researcher.lessons import DEAD_ENDS, NEAR_MISSES, Category, Lessons, NearMiss, category_of
from researcher.proposal import Edit, Proposal, ReplaceFunction, SearchReplace, SetKnobs, WholeFile
from tests.researcher.story import Story
from trainer.jobs import Outcome


@pytest.mark.parametrize(
    ("edits", "added_lines", "category"),
    [
        ((SetKnobs({"DEPTH": 3}),), 0, Category.ARCHITECTURE),
        ((SetKnobs({"MATRIX_LR": 0.1}),), 0, Category.OPTIMISER),
        ((SetKnobs({"WEIGHT_DECAY": 0.1}),), 0, Category.OPTIMISER),
        ((SetKnobs({"WARMUP_RATIO": 0.1}),), 0, Category.SCHEDULE),
        ((SetKnobs({"FINAL_LR_FRAC": 0.1}),), 0, Category.SCHEDULE),
        ((SetKnobs({"TOTAL_BATCH_SIZE": 4096}),), 0, Category.BATCH),
        ((SetKnobs({"DEPTH": 3, "HEAD_DIM": 64, "MATRIX_LR": 0.1}),), 0, Category.ARCHITECTURE),
        ((ReplaceFunction("Muon.step", "def step(self): ..."),), 4, Category.OPTIMISER),
        ((ReplaceFunction("MLP.forward", "def forward(self, x): ..."),), 0, Category.ARCHITECTURE),
        ((SearchReplace("x = relu(x)\n", "x = silu(x)\n"),), 0, Category.ARCHITECTURE),
        ((SearchReplace("a\n", "a\nloss.backward()\nclip_grad_norm_(1.0)\n"),), 2, Category.OPTIMISER),
        ((SearchReplace("x = norm(x)\nx = norm(x)\n", "x = x\n"),), -5, Category.SIMPLIFICATION),
        ((WholeFile("whatever"),), 9, Category.SIMPLIFICATION),
    ],
)
def test_a_change_is_of_the_kind_that_its_names_say(
    edits: tuple[Edit, ...], added_lines: int, category: Category
) -> None:
    assert category_of(edits, added_lines) is category


def learned(story: Story) -> Lessons:
    """From the whole journal, as the loop does it."""
    lessons, scores = Lessons(), story.journal.scores()
    for item in story.journal.experiments():
        lessons.learn(item, story.journal.proposal(item.id), scores.get(item.parent or 0, ()))
    return lessons


CODE = (SearchReplace("A = 1", "A = 2 + 0"),)


def test_near_misses_dead_ends_and_what_was_kept_are_told_apart(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    story.try_out("near", 1.803, Decision.DISCARD)
    story.try_out("better, but long", 1.799, Decision.DISCARD, edits=CODE)
    story.try_out("worse code", 1.90, Decision.DISCARD, edits=CODE)
    story.try_out("worse knob", 1.90, Decision.DISCARD)
    story.try_out("crashed code", None, Decision.CRASH, edits=CODE)
    story.try_out("lost", None, Decision.DISCARD, outcome=Outcome.LOST)
    fruitless = learned(story).fruitless
    story.try_out("kept", 1.70, Decision.KEEP)

    lessons = learned(story)

    story.journal.close()
    assert [miss.title for miss in lessons.near_misses] == ["better, but long", "near"], "half a sigma of 0.01 is near"
    assert [(end.title, end.banned) for end in lessons.dead_ends] == [("worse code", True), ("crashed code", False)]
    assert (fruitless, lessons.fruitless) == (5, 0)
    assert sum(each.tried for each in lessons.categories.values()) == 6
    assert sum(each.kept for each in lessons.categories.values()) == 1


def test_what_is_learned_of_a_long_night_stays_bounded(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    for number in range(60):
        story.try_out(f"{number}", 1.799 if number % 2 else 1.9, Decision.DISCARD, edits=CODE)

    lessons = learned(story)

    story.journal.close()
    assert (len(lessons.near_misses), len(lessons.dead_ends)) == (NEAR_MISSES, DEAD_ENDS)
    assert lessons.dead_ends[-1].title == "58", "the newest are kept"


SOURCE = "A = 1\nB = 1\nC = 1\n"
NEAR = (
    NearMiss(3, "A", (SetKnobs({"A": 2}),), 0.003),
    NearMiss(5, "B", (SearchReplace("B = 1", "B = 2"),), 0.002),
    NearMiss(9, "C", (SetKnobs({"C": 2}),), -0.001),
)


def test_the_best_two_near_misses_are_combined_and_those_that_do_not_go_together_are_not() -> None:
    refused: list[Proposal] = []

    def check(proposal: Proposal) -> None:
        if not refused:
            refused.append(proposal)
            raise Rejected("tried before")

    proposal = combined(NEAR, check)

    assert apply_edits(SOURCE, refused[0].edits) == "A = 2\nB = 2\nC = 1\n"
    assert proposal is not None
    assert apply_edits(SOURCE, proposal.edits) == "A = 2\nB = 1\nC = 2\n"
    assert proposal.title == "both 3 and 9: A; C"


def test_one_near_miss_is_combined_with_nothing() -> None:
    assert combined(NEAR[:1], lambda _: None) is None
