"""The wire to a real llama.cpp server. Its model is tiny: what it says is not looked at."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from researcher.errors import PromptTooLong
from researcher.llm.client import Message
from researcher.llm.openai import OpenAiClient, OpenAiSettings
from researcher.prompting.prompt import PromptContext
from researcher.proposers.escalation import TokenPrice
from researcher.proposers.llm_conversation import Conversation
from researcher.source.proposal import EditFormat
from tests.doubles.llama_cpp import CONTEXT_TOKENS, llama_cpp
from tests.fixtures.journal_story import accepted

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
