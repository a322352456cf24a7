"""Ollama's native API: is the server there with the model, and one streamed answer with deadlines of our own.

Every call sends the same explicit context and `truncate: false, shift: false`, so a prompt that does not fit is an
error instead of a silently shortened prompt. `think: false` is safe: models without thinking accept it.
ModelAway means ask again later; ModelFault means that this question got no answer. Nothing is retried here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import urlsplit

import httpx

from researcher.chat import Answer, Message
from researcher.errors import ModelAway, ModelFault

TICK_S = 0.25
LONGEST_ANSWER_BYTES = 8 * 2**20
DEFAULT_PORT = 11434


@dataclass(frozen=True)
class ServerFacts:
    """What answers at the address."""

    version: str
    model: str
    model_digest: str | None


@dataclass(frozen=True)
class OllamaSettings:
    """Where to ask and how long to wait.

    `first_s` bounds the silence before the first token (a cold load, reading the prompt), `stall_s` each later one,
    `deadline_s` the whole answer.
    """

    host: str
    model: str
    num_ctx: int = 16384
    num_predict: int = 4096
    temperature: float = 0.7
    keep_alive: str = "30m"
    connect_s: float = 5.0
    first_s: float = 300.0
    stall_s: float = 60.0
    deadline_s: float = 600.0

    @property
    def url(self) -> str:
        """The address in full. Raises ValueError for one that is none."""
        return base_url(self.host)


def base_url(host: str) -> str:
    """`OLLAMA_HOST` as people write it: `host`, `host:port`, `http://host:port`; an address to listen on is this
    machine."""
    text = host.strip() or "127.0.0.1"
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"http://{_bracketed(text)}")
        port = parts.port
        httpx.URL(parts.geturl())
    except (ValueError, httpx.InvalidURL) as error:
        raise ValueError(f"OLLAMA_HOST is {host!r}: {error}; write for example http://127.0.0.1:11434") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s,;]", parts.hostname):
        raise ValueError(f"OLLAMA_HOST is {host!r}, which names no server; write for example http://127.0.0.1:11434")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname, parts.hostname)
    standard = {"http": 80, "https": 443}[parts.scheme] if has_scheme else DEFAULT_PORT
    return f"{parts.scheme}://{_bracketed(name)}:{port or standard}{parts.path.rstrip('/')}"


def _bracketed(name: str) -> str:
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name


class OllamaClient:
    """Asks one model of one server. Raises ValueError at birth for an address that is none."""

    def __init__(self, settings: OllamaSettings) -> None:
        self.settings = settings
        self.url = settings.url
        self.model = settings.model
        self.context_tokens = settings.num_ctx
        self.answer_tokens = settings.num_predict

    def look(self) -> ServerFacts:
        """Raises ModelAway, with the next step, unless the server answers and has the model."""
        limits = httpx.Timeout(self.settings.connect_s)
        try:
            with httpx.Client(base_url=self.url, timeout=limits, trust_env=False) as client:
                version = _json_of(client.get("/api/version"), self)["version"]
                models = _json_of(client.get("/api/tags"), self)["models"]
                found = next((model for model in models if _same_model(model["name"], self.model)), None)
        except httpx.HTTPError as error:
            raise self._away(error) from error
        except (KeyError, TypeError) as error:
            raise ModelAway(f"{self.url} answers, but not like Ollama ({error!r}); is the address right?") from error
        if found is None:
            raise self._missing()
        return ServerFacts(str(version), str(found["name"]), found.get("digest"))

    def chat(self, messages: Sequence[Message], tick: Callable[[], None]) -> Answer:
        """One answer, streamed; `tick` is called every quarter of a second meanwhile, and may raise to give up."""
        return asyncio.run(self._watch(messages, tick))

    async def _watch(self, messages: Sequence[Message], tick: Callable[[], None]) -> Answer:
        stream = _Stream(time.monotonic())
        reading = asyncio.create_task(self._read(messages, stream))
        try:
            while not (await asyncio.wait({reading}, timeout=TICK_S))[0]:
                self._keep_deadlines(stream)
                tick()
            return await reading
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, ModelAway, ModelFault):
                await reading

    def _keep_deadlines(self, stream: _Stream) -> None:
        now = time.monotonic()
        if now - stream.started > self.settings.deadline_s:
            raise ModelFault(
                f"{self.model} had not finished after {self.settings.deadline_s:.0f} s "
                f"({stream.lines} lines came); allow more time or a shorter answer"
            )
        if stream.lines == 0 and now - stream.started > self.settings.first_s:
            raise ModelAway(f"{self.url} took the question and sent nothing for {self.settings.first_s:.0f} s")
        if stream.lines and now - stream.heard > self.settings.stall_s:
            raise ModelFault(f"{self.model} stopped in the middle: silent for {self.settings.stall_s:.0f} s")

    async def _read(self, messages: Sequence[Message], stream: _Stream) -> Answer:
        limits = httpx.Timeout(None, connect=self.settings.connect_s, write=self.settings.connect_s)
        try:
            async with (
                httpx.AsyncClient(base_url=self.url, timeout=limits, trust_env=False) as client,
                client.stream("POST", "/api/chat", json=self._question(messages)) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    await response.aread()
                    self._refuse(response)
                async for line in _lines(response):
                    if stream.take(line):
                        return stream.answer()
        except httpx.HTTPError as error:
            if stream.lines:
                raise ModelFault(f"{self.url} broke off in the middle of an answer: {error or repr(error)}") from error
            raise self._away(error) from error
        raise ModelFault(f"{self.url} ended the stream without saying `done`, after {stream.lines} lines")

    def _question(self, messages: Sequence[Message]) -> dict[str, Any]:
        settings = self.settings
        return {
            "model": settings.model,
            "messages": [{"role": message.role, "content": _unicode(message.content)} for message in messages],
            "stream": True,
            "think": False,
            "truncate": False,
            "shift": False,
            "keep_alive": settings.keep_alive,
            "options": {
                "num_ctx": settings.num_ctx,
                "num_predict": settings.num_predict,
                "temperature": settings.temperature,
            },
        }

    def _refuse(self, response: httpx.Response) -> NoReturn:
        """Raise what a status other than 200 means."""
        said = _error_text(response)
        if response.status_code == httpx.codes.NOT_FOUND and "not found" in said and "page" not in said:
            raise self._missing()
        if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.INTERNAL_SERVER_ERROR):
            raise ModelFault(f"{self.url} refused the question ({response.status_code}): {said}")
        raise ModelAway(f"{self.url} answers {response.status_code}: {said or 'without a word'}")

    def _missing(self) -> ModelAway:
        return ModelAway(f"{self.url} does not have the model {self.model}; run: ollama pull {self.model}")

    def _away(self, error: httpx.HTTPError) -> ModelAway:
        what = str(error) or type(error).__name__
        return ModelAway(f"nothing usable answers at {self.url} ({what}); is Ollama running there?")


@dataclass
class _Stream:
    """What has come of an answer so far."""

    started: float
    heard: float = 0.0
    lines: int = 0
    size: int = 0
    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)

    def take(self, line: bytes) -> bool:
        """True for the last line of a complete answer."""
        self.heard = time.monotonic()
        self.lines += 1
        self.size += len(line)
        if self.size > LONGEST_ANSWER_BYTES:
            raise ModelFault(f"the answer is longer than {LONGEST_ANSWER_BYTES} bytes")
        try:
            parsed = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ModelFault(f"line {self.lines} of the answer is not JSON: {line[:200]!r}") from error
        if not isinstance(parsed, dict):
            raise ModelFault(f"line {self.lines} of the answer is not an object: {line[:200]!r}")
        if "error" in parsed:
            raise ModelFault(f"the server broke off with: {str(parsed['error'])[:500]}")
        message = parsed.get("message")
        if isinstance(message, dict):
            self.text.append(str(message.get("content") or ""))
            self.thoughts.append(str(message.get("thinking") or ""))
        self.last = parsed
        return parsed.get("done") is True

    def answer(self) -> Answer:
        """The answer after its last line."""
        return Answer(
            text=_unicode("".join(self.text)),
            thoughts=_unicode("".join(self.thoughts)),
            done_reason="length" if self.last.get("done_reason") == "length" else "stop",
            prompt_tokens=_count(self.last.get("prompt_eval_count")),
            answer_tokens=_count(self.last.get("eval_count")),
            seconds=time.monotonic() - self.started,
        )


async def _lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Lines ended by LF only: httpx would also split at characters that may stand inside a JSON string."""
    rest = b""
    async for chunk in response.aiter_bytes():
        *complete, rest = (rest + chunk).split(b"\n")
        if len(rest) > LONGEST_ANSWER_BYTES:
            raise ModelFault(f"the answer holds a line longer than {LONGEST_ANSWER_BYTES} bytes")
        for line in complete:
            if line.strip():
                yield line
    if rest.strip():
        yield rest


def _json_of(response: httpx.Response, client: OllamaClient) -> Any:
    if response.status_code != httpx.codes.OK:
        raise ModelAway(f"{client.url} answers {response.status_code}: {_error_text(response) or 'without a word'}")
    try:
        return response.json()
    except ValueError as error:
        raise ModelAway(f"{client.url} answers, but not like Ollama; is the address right?") from error


def _error_text(response: httpx.Response) -> str:
    try:
        said = response.json()
    except ValueError:
        return response.text.strip()[:500]  # not Ollama's own error: a proxy's page, a router's plain text
    return str(said.get("error", said) if isinstance(said, dict) else said)[:500]


def _same_model(found: str, wanted: str) -> bool:
    """Ollama's own reading: case does not count, no tag means `latest`, and so does the default namespace."""
    return _full_name(found) == _full_name(wanted)


def _full_name(name: str) -> str:
    name = name.strip().lower().removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"


def _unicode(text: str) -> str:
    """Without half a surrogate pair, which JSON can carry and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
