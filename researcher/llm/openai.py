"""The client of an OpenAI-compatible endpoint: it checks availability and reads one streamed answer.

LlmUnavailable means that the question may be asked again later and nothing was billed. LlmServerFault means that this
question has no answer. Endpoints accept different request fields, so a field that the endpoint refuses is omitted from
then on. The key is read from its file for each question and never appears in an error. If the server asks for a pause,
the client asks nothing for that time, at most `LONGEST_REST_S`.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from researcher.errors import BadValue, LlmServerFault, LlmUnavailable, ModelMissing, PromptTooLong
from researcher.llm.client import Answer, LlmOptions, Message, Sampling
from researcher.llm.stream import (
    TOO_LONG,
    Deadlines,
    Stream,
    connection_fault,
    error_message,
    error_text,
    retry_after_s,
    tls_context,
    unicode,
    unquoted,
    usable,
    watched,
    whole_lines,
)

LOOK_S = 2.0
LONGEST_REST_S = 600.0
_OPTIONAL = ("max_tokens", "temperature", "seed", "stream_options", "response_format", "return_progress")
_NO_CREDIT = re.compile(r"insufficient_quota|exceeded your current quota|credit balance|billing", re.IGNORECASE)
# Reasons for the end of an answer: the protocol's, and those that other servers and gateways pass on.
_COMPLETE = ("stop", "stop_sequence", "eos", "eos_token", "end_turn", "end_of_turn", "completed", "finish_reason_stop")
_CUT = ("length", "max_tokens", "max_new_tokens", "model_length", "model_context_window_exceeded")
_WITHHELD = ("content_filter", "refusal", "safety", "sensitive", "recitation", "prohibited_content", "blocklist")
_OF_THOUGHTS = re.compile("think|thought|reason|analysis")
_OF_THE_QUESTION = (
    httpx.codes.BAD_REQUEST,
    httpx.codes.REQUEST_ENTITY_TOO_LARGE,
    httpx.codes.UNPROCESSABLE_ENTITY,
)
_NO_KEEPALIVE = httpx.Limits(max_keepalive_connections=0)  # the server may close an idle connection
_EXAMPLE = "write for example https://llm.example/v1"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class OpenAiSettings(Deadlines):
    """`base_url` is the part before /chat/completions. `key_file` is None for a server without a key."""

    base_url: str
    model: str
    key_file: Path | None = None
    num_ctx: int = 32768
    num_predict: int = 4096
    temperature: float = 0.7


def checked_url(text: str) -> str:
    """Return a base URL without its last slash. Raises BadValue for any other text."""
    url = unquoted(text).rstrip("/").removesuffix("/chat/completions")
    try:
        parts = urlsplit(url)
        httpx.URL(url)
    except (ValueError, httpx.InvalidURL) as error:
        raise BadValue(f"no address of an endpoint ({error})", _EXAMPLE) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise BadValue("no address of an endpoint", _EXAMPLE)
    if parts.username or parts.password:
        raise BadValue("a key does not belong into the address", "put it into a file of its own")
    return url


def read_key(file: Path) -> str:
    """Return the key in a file. Raises BadValue if there is none; the message does not contain the file's text."""
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadValue(f"{file} cannot be read ({type(error).__name__})", "name a file of text that can") from error
    if not key or not key.isprintable() or " " in key:
        raise BadValue(f"{file} holds no key", "one line is wanted, the key alone")
    return key


def openai_client(options: LlmOptions) -> OpenAiClient:
    """Build the client of the endpoint in the settings. Raises BadValue for an invalid address."""
    num_ctx = options.num_ctx or OpenAiSettings.num_ctx
    return OpenAiClient(
        OpenAiSettings(
            options.url or "",
            options.model or "",
            options.key_file,
            num_ctx,
            options.answer_tokens(num_ctx),
            first_s=options.first_s,
            deadline_s=options.deadline_s,
        )
    )


