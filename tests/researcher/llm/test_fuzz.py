"""Whatever comes of a stream, however it is cut, ends as a draft or as an LLM that is away."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from hypothesis import given, settings
from hypothesis import strategies as st

from researcher.errors import LlmUnavailable
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.prompting.prompt import PromptContext
from researcher.prompting.transcripts import store_exchanges, stored_exchanges
from researcher.proposers.draft import Draft
from researcher.proposers.llm_conversation import Conversation
from researcher.source.proposal import Proposal
from researcher.source.validation import validate
from tests.doubles.fault_scenarios import DECOY, SCENARIOS, TRAIN
from tests.doubles.ollama_shapes import last_line, line, listed_model, load_answer, loaded_model

MODEL = "small:latest"
SETTINGS = OllamaSettings("127.0.0.1:1", MODEL)
CONTEXT = PromptContext("Go down.", "cpu", TRAIN, "It scores 1.8.")
FACTS = {
    "/api/version": {"version": "0.32.15"},
    "/api/show": listed_model(MODEL),
    "/api/ps": {"models": [loaded_model(MODEL, 1, 0, SETTINGS.num_ctx)]},
    "/api/generate": load_answer(MODEL, "load"),
}


class InMemory(OllamaClient):
    """Gets the bytes of each answer from a list, in the pieces given."""

    def __init__(self, answers: Sequence[Sequence[bytes]]) -> None:
        super().__init__(SETTINGS)
        self._answers = iter(answers)

    def _connection(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.url, transport=httpx.MockTransport(self._answer))

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path != "/api/chat":
            return httpx.Response(200, json=FACTS[request.url.path])
        return httpx.Response(200, content=_pieces(next(self._answers)))


async def _pieces(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def said(part: tuple[str, str]) -> bytes:
    return json.dumps(line(MODEL, **{part[0]: part[1]}), ensure_ascii=len(part[1]) % 2 == 0).encode(
        "utf-8", "surrogatepass"
    )


def ended(reason: str) -> bytes:
    return json.dumps(last_line(MODEL, 1, 5000, 9, reason)).encode()


TEXTS = st.text() | st.sampled_from([DECOY, *(turn.text for row in SCENARIOS for turn in row.turns)])
FIELDS = st.sampled_from(["content", "content", "content", "thinking"])
LINES = st.builds(said, st.tuples(FIELDS, TEXTS))
ODD = st.binary(max_size=9) | st.sampled_from([b"null", b"[]", b'{"error": 3}', b'{"message": []}', b'{"done": 1}'])
ENDS = st.sampled_from([ended("stop"), ended("stop"), ended("length"), b""])


def cut(body: bytes, places: Sequence[float]) -> list[bytes]:
    """The same bytes in pieces."""
    at = [0, *sorted(int(place * len(body)) for place in places), len(body)]
    return [body[begin:end] for begin, end in pairwise(at)]


ANSWERS = st.builds(
    lambda lines, odd, end, places: cut(b"\n".join([*lines, *odd, end]) + b"\n", places),
    st.lists(LINES, max_size=4),
    st.lists(ODD, max_size=1) | st.just([]),
    ENDS,
    st.lists(st.floats(0, 1), max_size=6),
)


@settings(max_examples=40)
@given(st.lists(ANSWERS, min_size=3, max_size=3))
def test_no_answer_in_any_pieces_raises_anything_but_that_the_model_is_away(answers: list[list[bytes]]) -> None:
    proposer = Conversation(InMemory(answers))
    try:
        draft = proposer.propose(CONTEXT, lambda: None, vet)
    except LlmUnavailable:
        return
    if draft.candidate is not None:
        assert draft.candidate == vet(draft.proposal).candidate
    assert draft.rejected != ""
    assert draft.proposal.title.isprintable()
    assert Proposal.from_json(draft.proposal.to_json()) == draft.proposal
    with TemporaryDirectory() as folder:
        store_exchanges(Path(folder), draft.exchanges)
        assert stored_exchanges(Path(folder)) == list(draft.exchanges)


def vet(proposal: Proposal) -> Draft:
    return Draft(proposal, validate(proposal, TRAIN, lambda _: None))
