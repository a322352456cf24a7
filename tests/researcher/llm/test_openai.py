"""An OpenAI-compatible endpoint, over real HTTP: against recordings of a real server, and a double for what it never
did. Whether an answer is any good is not asked here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.errors import LlmServerFault, LlmTimeout, LlmUnavailable, ModelMissing, PromptTooLong
from researcher.llm.client import Answer, LlmOptions, Message, Sampling
from researcher.llm.ollama import ollama_client
from researcher.llm.openai import (
    LONGEST_REST_S,
    OpenAiClient,
    OpenAiSettings,
    checked_url,
    openai_client,
    read_key,
)
from researcher.llm.stream import Deadlines, Stream, authorities
from researcher.proposers.escalation import TokenPrice
from tests.doubles.ollama_replay import exchanges, ollama_replay
from tests.doubles.openai_server import DONE, Reply, chunk, openai_double, refused, spoken

QUESTION = (Message("system", "You are brief."), Message("user", "Name one primary colour."))
KEY = "sk-very-secret-0123456789"


def client_of(url: str, *, key_file: Path | None = None, clock: Callable[[], float] = lambda: 0.0, **more: float):
    return OpenAiClient(OpenAiSettings(url, "m", key_file, **more), clock=clock)  # type: ignore[arg-type]


def whole_reply(content: object, *, finish: str = "stop", indent: int | None = None) -> Reply:
    """An answer that is not streamed."""
    message = {"role": "assistant", "content": content, "reasoning_content": "hm"}
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    choices = [{"index": 0, "message": message, "finish_reason": finish}]
    return Reply(body=json.dumps({"object": "chat.completion", "choices": choices, "usage": usage}, indent=indent))


def ask(url: str, **more: float) -> Answer:
    return client_of(url, **more).chat(QUESTION, lambda: None)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    return file


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080"),
        ("HTTPS_PROXY", "ftp://proxy.example"),
        ("https_proxy", "http://[::1"),
        ("SSL_CERT_FILE", "/nowhere/own.pem"),
        ("SSL_CERT_FILE", "/dev/null"),
    ],
)
@pytest.mark.parametrize("verb", ["check_available", "chat"])
def test_a_proxy_or_certificates_that_cannot_be_used_are_an_endpoint_that_is_away(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, verb: str
) -> None:
    monkeypatch.setenv(name, value)
    authorities.cache_clear()
    client = client_of("https://llm.example/v1")

    with pytest.raises(LlmUnavailable, match=name.upper()):
        client.check_available() if verb == "check_available" else client.chat(QUESTION, lambda: None)

    authorities.cache_clear()


@pytest.mark.parametrize("number", [0, 1])
def test_recorded_stream_is_one_answer(number: int) -> None:
    recorded = exchanges("v1-chat-stream")[number]
    with ollama_replay([recorded]) as server:
        answer = ask(f"{server.url}/v1")

    assert answer.text.startswith("The primary")
    assert answer.done_reason == "length"
    assert (answer.prompt_tokens is None) == ('"usage"' not in recorded["response"]["body"])
    assert (answer.answer_tokens is None) == ('"usage"' not in recorded["response"]["body"])


@pytest.mark.parametrize(("number", "error", "says"), [
    (0, ModelMissing, "does not have the model m: model 'nope' not found"),
    (1, LlmServerFault, "refused the question .400.: unexpected EOF"),
])  # fmt: skip
def test_recorded_errors_are_typed(number: int, error: type[Exception], says: str) -> None:
    with ollama_replay([exchanges("v1-errors")[number]] * 2) as server, pytest.raises(error, match=says):
        ask(f"{server.url}/v1")


def test_recorded_list_of_models_says_that_somebody_is_there() -> None:
    with ollama_replay(exchanges("v1-models")[:1]) as server:
        client_of(f"{server.url}/v1").check_available()


def test_answer_has_its_thoughts_beside_it_and_the_servers_counts() -> None:
    with openai_double(spoken("TITLE: a\nSET", thoughts="let me think")) as server:
        answer = ask(server.url)

    assert (answer.text, answer.thoughts) == ("TITLE: a\nSET", "letmethink")
    assert (answer.prompt_tokens, answer.answer_tokens) == (100, 10)


def test_answer_without_usage_has_no_counts_and_one_cut_at_its_length_says_so() -> None:
    with openai_double(spoken("half", finish="length", usage=None)) as server:
        answer = ask(server.url)

    assert (answer.done_reason, answer.prompt_tokens, answer.answer_tokens) == ("length", None, None)


def test_content_in_parts_is_read_with_its_thoughts_apart() -> None:
    pieces = [
        chunk({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "or "}]}]}),
        chunk({"content": [{"type": "thinking", "thinking": "rather"}]}),
        chunk({"content": [{"type": "text", "text": "TITLE: "}, {"type": "output_text", "text": "a"}]}),
        chunk({"content": "\nSET", "reasoning": None}),
        chunk({"content": None}, "stop"),
        DONE,
    ]
    with openai_double(Reply(pieces=pieces)) as server:
        answer = ask(server.url)

    assert (answer.text, answer.thoughts) == ("TITLE: a\nSET", "or rather")


@pytest.mark.parametrize(
    "part",
    [
        {"type": "thought", "text": "or"},
        {"type": "reasoning.text", "text": "or"},
        {"type": "text", "text": "or", "thought": True},
        {"thinking": "or"},
        {"reasoning": [{"text": "or"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "or"}]},
    ],
)
@pytest.mark.parametrize("is_list", [True, False])
def test_a_part_of_reasoning_is_known_by_its_type_its_flag_or_its_field(part: object, is_list: bool) -> None:
    pieces = [chunk({"content": [part] if is_list else part}), chunk({"content": {"type": "text", "text": "TITLE: a"}})]
    with openai_double(Reply(pieces=[*pieces, chunk({}, "stop"), DONE])) as server:
        answer = ask(server.url)

    assert (answer.text, answer.thoughts) == ("TITLE: a", "or")


def in_other_shapes() -> dict[str, Reply]:
    """The same answer as servers and gateways send it that do not stream as the protocol says."""
    whole = {"message": {"content": "TITLE: a\nSET"}}
    lines = [{"choices": [{"delta": {"content": text}}]} for text in ("TITLE: a", "\nSET")]
    return {
        "without a reason": Reply(body=json.dumps({"choices": [whole]})),
        "in one event": Reply(pieces=[b"data: " + json.dumps({"choices": [whole]}).encode() + b"\n\n"]),
        "as lines of JSON": Reply(body="\n".join(map(json.dumps, [*lines, {"choices": [{"finish_reason": "stop"}]}]))),
        "in the older form": Reply(body='{"choices": [{"text": "TITLE: a\\nSET", "finish_reason": "stop"}]}'),
        "after a byte order mark": Reply(body="\ufeff" + json.dumps({"choices": [whole]})),
        "after an empty piece": Reply(
            pieces=[chunk({}), b"data: " + json.dumps({"choices": [whole]}).encode() + b"\n"]
        ),
    }


@pytest.mark.parametrize("shape", in_other_shapes())
def test_an_answer_is_read_in_the_shapes_of_other_servers(shape: str) -> None:
    with openai_double(in_other_shapes()[shape]) as server:
        answer = ask(server.url)

    assert (answer.text, answer.done_reason) == ("TITLE: a\nSET", "stop")


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("content", ["TITLE: a\nSET", [{"type": "text", "text": "TITLE: a\nSET"}]])
def test_endpoint_that_does_not_stream_gives_the_whole_answer_at_once(content: object, indent: int | None) -> None:
    with openai_double(whole_reply(content, indent=indent)) as server:
        answer = ask(server.url)

    assert (answer.text, answer.thoughts, answer.done_reason) == ("TITLE: a\nSET", "hm", "stop")
    assert (answer.prompt_tokens, answer.answer_tokens) == (100, 10)


@pytest.mark.parametrize(
    ("finish", "reason"), [("eos", "stop"), ("STOP", "stop"), ("completed", "stop"), ("MAX_TOKENS", "length")]
)
def test_reason_for_the_end_is_read_in_other_servers_words(finish: str, reason: str) -> None:
    with openai_double(spoken("TITLE: a", finish=finish)) as server:
        assert ask(server.url).done_reason == reason


@pytest.mark.parametrize(("longest", "reason"), [(11, "stop"), (10, "length")])
def test_stream_that_is_done_without_a_reason_is_whole_unless_it_has_all_its_tokens(longest: int, reason: str) -> None:
    usage = {"prompt_tokens": 100, "completion_tokens": 10}
    with openai_double(Reply(pieces=[chunk({"content": "TITLE: a"}), chunk(usage=usage), DONE])) as server:
        answer = client_of(server.url).chat(QUESTION, lambda: None, answer_tokens=longest)

    assert (answer.text, answer.done_reason) == ("TITLE: a", reason)


def test_schema_and_a_longer_answer_are_asked_for_in_the_protocols_words() -> None:
    with openai_double(spoken("{}")) as server:
        client_of(server.url).chat(QUESTION, lambda: None, answer_tokens=77, schema={"type": "object"})

    (asked,) = server.questions
    assert asked["max_tokens"] == 77
    assert asked["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert asked["stream_options"] == {"include_usage": True}


def test_another_sampling_is_asked_for_and_a_seed_that_the_endpoint_refuses_is_left_out() -> None:
    replies = spoken("first"), refused(422, "body.seed: extra fields not permitted"), spoken("second")
    with openai_double(*replies) as server:
        client = client_of(server.url)
        for sampling in (Sampling(7), Sampling(8, 0.2)):
            client.chat(QUESTION, lambda: None, sampling=sampling)

    sent = [(asked["temperature"], asked.get("seed")) for asked in server.questions]
    assert sent == [(0.7, 7), (pytest.approx(0.9), 8), (pytest.approx(0.9), None)]


def test_what_an_endpoint_refuses_of_the_form_is_left_out_from_then_on() -> None:
    replies = (
        refused(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        refused(400, "Unsupported value: 'temperature' does not support 0.7 with this model."),
        spoken("first"),
        spoken("second"),
    )
    with openai_double(*replies) as server:
        client = client_of(server.url)
        assert [client.chat(QUESTION, lambda: None).text for _ in range(2)] == ["first", "second"]

    sent = [{"max_tokens", "max_completion_tokens", "temperature"} & asked.keys() for asked in server.questions]
    assert sent == [{"max_tokens", "temperature"}, {"max_completion_tokens", "temperature"}] + 2 * [
        {"max_completion_tokens"}
    ]


@pytest.mark.parametrize(
    ("reply", "error", "says"),
    [
        (
            refused(401, "Incorrect API key provided"),
            LlmUnavailable,
            "refuses the key .401; no key was given.: Incorrect",
        ),
        (refused(403, "no"), LlmUnavailable, "refuses the key"),
        (refused(402, "Insufficient credits"), LlmUnavailable, "no credit left"),
        (refused(429, "You exceeded your current quota", "insufficient_quota"), LlmUnavailable, "no credit left"),
        (refused(404, "The model `m` does not exist", "model_not_found"), ModelMissing, "does not have the model m"),
        (refused(404, "Not Found"), LlmUnavailable, "no /chat/completions .Not Found.; an address often ends in /v1"),
        (refused(400, "This model's maximum context length is 8 tokens; lower max_tokens"), PromptTooLong, "too long"),
        (refused(413, "too large"), PromptTooLong, "too long .413."),
        (refused(400, "messages: wrong"), LlmServerFault, "refused the question .400.: messages: wrong"),
        (refused(500, "oops"), LlmUnavailable, "answers 500: oops"),
        (Reply(503), LlmUnavailable, "answers 503: without a word"),
        (Reply(502, body="<html>Bad gateway</html>"), LlmUnavailable, "answers 502: <html>Bad gateway"),
        (
            Reply(pieces=[chunk({"content": "half"})]),
            LlmServerFault,
            "ended the stream without a reason, after 1 lines",
        ),
        (spoken("half", finish="error"), LlmServerFault, "broke off with the reason 'error'"),
        (
            spoken("half", finish="insufficient_system_resource"),
            LlmServerFault,
            "reason 'insufficient_system_resource'",
        ),
        (spoken("half", finish="abort"), LlmServerFault, "broke off with the reason 'abort'"),
        (spoken("half", finish="SAFETY"), LlmServerFault, "held the answer back: SAFETY"),
        (spoken("", finish="content_filter"), LlmServerFault, "held the answer back: content_filter"),
        (
            Reply(pieces=[b'data: {"error": {"message": "overloaded"}}\n\n']),
            LlmServerFault,
            "broke off with: overloaded",
        ),
        (Reply(body='{"error": {"message": "no worker"}}'), LlmServerFault, "broke off with: no worker"),
        (
            Reply(pieces=[b'data: {"object": "error", "message": "no room", "code": 400}\n\n', DONE]),
            LlmServerFault,
            "broke off with: no room",
        ),
        (
            Reply(pieces=[chunk({"content": "half"}), b'error: {"code": 500, "message": "no slot"}\n\n']),
            LlmServerFault,
            "broke off with: no slot",
        ),
        (
            Reply(body=json.dumps({"choices": [{"error": {"code": 502, "message": "upstream"}, "message": {}}]})),
            LlmServerFault,
            "broke off with: upstream",
        ),
        (
            Reply(pieces=[b'event: error\ndata: {"error": {"message": "loaded with context length of 4096"}}\n\n']),
            PromptTooLong,
            "broke off with: loaded with context length",
        ),
        (
            Reply(pieces=[chunk({"content": "half"}), b'data: {"type": "error", "message": "overloaded"}\n\n', DONE]),
            LlmServerFault,
            "broke off with: overloaded",
        ),
        (whole_reply("half", finish="error"), LlmServerFault, "broke off with the reason 'error'"),
        (Reply(body='{\n "choices": [\n'), LlmServerFault, "is not JSON"),
        (Reply(body="<html>log in</html>"), LlmServerFault, "is not JSON: b'<html>log in"),
        (Reply(pieces=[b"data: {nonsense\n\n"]), LlmServerFault, "line 1 of the answer is not JSON"),
        (Reply(pieces=[b"data: [1]\n\n"]), LlmServerFault, "line 1 of the answer is not an object"),
        (Reply(hangs=True), LlmTimeout, "took the question and sent nothing for 0 s"),
        (Reply(pieces=[chunk({"content": "a"})], hangs=True), LlmServerFault, "stopped in the middle: silent for 0 s"),
    ],
)
def test_every_fault_is_typed_and_says_what_is_wrong(reply: Reply, error: type[Exception], says: str) -> None:
    first_s = 0.3 if reply.hangs and not reply.pieces else 60.0
    with openai_double(reply) as server, pytest.raises(error, match=says) as raised:
        ask(server.url, first_s=first_s, stall_s=0.3 if reply.hangs else 60.0)

    assert type(raised.value) is error
    assert len(server.questions) == (2 if "refused the question (400)" in str(raised.value) else 1), "with the progress"


def test_nobody_there_is_away_and_so_is_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    with openai_double(spoken("a")) as server:
        url = server.url
        with pytest.raises(LlmUnavailable, match=r"key cannot be read \(FileNotFoundError\)"):
            client_of(url, key_file=tmp_path / "key").chat(QUESTION, lambda: None)
        assert server.questions == []
    with pytest.raises(LlmUnavailable, match="nothing usable answers"):
        client_of(url).check_available()
    with pytest.raises(LlmUnavailable, match="nothing usable answers"):
        ask(url)


def test_proxy_that_lets_nothing_through_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with openai_double(spoken("a")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url.removesuffix("/v1"))
        with pytest.raises(LlmUnavailable, match="nothing usable answers"):
            ask("https://llm.invalid/v1")


def test_key_is_sent_with_every_request_and_quoted_in_no_error(key_file: Path) -> None:
    with openai_double(refused(401, f"Incorrect API key provided: {KEY}.")) as server:
        client = client_of(server.url, key_file=key_file)
        client.check_available()
        with pytest.raises(LlmUnavailable) as raised:
            client.chat(QUESTION, lambda: None)

    assert server.keys == [f"Bearer {KEY}"] * 2
    assert KEY not in str(raised.value)
    assert f"{key_file}" in str(raised.value)


def test_key_is_read_anew_for_every_question(key_file: Path) -> None:
    with openai_double(spoken("a")) as server:
        client = client_of(server.url, key_file=key_file)
        client.chat(QUESTION, lambda: None)
        key_file.write_text("another")
        client.chat(QUESTION, lambda: None)

    assert server.keys == [f"Bearer {KEY}", "Bearer another"]


@pytest.mark.parametrize("text", ["", "\n", "two words", "one\ntwo", "schlüssel"])
def test_file_without_a_key_is_refused_without_being_quoted(tmp_path: Path, text: str) -> None:
    file = tmp_path / "key"
    file.write_text(text)

    with pytest.raises(ValueError, match=r"holds no key|cannot be read") as raised:
        read_key(file)
    assert not text.strip() or text not in str(raised.value)


@pytest.mark.parametrize(
    ("after", "rest_s"),
    [("7", 7.0), ("999999", LONGEST_REST_S), ("Thu, 01 Jan 1970 00:00:30 GMT", 30.0), ("soon", 0.0), ("", 0.0)],
)
def test_server_that_wants_to_be_left_alone_is(after: str, rest_s: float) -> None:
    now = 0.0
    with openai_double(refused(429, "slow down", **{"Retry-After": after}), spoken("there")) as server:
        client = client_of(server.url, clock=lambda: now)
        with pytest.raises(LlmUnavailable, match="answers 429: slow down"):
            client.chat(QUESTION, lambda: None)
        for asked in (client.check_available, lambda: client.chat(QUESTION, lambda: None)):
            if rest_s:
                now = rest_s - 0.1
                with pytest.raises(LlmUnavailable, match="asked to be left alone"):
                    asked()
        now = rest_s
        client.check_available()
        assert client.chat(QUESTION, lambda: None).text == "there"


def test_endpoint_that_lists_no_models_is_there_all_the_same() -> None:
    with openai_double(spoken("a")) as server:
        server.models = refused(404, "no such page")
        client_of(server.url).check_available()
        server.models = refused(401, "no")
        with pytest.raises(LlmUnavailable, match="refuses the key"):
            client_of(server.url).check_available()


def test_server_that_answers_200_at_an_address_that_it_does_not_serve_is_away() -> None:
    with openai_double(spoken("a")) as server:
        server.elsewhere = server.models = Reply(body='{"error": "Unexpected endpoint or method. (GET /models)"}')
        with pytest.raises(LlmUnavailable, match=r"Unexpected endpoint .*; an address often ends in /v1"):
            client_of(server.url.removesuffix("/v1")).check_available()
        client_of(server.url).check_available()


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_no_bytes_of_a_stream_raise_anything_else(pieces: list[bytes]) -> None:
    with openai_double(Reply(pieces=[b": \n", *pieces])) as server:
        try:
            ask(server.url)
        except (LlmUnavailable, LlmServerFault):
            return


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://one/v1/", "https://one/v1"),
        ("'https://one/v1'", "https://one/v1"),
        ('" https://one/v1/ "', "https://one/v1"),
        (" http://127.0.0.1:8080 ", "http://127.0.0.1:8080"),
        ("https://one/v1/chat/completions", "https://one/v1"),
    ],
)
def test_address_is_what_stands_before_the_question(text: str, url: str) -> None:
    assert checked_url(text) == url


@pytest.mark.parametrize(
    "text", ["", "one/v1", "ftp://one", "https://", "https://k@one", "https://one?k=1", "http://[x"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="address"):
        checked_url(text)


def test_price_is_of_a_million_tokens_and_unknown_without_counts() -> None:
    assert TokenPrice(2.0, 10.0)(1_000_000, 500_000) == 7.0
    assert TokenPrice(2.0, 10.0)(None, 5) is None


def test_double_writes_chunks_as_the_recording_has_them() -> None:
    recorded = exchanges("v1-chat-stream")[1]["response"]["body"].split("\n\n")
    ours = b"".join(spoken("a").pieces).decode().split("\n\n")

    def keys(event: str) -> set[str]:
        return set(json.loads(event.removeprefix("data: ")))

    assert keys(ours[2]) == keys(recorded[0]) - {"system_fingerprint"}
    assert "[DONE]" in recorded[-2]
    assert ours[-2] == recorded[-2]


@pytest.mark.parametrize(
    ("started_s", "lines", "speaks_s", "fault"),
    [
        (119, 4, None, None),  # pings alone: it reads the prompt
        (121, 4, None, "still reading the question after 120 s; raise LLM_DEADLINE_S"),
        (300, 9, 19, None),
        (300, 9, 21, "20 s after its first word .9 lines came.; raise LLM_DEADLINE_S, or lower NUM_PREDICT"),
        (9, 0, None, None),
        (11, 0, None, "sent nothing for 10 s; raise LLM_DEADLINE_S"),
    ],
)
def test_signs_of_life_extend_the_deadline_until_the_first_word(
    started_s: float, lines: int, speaks_s: float | None, fault: str | None
) -> None:
    limits = LlmOptions(deadline_s=20)
    now = time.monotonic()
    stream = Stream("u", "m", started=now - started_s, heard=now, lines=lines)
    stream.speaks_since = None if speaks_s is None else now - speaks_s
    deadlines = Deadlines(first_s=limits.first_s, deadline_s=limits.deadline_s)

    if fault is None:
        stream.keep(deadlines)
    else:
        with pytest.raises((LlmServerFault, LlmTimeout), match=fault):
            stream.keep(deadlines)


@pytest.mark.parametrize(
    ("delta", "fault"),
    [({"role": "assistant", "content": ""}, "still reading"), ({"reasoning_content": "hm"}, "after its first word")],
)
def test_pings_and_an_empty_piece_are_no_word_and_a_thought_is_one(delta: dict[str, str], fault: str) -> None:
    reply = Reply(pieces=[b": ping\n\n", chunk(delta)], hangs=True)
    with openai_double(reply) as server, pytest.raises(LlmServerFault, match=fault):
        ask(server.url, deadline_s=0.1)


@pytest.mark.parametrize(("wanted", "context", "longest"), [(None, 16384, 4096), (None, 8192, 2048), (999, 8192, 999)])
def test_an_answer_has_a_part_of_the_models_context(wanted: int | None, context: int, longest: int) -> None:
    options = LlmOptions(model="m", url="http://127.0.0.1/v1", num_ctx=context, num_predict=wanted)
    here = replace(options.placement, num_ctx=context)

    assert openai_client(options).answer_tokens == longest
    assert ollama_client(replace(options, placement=here)).answer_tokens == longest


def test_a_server_that_tells_how_much_it_has_read_is_asked_to_and_shown() -> None:
    pieces = [
        chunk({"role": "assistant", "content": None}, prompt_progress={"total": 7015, "cache": 0, "processed": 4096}),
        chunk({"content": "Red."}, "stop"),
        DONE,
    ]
    with openai_double(Reply(pieces=pieces[:1], hangs=True)) as server:
        client = client_of(server.url, deadline_s=0.1)
        with pytest.raises(LlmServerFault):
            client.chat(QUESTION, lambda: None)

    assert server.questions[0]["return_progress"] is True
    assert re.fullmatch(r"reading the question for \d+ s, 4096 of 7015 tokens", client.progress())
    with openai_double(Reply(pieces=pieces)) as server:
        assert ask(server.url).text == "Red."


@pytest.mark.parametrize("message", ["Unrecognized request argument supplied: return_progress", "Bad request"])
def test_a_server_that_does_not_know_the_wish_for_progress_is_asked_without(message: str) -> None:
    with openai_double(refused(400, message), spoken("Red.")) as server:
        client = client_of(server.url)
        texts = [client.chat(QUESTION, lambda: None).text for _ in range(2)]

    assert texts == ["Red."] * 2
    assert ["return_progress" in question for question in server.questions] == [True, False, False]
