"""The wire to a real llama.cpp server. Its model is tiny: what it says is not looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from researcher.errors import PromptTooLong
from researcher.llm.client import Message, Sampling
from researcher.llm.openai import OpenAiClient, OpenAiSettings
from researcher.prompting.knob_json import schema_of
from researcher.prompting.prompt import PromptContext
from researcher.prompting.reply_parser import read_reply
from researcher.proposers.escalation import TokenPrice
from researcher.proposers.llm_conversation import Conversation
from researcher.source.edits import apply_edits
from researcher.source.proposal import EditFormat
from services.machine.subject import render_subject
from tests.doubles.llama_cpp import CONTEXT_TOKENS, llama_cpp
from tests.fixtures.journal_story import accepted
from trainer.jobs import profile_named

pytestmark = pytest.mark.slow

SCHEMA = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with llama_cpp() as address:
        yield address


@pytest.fixture
def client(url: str) -> OpenAiClient:
    return OpenAiClient(OpenAiSettings(url, "smollm2", num_ctx=CONTEXT_TOKENS, num_predict=16, temperature=0.0))


def words(count: int) -> list[Message]:
    return [Message("user", "word " * count)]


def test_answer_comes_with_the_servers_counts_and_is_seen_to_be_cut(client: OpenAiClient) -> None:
    client.check_available()

    answer = client.chat([Message("user", "Count to a hundred.")], lambda: None)

    assert answer.text
    assert (answer.done_reason, answer.answer_tokens) == ("length", 16)
    assert answer.prompt_tokens is not None
    assert answer.prompt_tokens > 5


def test_schema_is_kept_to(client: OpenAiClient) -> None:
    answer = client.chat([Message("user", "Are you sure?")], lambda: None, answer_tokens=200, schema=SCHEMA)

    assert type(json.loads(answer.text)["sure"]) is bool
    assert answer.done_reason == "stop"


def test_question_that_is_too_long_by_a_token_is_refused_and_one_that_just_fits_is_not(client: OpenAiClient) -> None:
    counted = client.chat(words(10), lambda: None, answer_tokens=1).prompt_tokens
    assert counted is not None
    longest = CONTEXT_TOKENS - 1 - counted + 10  # a word is a token; one is left for the answer

    fits = client.chat(words(longest), lambda: None, answer_tokens=1)
    with pytest.raises(PromptTooLong, match="exceeds the available context size"):
        client.chat(words(longest + 1), lambda: None, answer_tokens=1)

    assert fits.prompt_tokens == CONTEXT_TOKENS - 1


def test_giving_up_in_the_middle_leaves_the_server_fit_for_the_next_question(client: OpenAiClient) -> None:
    class Enough(Exception):
        pass

    def tick() -> None:
        raise Enough

    with pytest.raises(Enough):
        client.chat([Message("user", "tree " * 1500)], tick)

    assert client.chat(words(5), lambda: None).text


def test_proposer_makes_a_draft_with_its_price_of_whatever_is_said(url: str) -> None:
    settings = OpenAiSettings(url, "smollm2", num_ctx=CONTEXT_TOKENS, num_predict=32)
    context = PromptContext(program="", profile="", source="X = 1\n", incumbent="", edit_formats=(EditFormat.SET,))
    proposer = Conversation(OpenAiClient(settings), price=TokenPrice(1.0, 1.0))

    draft = proposer.propose(context, lambda: None, accepted)

    assert draft.proposal.cost is not None
    assert draft.proposal.cost.money is not None
    assert draft.proposal.cost.money > 0


def test_the_schema_of_one_knob_is_a_grammar_and_every_answer_in_it_sets_a_knob(url: str) -> None:
    source = render_subject(profile_named("cpu"))["train.py"]
    client = OpenAiClient(OpenAiSettings(url, "smollm2", num_ctx=CONTEXT_TOKENS, num_predict=64))
    question = [Message("user", "Choose another value for one knob. Answer with JSON.")]

    answers = [
        client.chat(question, lambda: None, schema=schema_of(source, one_knob=True), sampling=Sampling(seed, 0.3))
        for seed in range(3)
    ]

    for answer in answers:
        reply = read_reply(answer.text)
        assert len(reply.edits) == 1
        assert apply_edits(source, reply.edits) != source
