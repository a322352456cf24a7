"""The comparison of models asks the questions as they were stored, and counts what each answer passes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from researcher.llm.client import LlmOptions
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.llm.openai import openai_client
from researcher.prompting.prompt import Advice, PromptContext
from researcher.proposers.draft import Draft
from researcher.proposers.llm_conversation import Conversation
from researcher.source.proposal import FREE_FORMATS, EditFormat, Proposal
from researcher.source.validation import validate
from services.machine.state import State
from services.machine.subject import render_subject
from tests.bench.models import Ground, Question, answers_of, question_of, table_of
from tests.doubles.ollama_server import ollama_double
from tests.doubles.openai_server import openai_double, refused, spoken
from trainer.jobs import profile_named

PROFILE = profile_named("cpu")
FILES = {name: text for name, text in render_subject(PROFILE).items() if name.endswith(".py")}
TRAIN = FILES["train.py"]
CONTEXT = PromptContext("Lower the score.", "profile cpu", TRAIN, "It scores 1.8.")
IN_JSON = replace(CONTEXT, advice=Advice(("DEPTH = 2",)), edit_formats=(EditFormat.JSON,))


@pytest.mark.parametrize(
    ("context", "formats"),
    [
        (CONTEXT, FREE_FORMATS),
        (IN_JSON, (EditFormat.JSON,)),
        (replace(IN_JSON, one_knob=True), (EditFormat.JSON,)),
    ],
)
def test_a_stored_question_is_asked_as_it_was(context: PromptContext, formats: tuple[EditFormat, ...]) -> None:
    def vet(proposal: Proposal) -> Draft:
        return Draft(proposal, validate(proposal, TRAIN, lambda _: None))

    with ollama_double(["HYPOTHESIS: h\nSET DEPTH = 1"]) as server:
        client = OllamaClient(OllamaSettings(server.url, "small", num_ctx=32768))
        draft = Conversation(client).propose(context, lambda: None, vet)

    question = question_of(draft.exchanges[0].prompt, TRAIN)

    asked = [{"role": message.role, "content": message.content} for message in question.messages]
    assert asked == server.asked[0]["messages"]
    assert question.edit_formats == formats


def test_each_answer_counts_for_its_format_and_the_steps_that_it_passes(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.make()
    state.data.mkdir()
    (state.data / "manifest.json").write_text(json.dumps({"vocab_size": PROFILE.vocab_size, "bos": 0}))
    ground = Ground(tmp_path, state, PROFILE, FILES, "d", trials=False)
    free, in_json = Question(TRAIN, (), FREE_FORMATS), Question(TRAIN, (), (EditFormat.JSON,))
    replies = (
        spoken("HYPOTHESIS: h\nSET DEPTH = 1", usage=(100, 30)),
        spoken("HYPOTHESIS: h\nSET NOWHERE = 1", usage=(100, 10)),
        spoken("I cannot say."),
        refused(413, "no such question"),
        spoken('{"set": {"NOWHERE": 1}, "hypothesis": "h"}'),
    )
    with openai_double(*replies) as server:
        client = openai_client(LlmOptions(model="m", url=server.url))
        tallies = answers_of(client, [free, free, free, free, in_json], ground, Console(quiet=True))

    counts = {form: dict(tally.counts) for form, tally in tallies.items()}
    assert counts == {
        "set": {"questions": 2, "answers": 2, "parse": 2, "apply": 1, "validate": 1, "dry run": 1},
        "none": {"questions": 2, "answers": 1, "no answer": 1},
        "json": {"questions": 1, "answers": 1, "parse": 1},
    }
    assert tallies["set"].tokens == 40
    assert table_of({"m": tallies}, {"m": 2048.0}, trials=False).row_count == 3
