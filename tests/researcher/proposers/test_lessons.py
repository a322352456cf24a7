"""What a run learns of its edits: kinds, dead ends, near misses; two of those at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from researcher.errors import Rejected
from researcher.journal.records import Decision
from researcher.proposers.draft import Draft
from researcher.proposers.lessons import DEAD_ENDS, NEAR_MISSES, Category, Lessons, NearMiss, category_of
from researcher.proposers.proposers import combined
from researcher.source.edits import apply_edits
from researcher.source.proposal import Edit, Proposal, ReplaceFunction, SearchReplace, SetKnobs, WholeFile
from tests.fixtures.journal_story import Story, accepted
from trainer.jobs import Kind, Outcome

SIGMA = 0.01


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
    lessons = Lessons()
    for item in story.journal.experiments():
        lessons.learn(item, story.journal.proposal(item.id))
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
    story.try_out("kept", 1.70, Decision.KEEP)

    lessons, scores = learned(story), story.journal.scores()

    story.journal.close()
    near = lessons.near_misses(scores, SIGMA)
    assert [miss.experiment.title for miss in near] == ["better, but long", "near"], "half a sigma is near"
    assert [item.title for item in lessons.dead_ends(scores, SIGMA, 99)] == ["worse code", "crashed code"]
    assert [item.title for item in lessons.dead_ends(scores, SIGMA, 5)] == ["worse code"], (
        "newer ones are in the history"
    )
    assert sum(each.tried for each in lessons.categories().values()) == 6
    assert sum(each.kept for each in lessons.categories().values()) == 1


def test_a_parent_that_turns_out_worse_makes_a_miss_near_whether_or_not_there_was_a_restart(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    story.try_out("far from a lucky parent", 1.82, Decision.DISCARD)
    before = learned(story)
    found = before.near_misses(story.journal.scores(), SIGMA)
    story.measure(story.journal.numbered(0).id, Kind.DRIFT, 1.86)

    now = story.journal.scores()
    misses = [lessons.near_misses(now, SIGMA) for lessons in (before, learned(story))]

    story.journal.close()
    assert found == []
    assert [[miss.experiment.number for miss in each] for each in misses] == [[1], [1]]


def test_what_is_learned_of_a_long_run_stays_bounded(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.80)
    for number in range(60):
        story.try_out(f"{number}", 1.799 if number % 2 else 1.9, Decision.DISCARD, edits=CODE)

    lessons, scores = learned(story), story.journal.scores()

    story.journal.close()
    dead = lessons.dead_ends(scores, SIGMA, 99)
    assert (len(lessons.near_misses(scores, SIGMA)), len(dead)) == (NEAR_MISSES, DEAD_ENDS)
    assert dead[-1].title == "58", "the newest are kept"


SOURCE = "A = 1\nB = 1\nC = 1\n"
EDITS: dict[str, Edit] = {"A": SetKnobs({"A": 2}), "B": SearchReplace("B = 1", "B = 2"), "C": SetKnobs({"C": 2})}


def misses(folder: Path) -> list[NearMiss]:
    story = Story(folder)
    story.baseline(1.80, 1.80)
    for title, score in (("A", 1.797), ("B", 1.798), ("C", 1.801)):
        story.try_out(title, score, Decision.DISCARD, edits=(EDITS[title],))
    found = learned(story).near_misses(story.journal.scores(), SIGMA)
    story.journal.close()
    return found


def test_the_best_two_near_misses_are_combined_and_those_that_do_not_go_together_are_not(tmp_path: Path) -> None:
    refused: list[Proposal] = []

    def vet(proposal: Proposal) -> Draft:
        if not refused:
            refused.append(proposal)
            raise Rejected("tried before")
        return accepted(proposal)

    draft = combined(misses(tmp_path), lambda item: (EDITS[item.title],), vet)

    assert apply_edits(SOURCE, refused[0].edits) == "A = 2\nB = 2\nC = 1\n"
    assert draft is not None
    assert apply_edits(SOURCE, draft.proposal.edits) == "A = 2\nB = 1\nC = 2\n"
    assert draft.proposal.title == "both 1 and 3: A; C"


def test_one_near_miss_is_combined_with_nothing(tmp_path: Path) -> None:
    assert combined(misses(tmp_path)[:1], lambda _: (), accepted) is None
