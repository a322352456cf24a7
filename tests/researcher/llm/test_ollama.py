"""The client against recordings of a real server, against the double, and the double against the recordings."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from researcher.errors import LlmServerFault, LlmTimeout, LlmUnavailable
from researcher.llm.client import Message, Sampling, Think, billions_in, is_small
from researcher.llm.ollama import OllamaClient, OllamaSettings, base_url
from researcher.llm.ollama_api import ModelCapabilities
from tests.doubles.ollama_replay import exchanges, known, ollama_replay
from tests.doubles.ollama_server import OllamaDouble, Turn, ollama_double

QUESTION = [Message("system", "You are brief."), Message("user", "Name one primary colour.")]
LONG_QUESTION = [Message("user", "Item 1 costs 4 euros. " * 400)]
MODEL = "smollm2"


def client_of(url: str, **changes: Any) -> OllamaClient:
    quick = OllamaSettings(url, MODEL, num_ctx=512, num_predict=60, connect_s=2, first_s=20, stall_s=20, deadline_s=30)
    return OllamaClient(replace(quick, **changes))


def nothing() -> None:
    """A tick with nothing to do."""


def in_memory(context: int = 512) -> list[dict[str, Any]]:
    """The recorded /api/ps of a loaded model, with the context that is asked for here."""
    exchange = json.loads(json.dumps(recorded("load-keep-alive-minus-1", 1)))[0]
    response = exchange["response"]
    response["body"] = response["body"].replace('"context_length":4096', f'"context_length":{context}')
    response["headers"] = [["Content-Length", str(len(response["body"]))]]
    return [exchange]


def recorded(case: str, *numbers: int) -> list[dict[str, Any]]:
    found = exchanges(case)
    return [found[number] for number in numbers] if numbers else found


@contextmanager
def real_or_double(kind: str, case: list[dict[str, Any]], turn: Turn) -> Iterator[str]:
    """The address of a server that answers /api/chat as recorded, or of the double."""
    if kind == "recording":
        with ollama_replay(case, path="/api/chat", beside=in_memory() + known()) as replay:
            yield replay.url
    else:
        with ollama_double([turn], model=MODEL) as double:
            yield double.url


both = pytest.mark.parametrize("kind", ["recording", "double"])


# The wire: the same assertions on what was recorded and on what the double says.


@both
def test_version_and_tags_have_the_recorded_shape(kind: str) -> None:
    server = ollama_replay(recorded("version") + recorded("tags")) if kind == "recording" else ollama_double([""])
    with server as listening:
        version = httpx.get(f"{listening.url}/api/version").json()
        root = httpx.get(listening.url + "/")
        tags = httpx.get(f"{listening.url}/api/tags").json()

    assert version.keys() == {"version"}
    assert root.text == "Ollama is running"
    model = tags["models"][0]
    assert {"name", "model", "modified_at", "size", "digest", "details", "capabilities"} <= model.keys()
    assert {"family", "families", "format", "parameter_size", "quantization_level"} <= model["details"].keys()
    assert model["name"].count(":") == 1
    assert len(model["digest"]) == 64


@both
def test_show_tells_what_a_model_can_do(kind: str) -> None:
    server = ollama_replay(recorded("show")) if kind == "recording" else ollama_double([""], model=MODEL)
    with server as listening:
        shown = httpx.post(f"{listening.url}/api/show", json={"model": MODEL}).json()

    assert {"modelfile", "parameters", "template", "details", "model_info", "capabilities"} <= shown.keys()
    assert isinstance(shown["model_info"][shown["model_info"]["general.architecture"] + ".context_length"], int)
    assert "completion" in shown["capabilities"]


@both
def test_stream_is_lines_of_json_and_only_the_last_is_done(kind: str) -> None:
    turn = Turn("The primary colours are red, blue and yellow.", length=True)
    with real_or_double(kind, recorded("chat-stream"), turn) as url:
        response = httpx.post(f"{url}/api/chat", json={"model": MODEL, "messages": [{"role": "user", "content": "x"}]})
    lines = [json.loads(line) for line in response.text.splitlines()]

    assert response.headers["content-type"] == "application/x-ndjson"
    assert all(line.keys() == {"model", "created_at", "message", "done"} and not line["done"] for line in lines[:-1])
    assert all(line["message"].keys() == {"role", "content"} for line in lines)
    assert "".join(line["message"]["content"] for line in lines).startswith("The primary colours are ")
    assert lines[-1].keys() == {
        *("model", "created_at", "message", "done", "done_reason", "total_duration", "load_duration"),
        *("prompt_eval_count", "prompt_eval_duration", "eval_count", "eval_duration"),
    }
    assert (lines[-1]["done"], lines[-1]["done_reason"], lines[-1]["message"]["content"]) == (True, "length", "")


# The client: the same outcome from what was recorded and from the double.


@both
def test_complete_answer_comes_with_its_counts(kind: str) -> None:
    turn = Turn("The primary colours are red, blue and yellow. " * 20, length=True)
    with real_or_double(kind, recorded("chat-stream"), turn) as url:
        answer = client_of(url).chat(QUESTION, nothing)

    assert answer.text.startswith("The primary colours are ")
    assert answer.done_reason == "length"
    assert answer.prompt_tokens is not None
    assert 5 < answer.prompt_tokens < 30
    assert answer.answer_tokens is not None
    assert answer.answer_tokens > 50
    assert answer.thoughts == ""
    assert answer.seconds > 0


@both
def test_thoughts_are_no_answer(kind: str) -> None:
    case = recorded("think-supported-stream-format")
    with real_or_double(kind, case, Turn('{"name": "Ava"}', "thoughts_only", length=True)) as url:
        answer = client_of(url).chat(QUESTION, nothing)

    assert answer.text == ""
    assert answer.thoughts.startswith("{")


@both
@pytest.mark.parametrize(
    ("case", "turn", "error", "says"),
    [
        (
            ("unknown-model", 1),
            Turn(fault="model_missing"),
            LlmUnavailable,
            "does not have the model smollm2; run: overnight",
        ),
        (("queue-full", 2), Turn(fault="busy"), LlmUnavailable, "503: server busy, please try again"),
        (("runner-dies-non-stream", 0), Turn(fault="server_error"), LlmServerFault, "refused the question (500): "),
        (
            ("runner-dies-mid-stream", 0),
            Turn("a b c d", "error_line"),
            LlmServerFault,
            "running the model: unexpected EOF",
        ),
        (("disconnect-mid-stream", 0), Turn("a b c d", "drop_mid_stream"), LlmServerFault, "broke off in the middle"),
    ],
)
def test_recorded_faults_are_typed(
    kind: str, case: tuple[str, int], turn: Turn, error: type[Exception], says: str
) -> None:
    with real_or_double(kind, recorded(*case), turn) as url, pytest.raises(error) as fault:
        client_of(url).chat(QUESTION, nothing)

    assert says in str(fault.value)


@both
def test_prompt_that_is_too_long_is_refused_by_the_server_instead_of_cut(kind: str) -> None:
    case = recorded("chat-too-long-one-message", 1)
    too_long = pytest.raises(LlmServerFault, match=r"exceeds the available context size \(512 tokens\)")
    with real_or_double(kind, case, Turn("x")) as url, too_long:
        client_of(url).chat(LONG_QUESTION, nothing)


@pytest.mark.parametrize(
    ("case", "number", "error", "says"),
    [
        ("unknown-model", 3, LlmServerFault, "(400): invalid model name"),
        ("chat-too-long-one-message", 2, LlmServerFault, "longer than the context length currently available"),
        ("think-unsupported", 0, LlmServerFault, "does not support thinking"),
        ("http-errors", 0, LlmUnavailable, "405: 405 method not allowed"),
        ("http-errors", 2, LlmUnavailable, "404: 404 page not found"),
        ("http-errors", 3, LlmUnavailable, "307"),
    ],
)
def test_every_other_recorded_status_is_typed(case: str, number: int, error: type[Exception], says: str) -> None:
    replay = ollama_replay(recorded(case, number), path="/api/chat", beside=in_memory() + known())
    with replay as server, pytest.raises(error) as fault:
        client_of(server.url).chat(QUESTION, nothing)

    assert says in str(fault.value)


def test_every_call_fixes_the_context_and_forbids_cutting_and_thinking() -> None:
    with ollama_double(["yes"], model=MODEL) as server:
        client = client_of(server.url, temperature=0.3)
        client.chat(QUESTION, nothing)
        client.chat(LONG_QUESTION[:0] + QUESTION, nothing)

    assert server.asked[0] == server.asked[1]
    assert {key: value for key, value in server.asked[0].items() if key != "messages"} == {
        "model": MODEL,
        "stream": True,
        "think": False,
        "truncate": False,
        "shift": False,
        "keep_alive": "30m",
        "options": {"num_ctx": 512, "num_batch": 512, "num_predict": 60, "temperature": 0.3},
    }
    assert server.asked[0]["messages"][0] == {"role": "system", "content": "You are brief."}


@both
def test_model_that_can_think_says_so(kind: str) -> None:
    server = ollama_replay(recorded("show-thinking")) if kind == "recording" else ollama_double([""], kind=Thinker)
    with server as listening:
        shown = httpx.post(f"{listening.url}/api/show", json={"model": "small"}).json()

    told = ModelCapabilities.of(shown, "0.32.15")
    assert (told.thinks, told.family) == (True, "llama")


class Thinker(OllamaDouble):
    """Has a model that can think."""

    capabilities = ("completion", "thinking")


class OnlyLevels(Thinker):
    """Has one that always does, more or less."""

    family = "gptoss"


class RemoteModel(OllamaDouble):
    """Passes its model's questions on to another machine, so that the model is never in its own memory."""

    def load(self, options: dict[str, Any]) -> str | None:
        return None

    def shown(self) -> dict[str, Any]:
        return super().shown() | {"remote_host": "https://cloud.example:443", "remote_model": "big"}


