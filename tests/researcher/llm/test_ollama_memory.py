"""A model is in memory as asked and wholly on the GPU, or it is not used; it leaves when a trial needs the GPU."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from typing import Any

import httpx
import pytest

from researcher.errors import LlmUnavailable, ModelDoesNotFit, ModelNotUnloaded
from researcher.llm.client import Message
from researcher.llm.ollama import OllamaClient
from researcher.llm.ollama_api import OllamaSettings
from tests.doubles.ollama_faults import (
    ClampingServer,
    FullGpu,
    OnceSpillingServer,
    SlowToUnload,
    SpillingServer,
    StickyServer,
)
from tests.doubles.ollama_replay import exchanges, known, ollama_replay
from tests.doubles.ollama_server import OllamaDouble, ollama_double

QUESTION = [Message("user", "Name one primary colour.")]
MODEL = "smollm2"
RESIDENT = OllamaSettings("", MODEL, num_ctx=16384, num_batch=512, on_gpu=True, reserve_mib=10 * 1024)
SWAPPED = replace(RESIDENT, resident=False, unload_s=10)
WITHOUT_GPU = replace(RESIDENT, on_gpu=False, reserve_mib=None)

both = pytest.mark.parametrize("kind", ["recording", "double"])


def nothing() -> None:
    """A tick with nothing to do."""


def client_of(settings: OllamaSettings, server: OllamaDouble) -> OllamaClient:
    return OllamaClient(replace(settings, host=server.url))


def told(server: OllamaDouble) -> list[str]:
    """What the server was asked for, in its order."""
    words = []
    for path, body in server.calls:
        is_unload = path == "/api/generate" and body["keep_alive"] == 0
        words.append("chat" if path == "/api/chat" else "unload" if is_unload else "load")
    return words


# The wire: the same assertions on what was recorded and on what the double says.


@both
def test_a_call_without_a_prompt_loads_and_ps_lists_what_is_in_memory(kind: str) -> None:
    case = exchanges("load-keep-alive-minus-1")
    server = ollama_replay(case) if kind == "recording" else ollama_double([""], model=MODEL)
    with server as listening:
        answer = httpx.post(f"{listening.url}/api/generate", json={"model": MODEL, "keep_alive": -1})
        (model,) = httpx.get(f"{listening.url}/api/ps").json()["models"]

    assert answer.json().keys() == {"model", "created_at", "response", "done", "done_reason"}
    assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "load")
    assert model.keys() == {
        *("name", "model", "size", "digest", "details", "expires_at", "size_vram", "context_length")
    }
    assert (model["name"], model["size_vram"], model["context_length"]) == ("smollm2:latest", 0, 4096)
    assert model["size"] > 0


@both
@pytest.mark.parametrize("case", ["unload-keep-alive-0", "unload-not-loaded"])
def test_keep_alive_0_without_a_prompt_unloads_also_what_is_not_loaded(kind: str, case: str) -> None:
    recorded = exchanges(case) + exchanges("unload-keep-alive-0")[1:2]
    with ollama_replay(recorded) if kind == "recording" else ollama_double([""], model=MODEL) as server:
        answer = httpx.post(f"{server.url}/api/generate", json={"model": MODEL, "keep_alive": 0})
        listing = httpx.get(f"{server.url}/api/ps")

    assert answer.json().keys() == {"model", "created_at", "response", "done", "done_reason"}
    assert (answer.json()["done"], answer.json()["done_reason"]) == (True, "unload")
    assert listing.json() == {"models": []}


@both
def test_an_unknown_model_is_neither_loaded_nor_unloaded(kind: str) -> None:
    recorded = exchanges("unknown-model")
    for body in ({"model": "nope"}, {"model": "nope", "keep_alive": 0}):
        case = [each for each in recorded if each["request"]["path"] == "/api/generate"]
        with ollama_replay(case) if kind == "recording" else ollama_double([""], model=MODEL) as server:
            answer = httpx.post(f"{server.url}/api/generate", json=body)

        assert (answer.status_code, answer.json()) == (404, {"error": "model 'nope' not found"})


@both
def test_a_context_longer_than_the_model_was_trained_on_is_not_given(kind: str) -> None:
    load = exchanges("load-keep-alive-minus-1")[:1]
    listing = exchanges("num-ctx-beyond-training")[1:]
    asked = replace(WITHOUT_GPU, num_ctx=100_000)
    if kind == "recording":
        empty = exchanges("unload-keep-alive-0")
        server: Any = ollama_replay(
            [*empty[1:2], *load, *listing, *listing, *empty[:2], *load, *listing, *listing, *empty],
            beside=known(),
        )
    else:
        server = ollama_double(["x"], model=MODEL, kind=TrainedOn8192)
    with (
        server as listening,
        pytest.raises(ModelDoesNotFit, match=r"a context of 8192 tokens, not 100000; set NUM_CTX=8192"),
    ):
        client_of(asked, listening).chat(QUESTION, nothing)


class TrainedOn8192(ClampingServer):
    """As the model of the recording."""

    longest = 8192


# Placing: what is asked of the server, and what is made of its answers.


def test_every_call_of_a_gpu_profile_carries_the_same_placement() -> None:
    with ollama_double(["yes"], model=MODEL) as server:
        client = client_of(RESIDENT, server)
        client.chat(QUESTION, nothing)
        client.chat(QUESTION, nothing)

    assert told(server) == ["load", "chat", "chat"]
    for _, body in server.calls:
        assert (body["options"], body["shift"], body["truncate"], body["keep_alive"]) == (
            {"num_ctx": 16384, "num_batch": 512, "num_predict": 4096, "temperature": 0.7, "num_gpu": 999},
            False,
            False,
            -1,
        )
    assert "prompt" not in server.calls[0][1]


def test_without_a_gpu_no_layers_are_asked_for_and_none_are_required() -> None:
    with ollama_double(["yes"], model=MODEL) as server:
        answer = client_of(WITHOUT_GPU, server).chat(QUESTION, nothing)

    assert answer.text == "yes"
    assert [body["options"].get("num_gpu") for _, body in server.calls] == [None, None]
    assert {body["keep_alive"] for _, body in server.calls} == {"30m"}


def test_a_model_that_stands_otherwise_is_loaded_as_asked() -> None:
    with ollama_double(["yes"], model=MODEL) as server:
        client_of(replace(RESIDENT, num_ctx=8192), server).chat(QUESTION, nothing)
        client_of(RESIDENT, server).chat(QUESTION, nothing)

    assert told(server) == ["load", "chat", "load", "chat"]


def test_a_model_that_spills_onto_the_cpu_is_never_asked_and_does_not_stay() -> None:
    with ollama_double(["yes"], model=MODEL, kind=SpillingServer) as server:
        with pytest.raises(ModelDoesNotFit) as fault:
            client_of(RESIDENT, server).chat(QUESTION, nothing)

        assert server.held is None

    assert str(fault.value) == (
        "smollm2 does not fit beside the trainer: 3.0 of 9.0 GiB on the CPU; set MODEL or NUM_CTX smaller"
    )
    assert told(server) == ["load", "unload", "load", "unload"]


def test_a_spill_that_ends_is_healed_by_the_second_load() -> None:
    with ollama_double(["yes"], model=MODEL, kind=OnceSpillingServer) as server:
        answer = client_of(RESIDENT, server).chat(QUESTION, nothing)

    assert answer.text == "yes"
    assert told(server) == ["load", "unload", "load", "chat"]


def test_a_gpu_without_room_is_told_in_the_servers_words() -> None:
    no_room = pytest.raises(ModelDoesNotFit, match=r"cudaMalloc failed: out of memory.*set MODEL or NUM_CTX smaller")
    with ollama_double(["yes"], model=MODEL, kind=FullGpu) as server, no_room:
        client_of(RESIDENT, server).chat(QUESTION, nothing)


def test_a_model_that_takes_more_than_its_reserve_is_refused() -> None:
    too_large = pytest.raises(ModelDoesNotFit, match=r"takes 9\.0 GiB of the GPU, and 6\.5 GiB are set aside for it")
    with ollama_double(["yes"], model=MODEL) as server, too_large:
        client_of(replace(RESIDENT, reserve_mib=6656), server).chat(QUESTION, nothing)


def test_a_model_that_leaves_before_a_trial_may_take_the_gpu() -> None:
    with ollama_double(["yes"], model=MODEL) as server:
        answer = client_of(replace(SWAPPED, reserve_mib=6656), server).chat(QUESTION, nothing)

    assert answer.text == "yes"


def test_the_seconds_of_an_answer_hold_those_of_the_load() -> None:
    class SlowToLoad(OllamaDouble):
        """Takes its time to load."""

        def load(self, options: dict[str, Any]) -> str | None:
            self.closing.wait(0.4)
            return super().load(options)

    with ollama_double(["yes"], model=MODEL, kind=SlowToLoad) as server:
        answer = client_of(RESIDENT, server).chat(QUESTION, nothing)

    assert answer.seconds >= 0.4


# Leaving: where the GPU cannot hold both, no trial begins before it is free.


def test_where_the_gpu_cannot_hold_both_the_model_is_gone_before_a_trial() -> None:
    with ollama_double(["yes"], model=MODEL, kind=SlowToUnload) as server:
        client = client_of(SWAPPED, server)
        client.chat(QUESTION, nothing)
        held_after_the_answer = server.held
        client.unload(nothing)

        assert (held_after_the_answer is None, server.held) == (False, None)

    assert server.calls[1][1]["keep_alive"] == 0
    assert server.calls[0][1]["keep_alive"] == "5m", "a load that is told 0 is an unload"


def test_another_model_on_the_gpu_has_to_leave_too() -> None:
    with ollama_double(["yes"], model="other:7b") as server:
        client_of(replace(RESIDENT, model="other:7b"), server).chat(QUESTION, nothing)

        client_of(SWAPPED, server).unload(nothing)

        assert server.held is None


def test_a_model_that_does_not_leave_is_said_in_time() -> None:
    with ollama_double(["yes"], model=MODEL, kind=StickyServer) as server:
        client = client_of(replace(SWAPPED, unload_s=0.5), server)
        client.chat(QUESTION, nothing)

        with pytest.raises(ModelNotUnloaded, match=r"still holds its model 0\.5 s after .*; restart Ollama"):
            client.unload(nothing)


def test_a_model_that_stays_is_not_told_to_leave() -> None:
    with ollama_double(["yes"], model=MODEL) as server:
        client = client_of(RESIDENT, server)
        client.chat(QUESTION, nothing)

        client.unload(nothing)

        assert server.held is not None


def test_where_nobody_answers_nobody_is_said_to_stay() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        client = OllamaClient(replace(SWAPPED, host=f"http://127.0.0.1:{bound.getsockname()[1]}"))

        with pytest.raises(LlmUnavailable, match="Ollama may not be running there") as fault:
            client.unload(nothing)

    assert not isinstance(fault.value, ModelNotUnloaded)


@pytest.mark.parametrize("listing", ["[]", '{"models": [{"name": "smollm2:latest"}]}', '{"models": 3}', "{}", "no"])
def test_a_listing_that_is_not_ollamas_is_nobodys(listing: str) -> None:
    empty = json.loads(json.dumps(exchanges("unload-keep-alive-0")[1]))
    empty["response"]["body"] = listing
    empty["response"]["headers"] = [["Content-Type", "application/json"], ["Content-Length", str(len(listing))]]

    with ollama_replay([empty], beside=known()) as server, pytest.raises(LlmUnavailable, match="not like Ollama"):
        OllamaClient(replace(RESIDENT, host=server.url)).chat(QUESTION, nothing)
