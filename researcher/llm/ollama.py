"""The client of Ollama's native API: it checks availability and reads one streamed answer with its own deadlines.

LlmUnavailable means that the question may be asked again later. LlmServerFault means that this question has no answer.
The client asks no question twice. Before each question it ensures that the model is loaded as requested, and before the
first it finds out whether the model can reason.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from researcher.errors import LlmServerFault, LlmUnavailable
from researcher.llm.client import Answer, LlmOptions, Message, Sampling, Think
from researcher.llm.ollama_api import (
    ModelCapabilities,
    OllamaSettings,
    base_url,
    error_for,
    json_of,
    missing,
    not_ollama,
    same_model,
    unreachable,
)
from researcher.llm.ollama_memory import Residence
from researcher.llm.stream import Stream, tls_context, unicode, watched, whole_lines

__all__ = ["OllamaClient", "OllamaSettings", "base_url"]

logger = logging.getLogger(__name__)

LOOK_S = 2.0


def ollama_client(options: LlmOptions) -> OllamaClient:
    """Build the client of the Ollama server in the settings. An invalid address raises BadValue."""
    placement = options.placement
    return OllamaClient(
        OllamaSettings(
            host=options.host,
            model=placement.model,
            num_ctx=placement.num_ctx,
            num_batch=placement.num_batch,
            num_predict=options.answer_tokens(placement.num_ctx),
            think=options.think,
            on_gpu=options.on_gpu,
            resident=placement.resident,
            reserve_mib=placement.reserve_mib,
            first_s=options.first_s,
            deadline_s=options.deadline_s,
        )
    )


class OllamaClient:
    """Asks one model of one server. The constructor raises BadValue, a ValueError, for an invalid address."""

    def __init__(self, settings: OllamaSettings) -> None:
        self.settings = settings
        self._residence = Residence(settings)
        self._known: ModelCapabilities | None = None
        self.url = settings.url
        self.model = settings.model
        self.context_tokens = settings.num_ctx
        self.answer_tokens = settings.num_predict
        self._stream = _Stream(self.url, self.model)

    @property
    def billions(self) -> float | None:
        """The billions of parameters, as the server said before the first question, or None."""
        return None if self._known is None else self._known.billions

    def progress(self) -> str:
        """Describe the progress of the answer in words for users."""
        return self._stream.progress()

    def check_available(self) -> None:
        """Check that Ollama answers and has the model. Raises LlmUnavailable with the next step otherwise."""
        try:
            with httpx.Client(
                base_url=self.url, timeout=LOOK_S, trust_env=False, verify=tls_context(self.url)
            ) as client:
                models = json_of(self.settings, client.get("/api/tags"))["models"]
                found = any(same_model(model["name"], self.model) for model in models)
        except httpx.HTTPError as error:
            raise unreachable(self.settings, error) from error
        except (KeyError, TypeError) as error:
            raise not_ollama(self.settings, error) from error
        if not found:
            raise missing(self.settings)

    def chat(
        self,
        messages: Sequence[Message],
        tick: Callable[[], None],
        *,
        answer_tokens: int | None = None,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
    ) -> Answer:
        """Load the model if necessary, and return one streamed answer.

        `tick` is called every quarter of a second meanwhile, and may raise to cancel. Raises ModelDoesNotFit if the
        model cannot be loaded as requested.
        """
        stream = self._stream = _Stream(self.url, self.model)
        question = self._question(messages, answer_tokens or self.answer_tokens, schema, sampling)
        return asyncio.run(watched(self._ask(question, stream), stream, self.settings, tick))

    def unload(self, tick: Callable[[], None]) -> None:
        """Unload a model that does not stay on the GPU during trials, and wait for it. Raises ModelNotUnloaded."""
        if not self.settings.resident:
            self.silence(tick)

    def silence(self, tick: Callable[[], None]) -> None:
        """End all answers of the server by unloading its models, and wait for it. Raises ModelNotUnloaded."""
        asyncio.run(watched(self._unload(), _Stream(self.url, self.model), self.settings, tick))

    def loaded_mib(self) -> int:
        """Return the GPU memory of the loaded models in MiB, as the server reports it. Raises LlmUnavailable."""
        return asyncio.run(self._loaded_bytes()) // 2**20

    async def _loaded_bytes(self) -> int:
        try:
            async with self._connection() as client, asyncio.timeout(LOOK_S):
                return sum(each.on_gpu for each in await self._residence.listed(client))
        except TimeoutError:
            raise LlmUnavailable(f"{self.url} did not list its models within {LOOK_S:g} s") from None
        except httpx.HTTPError as error:
            raise unreachable(self.settings, error) from error

    def _connection(self) -> httpx.AsyncClient:
        limits = httpx.Timeout(None, connect=self.settings.connect_s, write=self.settings.connect_s)
        return httpx.AsyncClient(base_url=self.url, timeout=limits, trust_env=False, verify=tls_context(self.url))

    async def _unload(self) -> None:
        try:
            async with self._connection() as client:
                await self._residence.unload(client)
        except httpx.HTTPError as error:
            raise unreachable(self.settings, error) from error

    async def _ask(self, question: dict[str, Any], stream: _Stream) -> Answer:
        try:
            async with self._connection() as client:
                known = self._known = self._known or await self._learn(client)
                if not (known.is_remote or self.settings.is_cloud_model):
                    await self._residence.load(client)
                answer = await self._read(client, question | {"think": known.think(self.settings.think)}, stream)
                return replace(answer, counts_cached=known.counts_cached)
        except httpx.HTTPError as error:
            if stream.lines:
                raise LlmServerFault(
                    f"{self.url} broke off in the middle of an answer: {error or repr(error)}"
                ) from error
            raise unreachable(self.settings, error) from error

    async def _learn(self, client: httpx.AsyncClient) -> ModelCapabilities:
        shown = await client.post("/api/show", json={"model": self.model})
        if shown.status_code != httpx.codes.OK:
            raise error_for(self.settings, shown)
        version = json_of(self.settings, await client.get("/api/version"))
        try:
            known = ModelCapabilities.of(json_of(self.settings, shown), str(version["version"]))
        except (AttributeError, KeyError, TypeError) as error:
            raise not_ollama(self.settings, error) from error
        if known.thinks is False and self.settings.think is not Think.OFF:
            logger.warning("%s does not support reasoning, so THINK=%s has no effect", self.model, self.settings.think)
        return known

    async def _read(self, client: httpx.AsyncClient, question: dict[str, Any], stream: _Stream) -> Answer:
        async with client.stream("POST", "/api/chat", json=question) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                raise error_for(self.settings, response)
            async for line in whole_lines(response):
                if stream.take(line):
                    return stream.answer()
        raise LlmServerFault(f"{self.url} ended the stream without saying `done`, after {stream.lines} lines")

    def _question(
        self,
        messages: Sequence[Message],
        answer_tokens: int,
        schema: Mapping[str, Any] | None,
        sampling: Sampling | None,
    ) -> dict[str, Any]:
        call = self.settings.call
        options = call["options"] | {"num_predict": answer_tokens}  # no option of one answer reloads the model
        if sampling is not None:
            options |= {"temperature": self.settings.temperature + sampling.warmer, "seed": sampling.seed}
        question = call | {
            "options": options,
            "messages": [{"role": message.role, "content": unicode(message.content)} for message in messages],
            "stream": True,
            "keep_alive": self.settings.keep_alive,
        }
        return question if schema is None else question | {"format": schema}


@dataclass
class _Stream(Stream):
    """An answer in Ollama's format: each line is an object, and the last one says `done`."""

    last: dict[str, Any] = field(default_factory=dict)

    def take(self, line: bytes) -> bool:
        """Add one line. Return True for the last line of a complete answer."""
        self.hear(line)
        parsed = self.parsed(line)
        message = parsed.get("message")
        if isinstance(message, dict):
            self.add(message.get("content"), message.get("thinking"))
        self.last = parsed
        return parsed.get("done") is True

    def answer(self) -> Answer:
        """Return the answer after its last line."""
        last = self.last
        return self.whole(last.get("done_reason"), last.get("prompt_eval_count"), last.get("eval_count"))