class CloudModel(RemoteModel):
    """An older version, whose model only has a name that says so."""

    def shown(self) -> dict[str, Any]:
        return OllamaDouble.shown(self)


class SilentOfContext(OllamaDouble):
    """A version whose list of loaded models does not tell their context."""

    def listing(self) -> list[dict[str, Any]]:
        return [{name: value for name, value in each.items() if name != "context_length"} for each in super().listing()]


@pytest.mark.parametrize(
    ("kind", "model", "loads"),
    [
        (RemoteModel, "big", 0),
        (CloudModel, "big:120b-cloud", 0),
        (CloudModel, "big:cloud", 0),
        (SilentOfContext, "small", 1),
    ],
)
@pytest.mark.parametrize("on_gpu", [True, False])
def test_model_that_is_not_listed_with_its_context_is_asked_where_that_is_as_it_should_be(
    kind: type[OllamaDouble], model: str, loads: int, on_gpu: bool
) -> None:
    with ollama_double(["yes"], model=model, kind=kind) as server:
        client = client_of(server.url, model=model, on_gpu=on_gpu)
        answers = [client.chat(QUESTION, nothing).text for _ in range(2)]

    assert answers == ["yes", "yes"]
    assert [path for path, _ in server.calls].count("/api/generate") == loads


def test_cloud_that_wants_a_sign_in_says_how() -> None:
    refused = [{"request": {"path": "/api/show"}, "response": _unauthorized()}]
    with ollama_replay(refused) as server, pytest.raises(LlmUnavailable, match=r"401: unauthorized.*ollama signin"):
        client_of(server.url).chat(QUESTION, nothing)