class OpenAiClient:
    """Asks one model of one endpoint. The constructor raises BadValue, a ValueError, for an invalid address."""

    def __init__(self, settings: OpenAiSettings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.url = checked_url(settings.base_url)
        self.model = settings.model
        self.context_tokens = settings.num_ctx
        self.answer_tokens = settings.num_predict
        self._clock = clock
        self._resting_until = 0.0
        self._stream = _Stream(self.url, self.model)
        # llama.cpp tells how much it has read. Its address is seldom https, and a paid endpoint's always is.
        self._refused = set() if self.url.startswith("http://") else {"return_progress"}
        self._trust_env = urlsplit(self.url).hostname not in _LOOPBACK  # no proxy for this machine's own address

    def progress(self) -> str:
        """Describe the progress of the answer in words for users."""
        return self._stream.progress()

    def check_available(self) -> None:
        """Check the endpoint. Raises LlmUnavailable if it is unreachable, refuses the key, or has asked for a pause.

        A missing model is noticed only by a question, because not every endpoint lists its models.
        """
        self._rest()
        try:
            with usable(self._polling_client, self.url) as client:
                seen = client.get(f"{self.url}/models", headers=self._headers())
        except httpx.HTTPError as error:
            raise self._away(error) from error
        if seen.status_code not in (httpx.codes.OK, httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED):
            raise self._refusal(seen)
        # LM Studio answers 200 at an address that it does not serve. Some versions do so for /v1/models, too.
        if (error_found := _error_in(seen)) is not None and not self.url.endswith("/v1"):
            raise LlmUnavailable(f"{self.url} answers: {self._plain(error_found)}; an address often ends in /v1")

    def chat(
        self,
        messages: Sequence[Message],
        tick: Callable[[], None],
        *,
        answer_tokens: int | None = None,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
    ) -> Answer:
        """Return one streamed answer. `tick` is called every quarter of a second meanwhile, and may raise to cancel."""
        self._rest()
        longest = answer_tokens or self.answer_tokens
        stream = self._stream = _Stream(self.url, self.model, longest=longest)
        question = self._question(messages, longest, schema, sampling)
        return asyncio.run(watched(self._ask(question, stream), stream, self.settings, tick))

    def _rest(self) -> None:
        if (left_s := self._resting_until - self._clock()) > 0:
            raise LlmUnavailable(f"{self.url} asked to be left alone for another {left_s:.0f} s")

    async def _ask(self, question: dict[str, Any], stream: _Stream) -> Answer:
        try:
            async with usable(self._asking_client, self.url) as client:
                while True:
                    form = self._in_form(question)
                    async with client.stream(
                        "POST", f"{self.url}/chat/completions", json=form, headers=self._headers()
                    ) as response:
                        if response.status_code == httpx.codes.OK:
                            return await self._read(response, stream)
                        await response.aread()
                    if not self._learns_from(response, form):
                        raise self._refusal(response)
        except httpx.HTTPError as error:
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.ProxyError):
                raise self._away(error) from error
            raise LlmServerFault(f"{self.url} broke off: {self._plain(str(error)) or repr(error)}") from error

    async def _read(self, response: httpx.Response, stream: _Stream) -> Answer:
        async for event in _events(response, stream):
            if event == b"[DONE]":
                stream.is_done = True
                break
            stream.take(event)
        return stream.answer()

    def _question(
        self,
        messages: Sequence[Message],
        answer_tokens: int,
        schema: Mapping[str, Any] | None,
        sampling: Sampling | None,
    ) -> dict[str, Any]:
        question: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": unicode(message.content)} for message in messages],
            "temperature": self.settings.temperature,
            "max_tokens": answer_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_progress": True,
        }
        if sampling is not None:
            question |= {"temperature": self.settings.temperature + sampling.warmer, "seed": sampling.seed}
        if schema is not None:
            form = {"name": "answer", "schema": schema}
            question["response_format"] = {"type": "json_schema", "json_schema": form}
        return question

    def _in_form(self, question: dict[str, Any]) -> dict[str, Any]:
        """Return the question without refused fields. `max_tokens` is not dropped but renamed to its newer name."""
        form = {name: value for name, value in question.items() if name not in self._refused}
        if "max_tokens" in self._refused:
            form["max_completion_tokens"] = question["max_tokens"]
        return form

    def _learns_from(self, response: httpx.Response, form: dict[str, Any]) -> bool:
        """Return True if the endpoint refused a field that can be omitted or renamed."""
        message = response.text
        if response.status_code not in _OF_THE_QUESTION or TOO_LONG.search(message):
            return False
        refused = next((name for name in _OPTIONAL if name in form and re.search(rf"\b{name}\b", message)), None)
        is_too_large = response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE
        if refused is None and "return_progress" in form and not is_too_large:
            refused = "return_progress"  # the only field that not every server knows, and it may not be named
        if refused is not None:
            self._refused.add(refused)
        return refused is not None

    def _refusal(self, response: httpx.Response) -> LlmUnavailable | LlmServerFault:
        """Return the error for a status other than 200."""
        status, message = response.status_code, self._plain(error_text(response)) or "without a word"
        if (rest_s := retry_after_s(response, self._clock())) is not None:
            self._resting_until = self._clock() + min(rest_s, LONGEST_REST_S)
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            place = self.settings.key_file or "no key was given"
            return LlmUnavailable(
                f"{self.url} refuses the key ({status}; {place}): {message}. Next: put a valid one there"
            )
        if status == httpx.codes.PAYMENT_REQUIRED or (status == 429 and _NO_CREDIT.search(response.text)):
            return LlmUnavailable(f"{self.url} has no credit left for this key ({status}): {message}")
        if status == httpx.codes.NOT_FOUND:
            if "model" in message.lower():
                return ModelMissing(f"{self.url} does not have the model {self.model}: {message}")
            return LlmUnavailable(f"{self.url} has no /chat/completions ({message}); an address often ends in /v1")
        if status in _OF_THE_QUESTION:
            too_long = status == httpx.codes.REQUEST_ENTITY_TOO_LARGE or TOO_LONG.search(response.text)
            kind, words = (PromptTooLong, " as too long") if too_long else (LlmServerFault, "")
            return kind(f"{self.url} refused the question{words} ({status}): {message}")
        return LlmUnavailable(f"{self.url} answers {status}: {message}")

    def _away(self, error: httpx.HTTPError) -> LlmUnavailable:
        return LlmUnavailable(f"nothing usable answers at {self.url} ({self._plain(connection_fault(error))})")

    def _headers(self) -> dict[str, str]:
        key = self._key()
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def _key(self) -> str | None:
        """Return the key, or None if no key file is set. Raises LlmUnavailable if the key cannot be read."""
        try:
            return None if self.settings.key_file is None else read_key(self.settings.key_file)
        except ValueError as error:
            raise LlmUnavailable(f"the key of {self.url}: {error}") from error

    def _plain(self, text: str) -> str:
        """Remove the key from a text, because servers quote a key that they refuse."""
        key = self._key()
        return text if key is None else text.replace(key, "***")

    def _polling_client(self) -> httpx.Client:
        return httpx.Client(timeout=LOOK_S, trust_env=self._trust_env, verify=tls_context(self.url))

    def _asking_client(self) -> httpx.AsyncClient:
        limits = httpx.Timeout(None, connect=self.settings.connect_s, write=self.settings.connect_s)
        return httpx.AsyncClient(
            timeout=limits, trust_env=self._trust_env, verify=tls_context(self.url), limits=_NO_KEEPALIVE
        )


