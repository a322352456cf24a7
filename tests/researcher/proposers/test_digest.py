"""What the LLM is told: the state of the run, and nothing it must not know."""

from __future__ import annotations

from pathlib import Path

from researcher.journal.records import Decision
from researcher.prompting.prompt import Prompts
from researcher.proposers.prompt_context import prompt_context
from researcher.source.proposal import Proposal, ProposerName, ReplaceFunction
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import Kind, Outcome, TrialResult

HELD_OUT = 1.357913


def test_the_digest_tells_scores_reasons_and_refusals_and_never_the_held_out_score(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    kept = story.try_out("wider MLP", 1.70, Decision.KEEP)
    story.try_out("no norm", None, Decision.CRASH)
    story.journal.reject(story.run, Proposal(ProposerName.LLM, "typo", "h", ()), "line 3 does not parse", story.tick())
    trial = story.journal.add_trial(story.run, kept, Kind.CONFIRM, seed=1, at=story.tick())
    story.journal.finish_trial(
        trial,
        TrialResult("i", "d", Outcome.OK, "said", 0.0, 1.0, val_bpb=1.71, heldout_bpb=HELD_OUT),
        story.tick(),
    )

    context = prompt_context(story.journal, PROFILE, "Go down.", "A = 2\n", idea="try it")

    story.journal.close()
    assert "1.705000" in context.incumbent, "the mean of both runs of the incumbent"
    assert "1.810000" in context.incumbent
    assert any("wider MLP" in line and "keep" in line for line in context.history)
    assert any("no norm" in line and "crash" in line for line in context.history)
    assert context.rejections == ("typo: line 3 does not parse",)
    assert context.idea == "try it"
    assert "15 processor seconds" in context.profile
    assert str(HELD_OUT) not in repr(context)


def test_a_keep_that_was_rolled_back_is_told_as_such(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    story.try_out("lucky", 1.70, Decision.KEEP)
    story.claim([1.81] * 4, [1.81] * 4)

    context = prompt_context(story.journal, PROFILE, "", "A = 2\n", idea=None)

    story.journal.close()
    assert context.history[-1].startswith("1 rolled back: lucky: 4 fresh seeds give 1.810000")


def test_the_digest_of_a_long_run_stays_bounded(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    for number in range(120):
        story.try_out(f"move {number}", 1.9, Decision.DISCARD)

    context = prompt_context(story.journal, PROFILE, "", "A = 2\n", idea=None)

    story.journal.close()
    assert len(context.history) <= 60
    assert "move 119" in context.history[-1]
    assert "move 79" in context.history[0], "whole twenties are left out, so that the beginning stays"
    assert context.earlier == 80
    assert "(80 older ones are omitted" in Prompts.read().messages(context, 12_000)[1].content


def test_functions_that_were_kept_or_nearly_kept_are_named_for_a_long_train_py(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.baseline(1.80, 1.82)
    for name, score, decision in (("A.kept", 1.7, Decision.KEEP), ("near", 1.69, Decision.DISCARD)):
        story.try_out("x", score, decision, edits=(ReplaceFunction(name, "def x(): pass"),))
    story.try_out("worse", 1.9, Decision.DISCARD, edits=(ReplaceFunction("worse", "def worse(): pass"),))

    before = prompt_context(story.journal, PROFILE, "", "A = 2\n", idea=None)
    story.try_out("other", 1.9, Decision.DISCARD)
    after = prompt_context(story.journal, PROFILE, "", "A = 2\n", idea=None)

    story.journal.close()
    assert (before.turn, before.named) == (0, ("A.kept",)), "near misses wait for the next turn"
    assert (after.turn, after.named) == (1, ("near", "A.kept"))