def _unauthorized() -> dict[str, Any]:
    body = '{"error":"unauthorized"}'
    headers = [["Content-Type", "application/json"], ["Content-Length", str(len(body))]]
    return {"status": 401, "reason": "Unauthorized", "headers": headers, "body": body}


class OldServer(OllamaDouble):
    """Its count of a prompt leaves out what it read before."""

    version = "0.30.2"


@pytest.mark.parametrize(
    ("kind", "think", "asked"),
    [
        (OllamaDouble, Think.OFF, False),
        (OllamaDouble, Think.ON, False),
        (OllamaDouble, Think.HIGH, False),
        (Thinker, Think.OFF, False),
        (Thinker, Think.ON, True),
        (Thinker, Think.LOW, "low"),
        (OnlyLevels, Think.OFF, "low"),
        (OnlyLevels, Think.ON, "medium"),
        (OnlyLevels, Think.HIGH, "high"),
    ],
)
def test_only_a_model_that_can_think_is_asked_to_and_one_that_cannot_stop_for_little(
    kind: type[OllamaDouble], think: Think, asked: bool | str
) -> None:
    with ollama_double(["yes"], model=MODEL, kind=kind) as server:
        client = client_of(server.url, think=think)
        answers = [client.chat(QUESTION, nothing) for _ in range(2)]

    assert [body["think"] for body in server.asked] == [asked, asked]
    assert [(answer.text, answer.counts_cached) for answer in answers] == [("yes", True)] * 2


def test_what_a_server_does_not_say_of_thinking_and_counting_is_not_assumed() -> None:
    told = ModelCapabilities.of({"details": {}}, "0.30.2")

    assert (told.think(Think.OFF), told.think(Think.ON), told.counts_cached) == (False, True, False)
    with ollama_double(["yes"], model=MODEL, kind=OldServer) as server:
        assert not client_of(server.url).chat(QUESTION, nothing).counts_cached