@dataclass
class _Stream(Stream):
    """An answer in server-sent events, one chunk in each, or whole in one JSON object. `longest` is in tokens."""

    longest: int = 0
    finish: str | None = None
    is_done: bool = False
    usage: dict[str, Any] = field(default_factory=dict)

    def take(self, event: bytes) -> None:
        """Add one chunk. The chunk with the token counts has no choices."""
        parsed = self.parsed(event)
        if isinstance(usage := parsed.get("usage"), dict):
            self.usage = usage
        match parsed.get("prompt_progress"):
            case {"processed": int(read), "total": int(total)}:
                self.read = f", {read} of {total} tokens"
        choices = parsed.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        self.raise_error(choice)
        self.finish = choice.get("finish_reason") or self.finish
        delta = choice.get("delta")
        if not delta and not any(self.text):  # the whole answer, in an object or in the older form of the protocol
            delta = choice.get("message") or {"content": choice.get("text")}
            self.is_done = bool(choice.get("message"))
        if isinstance(delta, dict):
            text, thoughts = _text_and_thoughts(delta.get("content") or delta.get("refusal"))
            fields = (_plain_text(delta.get(name)) for name in ("reasoning_content", "reasoning", "thinking"))
            self.add(text, thoughts or next(filter(None, fields), ""))

    def answer(self) -> Answer:
        """Return the answer. Raises LlmServerFault if it is incomplete or withheld."""
        prompt_tokens, answer_tokens = self.usage.get("prompt_tokens"), self.usage.get("completion_tokens")
        if self.finish is None and not self.is_done:
            raise LlmServerFault(f"{self.url} ended the stream without a reason, after {self.lines} lines")
        reason = str(self.finish or ("length" if answer_tokens == self.longest else "stop")).lower()
        if reason in _WITHHELD:
            raise LlmServerFault(f"{self.url} held the answer back: {self.finish}")
        if reason not in _COMPLETE + _CUT:
            raise LlmServerFault(f"{self.url} broke off with the reason {str(self.finish)[:100]!r}")
        return self.whole("length" if reason in _CUT else "stop", prompt_tokens, answer_tokens)


