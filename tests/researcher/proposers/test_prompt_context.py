"""What an LLM is told for its turn, from a journal that was written down, and bounded for a long one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from researcher.errors import Rejected
from researcher.journal.records import Decision
from researcher.journal.writer import Journal
from researcher.optimizer.evidence import Measured
from researcher.optimizer.optimizer import Optimizer
from researcher.prompting.knob_json import other_values
from researcher.prompting.prompt import Prompts, prompt_tokens
from researcher.proposers.advice import to_runnable_change
from researcher.proposers.edit_formats import AskedModel
from researcher.proposers.lessons import NOTHING_LEARNED
from researcher.proposers.prompt_context import PLATEAU_PROMPT, Briefing
from researcher.source.edits import apply_edits
from researcher.source.proposal import (
    AnswerStage,
    Attempt,
    Edit,
    LlmCost,
    Proposal,
    ProposerName,
    SearchReplace,
    SetKnobs,
)
from services.machine.subject import render_subject
from tests.fixtures.journal_story import PROFILE, Story
from trainer.jobs import profile_named

START = """\
A = 1.0  # what it does; range 0.1..10 log
B = 4  # range 1..64 pow2
C = 7  # no range
print(A, B, C)
"""
ROOM = 12_000
MODEL, SMALL = AskedModel("m"), AskedModel("m", is_small=True)


class OpenedRun:
    """A story whose candidates are what their edits make of the incumbent."""

    def __init__(self, folder: Path) -> None:
        self.story = Story(folder, source=START)
        self.story.baseline(1.80, 1.80)

    def try_out(self, title: str, score: float | None, *edits: Edit) -> None:
        run, journal = self.story.run, self.story.journal
        source = apply_edits(journal.source(run.incumbent or 0), edits)
        kept = score is not None and score < journal.scores()[run.incumbent or 0][0]
        decision = Decision.KEEP if kept else Decision.CRASH if score is None else Decision.DISCARD
        self.story.try_out(title, score, decision, edits=edits, source=source)

    @property
    def incumbent(self) -> str:
        return self.story.journal.source(self.story.run.incumbent or 0)

    def briefing(self) -> Briefing:
        journal: Journal = self.story.journal
        optimizer, scores = Optimizer(seed=1, context=256), journal.scores()
        experiments = [item for item in journal.experiments() if item.outcome not in NOTHING_LEARNED]
        optimizer.learn((Measured(item.id, item.parent, journal.source(item.id)) for item in experiments), scores)
        told = Briefing(PROFILE, lambda: "Go down.", optimizer)
        for item in experiments:
            told.lessons.learn(item, journal.proposal(item.id))
        return told


@contextmanager
def opened(folder: Path) -> Iterator[OpenedRun]:
    scripted_run = OpenedRun(folder)
    try:
        yield scripted_run
    finally:
        scripted_run.story.journal.close()


def test_an_edit_is_asked_for_with_effects_near_misses_kinds_and_what_the_keeps_changed(tmp_path: Path) -> None:
    with opened(tmp_path) as scripted_run:
        scripted_run.try_out("A up", 1.70, SetKnobs({"A": 2.0}))
        scripted_run.try_out("B up", 1.705, SetKnobs({"B": 8}))
        scripted_run.try_out("B down", None, SetKnobs({"B": 2}))
        scripted_run.try_out("C away", 1.701, SearchReplace("print(A, B, C)", "print(A, B)"))

        context = scripted_run.briefing().context(scripted_run.story.journal, scripted_run.incumbent, model=MODEL)

    memory = "\n".join(context.memory)
    assert "A up: -0.09" in memory
    assert "B up: +0.00" in memory
    assert "B down: no score, 1 failed" in memory
    assert "4: C away (+0.001000)" in memory, "less than half a sigma of 0.003"
    assert "architecture: 4 tried, 1 kept" in memory
    assert "-A = 1.0" in memory
    assert "+A = 2.0" in memory
    task = Prompts.read().messages(context, ROOM)[1].content
    assert all(" ".join(line.split()) in task for line in context.memory)
    assert "Propose the next experiment." in task


def test_advice_is_asked_for_with_knobs_their_effects_and_the_suggestion_but_no_code(tmp_path: Path) -> None:
    with opened(tmp_path) as scripted_run:
        scripted_run.try_out("A up", 1.70, SetKnobs({"A": 2.0}))
        scripted_run.try_out("B up", 1.75, SetKnobs({"B": 8}))

        briefing = scripted_run.briefing()
        context = briefing.context(
            scripted_run.story.journal,
            scripted_run.incumbent,
            model=MODEL,
            proposer_name=ProposerName.ADVISER,
        )

    assert context.advice is not None
    assert context.advice.knobs == (
        "A = 2.0  # what it does; range 0.1..10 log | up: -0.09971 ± 0.00424, tried 1",
        "B = 4  # range 1..64 pow2 | up: +0.04986 ± 0.00424, tried 1",
    )
    assert context.history == ("0 baseline", "1 A up: -0.10000, keep", "2 B up: +0.05000, discard")
    system, task = (message.content for message in Prompts.read().messages(context, ROOM))
    assert "Go down." in system
    assert f"would do this next: {context.advice.suggestion}" in task
    assert "->" in context.advice.suggestion
    assert "A up" in task
    assert "print(A, B, C)" not in task


def test_a_small_model_sees_no_suggestion_and_the_form_of_one_knob_last(tmp_path: Path) -> None:
    with opened(tmp_path) as scripted_run:
        journal, briefing = scripted_run.story.journal, scripted_run.briefing()
        contexts = [
            briefing.context(journal, scripted_run.incumbent, model=SMALL, proposer_name=name)
            for name in (ProposerName.LLM, ProposerName.ADVISER)
        ]

    for context in contexts:
        system, task = (message.content for message in Prompts.read().messages(context, ROOM))
        assert context.advice is not None
        assert context.advice.suggestion is None
        assert "would do this next" not in task
        assert "hypothesis" not in system + task
        assert task.endswith('\n{"set": {"KNOB": value}}\n')
    assert [context.proposer_name for context in contexts] == ["llm", "adviser"]


def test_moves_that_were_tried_or_rejected_are_closed_to_a_small_model(tmp_path: Path) -> None:
    with opened(tmp_path) as scripted_run:
        scripted_run.try_out("B up", 1.75, SetKnobs({"B": 8}))
        scripted_run.try_out("B on", 1.76, SetKnobs({"B": 16}))
        scripted_run.try_out("B far", None, SetKnobs({"B": 64}))
        scripted_run.try_out("both", 1.76, SetKnobs({"A": 2.0, "B": 2}))
        scripted_run.try_out("other code", 1.70, SearchReplace("print(A, B, C)", "print(A, B)"))
        rejected = Proposal(ProposerName.LLM, "too large", "", (SetKnobs({"B": 32}),))
        scripted_run.story.journal.reject(scripted_run.story.run, rejected, "no memory", scripted_run.story.tick())

        context = scripted_run.briefing().context(scripted_run.story.journal, scripted_run.incumbent, model=SMALL)

    assert context.closed == {("B", 16), ("B", 32), ("B", 64)}, (
        "8 is the present value, and 4 was not tried on this code"
    )


def test_everything_that_the_schema_of_a_small_model_lets_through_is_a_change_that_runs() -> None:
    profile = profile_named("cpu")
    source = render_subject(profile)["train.py"]
    optimizer = Optimizer(seed=1, context=profile.context)
    moves = [(name, value) for name, values in other_values(source).items() for value in values]
    runs = [(name, value) for name, value in moves if optimizer.runs(source, name, value)]

    assert len(runs) > 100
    assert {name for name, _ in set(moves) - set(runs)} == {"DEVICE_BATCH_SIZE"}, "no whole batches"
    for name, value in runs:
        to_runnable_change(Proposal(ProposerName.LLM, "", "", (SetKnobs({name: value}),)), source, profile.context)
    for name, value in set(moves) - set(runs):
        with pytest.raises(Rejected):
            to_runnable_change(Proposal(ProposerName.LLM, "", "", (SetKnobs({name: value}),)), source, profile.context)


def test_a_small_model_is_asked_about_one_function_at_a_time_in_turn(tmp_path: Path) -> None:
    functions = "def one():\n    found = A\n    return found\n\n\nclass Two:\n    def three(self):\n        return B\n"
    with opened(tmp_path) as scripted_run:
        source = scripted_run.incumbent + functions
        contexts = []
        for number in range(25):
            context = scripted_run.briefing().context(scripted_run.story.journal, source, model=SMALL)
            contexts.append(context)
            proposal = Proposal(
                ProposerName.LLM, f"no {number}", "", (), LlmCost("u", "m", 1, 1, 1, 1.0),
                attempts=(Attempt(context.edit_formats, AnswerStage.PARSE),),
            )  # fmt: skip
            scripted_run.story.journal.reject(scripted_run.story.run, proposal, "no", scripted_run.story.tick())

    asked = [context for context in contexts if context.advice is None]
    assert [(context.part, context.removes) for context in asked] == [
        ("one", False), ("one", True), ("Two.three", False), ("Two.three", True), ("one", False),
    ]  # fmt: skip
    _, task = (message.content for message in Prompts.read().messages(asked[2], ROOM))
    assert "    def three(self):\n        return B\n" in task
    assert "B = 4  # range 1..64 pow2" in task
    assert "    return found" not in task
    assert "FUNCTION Two.three\n```python\nthe whole new definition\n```" in task or "<<<<<<< SEARCH" in task


def test_on_a_plateau_the_question_asks_for_something_else(tmp_path: Path) -> None:
    with opened(tmp_path) as scripted_run:
        for number in range(PLATEAU_PROMPT):
            scripted_run.try_out(f"worse {number}", 1.9, SetKnobs({"A": 3.0 + number / 10}))

        briefing = scripted_run.briefing()
        context = briefing.context(scripted_run.story.journal, scripted_run.incumbent, model=MODEL)
        asked = briefing.context(scripted_run.story.journal, scripted_run.incumbent, model=MODEL, idea="try it")

    assert f"The last {PLATEAU_PROMPT} experiments brought nothing" in Prompts.read().messages(context, ROOM)[1].content
    assert "brought nothing" not in Prompts.read().messages(asked, ROOM)[1].content, "a user's idea comes first"


def test_the_same_journal_gives_the_same_words_and_what_does_not_fit_is_what_matters_least(tmp_path: Path) -> None:
    with opened(tmp_path) as scripted_run:
        for number in range(90):
            edit = SearchReplace("print(A, B, C)", f"print(A, B, C, {number})")
            scripted_run.try_out(f"code {number}", 1.9 if number % 3 else 1.803, edit)
            scripted_run.try_out(f"knob {number}", 1.9, SetKnobs({"A": 1.1 + number / 100}))

        contexts = [
            scripted_run.briefing().context(scripted_run.story.journal, scripted_run.incumbent, model=MODEL)
            for _ in range(2)
        ]

    assert contexts[0] == contexts[1]
    assert len(contexts[0].memory) < 60, "bounded, however long the run"
    assert any("Older dead ends" in line for line in contexts[0].memory)
    for room in (1500, 3000, ROOM):
        messages = Prompts.read().messages(contexts[0], room)
        assert prompt_tokens(messages) <= room
    assert "A up" in Prompts.read().messages(contexts[0], 3000)[1].content
    less = Prompts.read().messages(replace(contexts[0], memory=contexts[0].memory[:2]), ROOM)[1].content
    assert "Older dead ends" not in less