def test_a_prompt_read_before_is_counted_whole_in_the_recordings() -> None:
    first, again = (json.loads(each["response"]["body"]) for each in recorded("generate"))

    assert first["prompt_eval_count"] == again["prompt_eval_count"]


def test_a_schema_is_sent_as_the_form_of_the_answer() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}}}

    with ollama_double(["{}"], model=MODEL) as server:
        client_of(server.url).chat(QUESTION, nothing, schema=schema, answer_tokens=99)

    assert (server.asked[0]["format"], server.asked[0]["options"]["num_predict"]) == (schema, 99)


@pytest.mark.parametrize("case", ["format-schema-chat-stream", "format-schema-cut-off"])
def test_answer_kept_to_a_schema_is_text_that_may_be_cut(case: str) -> None:
    with ollama_replay(recorded(case), beside=in_memory() + known()) as server:
        answer = client_of(server.url).chat(QUESTION, nothing)

    assert answer.text.startswith('{\n  "name": "Ava')
    assert (answer.done_reason == "length") == (not answer.text.endswith("}"))


@pytest.mark.parametrize(("number", "says"), [(0, "(500): invalid format"), (1, "JSON schema conversion failed")])
def test_schema_that_the_server_does_not_take_is_a_fault_of_the_question(number: int, says: str) -> None:
    replay = ollama_replay(recorded("format-invalid-stream", number), beside=in_memory() + known())
    with replay as server, pytest.raises(LlmServerFault) as fault:
        client_of(server.url).chat(QUESTION, nothing)

    assert says in str(fault.value)


def test_text_with_odd_line_ends_and_half_characters_survives() -> None:
    text = "a\u2028b\x85c ö\ud83d d"

    with ollama_double(lambda body: Turn(body["messages"][0]["content"]), model=MODEL) as server:
        answer = client_of(server.url).chat([Message("user", text)], nothing)

    assert answer.text == "a\u2028b\x85c ö? d"


@pytest.mark.parametrize(
    ("turn", "changes", "error", "says"),
    [
        (Turn("a b c d", "no_done"), {}, LlmServerFault, "without saying `done`, after 4 lines"),
        (Turn("", "no_done"), {}, LlmServerFault, "without saying `done`, after 0 lines"),
        (Turn("a b c d", "garbage_line"), {}, LlmServerFault, "line 3 of the answer is not JSON"),
        (Turn("a", "drop_before_stream"), {}, LlmUnavailable, "Ollama may not be running there"),
        (Turn("a", "hang"), {"first_s": 0.3}, LlmTimeout, "sent nothing for 0 s"),
        (Turn("a b c d", "stall"), {"stall_s": 0.3}, LlmServerFault, "stopped in the middle"),
        (
            Turn("a b " * 500, "slow_trickle", 0.02),
            {"deadline_s": 0.5},
            LlmServerFault,
            "0 s after its first word",
        ),
    ],
)
def test_server_that_misbehaves_is_given_up_in_time(
    turn: Turn, changes: dict[str, Any], error: type[Exception], says: str
) -> None:
    with ollama_double([turn], model=MODEL) as server, pytest.raises(error) as fault:
        client_of(server.url, **changes).chat(QUESTION, nothing)

    assert says in str(fault.value)


def test_another_sampling_draws_another_answer_and_nothing_that_would_reload_the_model() -> None:
    with ollama_double(["yes"], model=MODEL) as server:
        client = client_of(server.url)
        for sampling in (Sampling(7), Sampling(8, 0.2)):
            client.chat(QUESTION, nothing, sampling=sampling)

    sent = [(body["options"].pop("temperature"), body["options"].pop("seed")) for body in server.asked]
    assert sent == [(0.7, 7), (pytest.approx(0.9), 8)]
    assert server.asked[0] == server.asked[1]


def test_tick_is_called_while_the_answer_comes_and_may_give_it_up() -> None:
    class Enough(Exception):
        pass

    ticks: list[int] = []

    def tick() -> None:
        ticks.append(len(ticks))
        if len(ticks) == 3:
            raise Enough

    with ollama_double([Turn("never", "hang")], model=MODEL) as server:
        with pytest.raises(Enough):
            client_of(server.url).chat(QUESTION, tick)

        assert server.hung_up.wait(10), "the connection is closed, so the server can stop generating"


def test_nobody_at_the_address_is_away() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        client = client_of(f"http://127.0.0.1:{bound.getsockname()[1]}")

        with pytest.raises(LlmUnavailable, match="Ollama may not be running there"):
            client.chat(QUESTION, nothing)
        with pytest.raises(LlmUnavailable, match="Ollama may not be running there"):
            client.check_available()