def _text_and_thoughts(content: object) -> tuple[str, str]:
    """Return the text and the reasoning of a message's content: a text, or one or more parts with a type."""
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content if isinstance(content, list) else [content]:
        (thoughts if isinstance(part, dict) and _is_thought(part) else texts).append(_plain_text(part))
    return "".join(texts), "".join(thoughts)


def _is_thought(part: Mapping[str, Any]) -> bool:
    """Return True for a part of reasoning, by its type, by Google's flag, or by its only field."""
    named = _OF_THOUGHTS.search(str(part.get("type", "")))
    return bool(named or part.get("thought")) or ("text" not in part and any(map(_OF_THOUGHTS.search, part)))


def _plain_text(part: object) -> str:
    """Return the text in a part of a message, at whatever depth it is."""
    if isinstance(part, list):
        return "".join(map(_plain_text, part))
    if isinstance(part, dict):
        inner = (part.get(name) for name in ("text", "value", "thinking", "reasoning", "summary", "content"))
        return _plain_text(next(filter(None, inner), ""))
    return str(part or "")


async def _events(response: httpx.Response, stream: Stream) -> AsyncIterator[bytes]:
    """Yield the data of each event, or plain JSON: each line that is an object, or the whole body.

    Comments only show that the server is alive.
    """
    body: list[bytes] = []
    async for received in whole_lines(response):
        line = received.removeprefix(codecs.BOM_UTF8)
        stream.hear(line)
        name, _, data = line.strip().partition(b":")
        if not body and _is_object(line):
            yield line
        elif body or line.lstrip().startswith(b"{"):
            body.append(line)
        elif name in (b"data", b"error"):
            yield data.strip()
        elif name not in (b"", b"event", b"id", b"retry"):
            stream.parsed(line)  # raises for a proxy's page
            raise LlmServerFault(f"line {stream.lines} of the answer is no event: {line[:200]!r}")
    if body:
        yield b"\n".join(body)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _error_in(seen: httpx.Response) -> str | None:
    """Return the error in the body of an answer with status 200, or None."""
    try:
        body = seen.json() if seen.status_code == httpx.codes.OK else None
    except ValueError:
        return None
    return error_message(body) if isinstance(body, dict) and body.get("error") else None