@both
def test_availability_check_finds_the_model_by_any_of_its_names(kind: str) -> None:
    names = ["smollm2", "SmolLM2:latest", "library/smollm2"]
    case = recorded("tags") * len(names)
    with ollama_replay(case) if kind == "recording" else ollama_double([""], model=MODEL) as server:
        for name in names:
            client_of(server.url, model=name).check_available()


@both
def test_availability_check_says_how_to_get_a_missing_model(kind: str) -> None:
    case = recorded("tags")
    server = ollama_replay(case) if kind == "recording" else ollama_double([""], model=MODEL)
    with server as listening, pytest.raises(LlmUnavailable, match="overnight pull qwen3:8b"):
        client_of(listening.url, model="qwen3:8b").check_available()


def test_availability_check_at_something_else_says_so() -> None:
    not_ollama = pytest.raises(LlmUnavailable, match="not like Ollama; is the address right")
    with ollama_replay(recorded("version", 2), path="/api/tags") as server, not_ollama:
        client_of(server.url).check_available()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":11434", "http://127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("http://:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:", "http://127.0.0.1:11434"),
        ('"127.0.0.1:11434"', "http://127.0.0.1:11434"),
        ("'0.0.0.0'", "http://127.0.0.1:11434"),
        ("'http://ollama:80'", "http://ollama:80"),
        ('" 127.0.0.1:11434 "', "http://127.0.0.1:11434"),
        ('""', "http://127.0.0.1:11434"),
        ("ollama", "http://ollama:11434"),
        (" ollama:80 ", "http://ollama:80"),
        ("http://ollama:11434/", "http://ollama:11434"),
        ("http://ollama", "http://ollama:80"),
        ("https://gpu.example/api-root/", "https://gpu.example:443/api-root"),
        ("::1", "http://[::1]:11434"),
        ("[::]:8080", "http://[::1]:8080"),
        ("ollama.com", "https://ollama.com:443"),
        ("fe80::1%eth0", "http://[fe80::1%eth0]:11434"),
        (":0", "http://127.0.0.1:0"),
        ("http://", "http://127.0.0.1:80"),
    ],
)
def test_host_is_read_as_users_write_it(host: str, url: str) -> None:
    assert base_url(host) == url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (":66000", "http://127.0.0.1:11434"),
        (":-1", "http://127.0.0.1:11434"),
        ("gpu:port", "http://gpu:11434"),
        ("http://gpu:99999999", "http://gpu:80"),
        ("https://gpu:port/api-root", "https://gpu:443/api-root"),
        ("[::1]:66000", "http://[::1]:11434"),
    ],
)
def test_an_invalid_port_is_the_default_port_with_a_warning_as_ollama_has_it(
    host: str, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    base_url.cache_clear()

    assert base_url(host) == base_url(host) == url
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("host", ["ftp://host", "a b:1", "http://[::1", "h:1:2", "http://h:1:2", 'a"b', "user:key@h:1"])
def test_address_that_is_none_stops_the_start_with_an_example(host: str) -> None:
    with pytest.raises(ValueError, match=r"OLLAMA_HOST is .* write for example http://127\.0\.0\.1:11434"):
        OllamaClient(OllamaSettings(host, MODEL))


@pytest.mark.parametrize(
    ("text", "billions"),
    [
        ("qwen3.5:4b", 4.0),
        ("Qwen2.5-Coder-0.5B-Instruct-Q4_K_M", 0.5),
        ("qwen3:30b-a3b", 30.0),
        ("gemma3n:e4b", 4.0),
        ("smollm2:135m", 0.135),
        ("494.03M", 0.49403),
        ("gpt-oss:20b", 20.0),
        ("large-1", None),
        ("llama3.2", None),
        ("web2b2c", None),
    ],
)
def test_a_models_size_is_read_from_its_name(text: str, billions: float | None) -> None:
    assert billions_in(text) == pytest.approx(billions)


@pytest.mark.parametrize(
    ("model", "told", "small"), [("m", "4.3B", True), ("m:4b", "9.65B", False), ("m:4b", "", True)]
)
def test_what_the_server_says_of_a_models_size_comes_before_its_name(model: str, told: str, small: bool) -> None:
    class Sized(OllamaDouble):
        """Says how large its model is."""

        parameter_size = told

    with ollama_double(["yes"], model=model, kind=Sized) as server:
        client = client_of(server.url, model=model)
        before = is_small(client)
        client.chat(QUESTION, nothing)

    assert (before, is_small(client)) == (":4b" in model, small)
