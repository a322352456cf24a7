"""Ollama as everything that talks to it sees it: the address, what every call carries, what a status means.

Every call carries the same context, batch, layers and `shift`, because a call that differs in one of them makes Ollama
reload the model. `truncate: false, shift: false` make a prompt that does not fit an error instead of a silently
shortened prompt. On a GPU profile all layers are asked for: left to itself, Ollama spills to the CPU and says nothing.

Whether a model thinks before it answers is learned from the server, not from names. `think: false` is safe for a model
without thinking, anything else there is refused. Left unset, a model that can think does. Some cannot stop: those are
asked for little, and whatever they think is no answer; see `researcher.prompting.reply_parser`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from researcher.errors import BadLlmResponse, BadValue, LlmUnavailable, ModelMissing, PromptTooLong
from researcher.llm.client import Think
from researcher.llm.stream import Deadlines, error_text

LEVELS_ONLY = ("gptoss", "gpt-oss")  # families that know a low, medium and high, and take no `false`
COUNTS_CACHED_SINCE = (0, 31)  # 0.30 counted only the tokens of a prompt that it had not read before


@dataclass(frozen=True)
class ModelCapabilities:
    """What a server says of itself and one model. `thinks` is None where it does not say."""

    thinks: bool | None
    family: str
    counts_cached: bool

    @classmethod
    def of(cls, shown: dict[str, Any], version: str) -> ModelCapabilities:
        """From the answers of /api/show and /api/version. Raises TypeError or KeyError for what is not Ollama's."""
        capabilities = shown.get("capabilities")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        return cls(
            thinks=None if capabilities is None else "thinking" in capabilities,
            family=str(shown["details"].get("family", "")),
            counts_cached=numbers is not None and (int(numbers[1]), int(numbers[2])) >= COUNTS_CACHED_SINCE,
        )

    def think(self, wanted: Think) -> bool | str:
        """The field `think` of every question."""
        if self.thinks is False:
            return False
        if self.family in LEVELS_ONLY:
            return {Think.OFF: "low", Think.ON: "medium"}.get(wanted, wanted.value)
        return {Think.OFF: False, Think.ON: True}.get(wanted, wanted.value)


DEFAULT_PORT = 11434
ALL_LAYERS = 999

_EXAMPLE = "write for example http://127.0.0.1:11434"
_TOO_LONG = re.compile(r"exceed.*context|context.*exceed", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class OllamaSettings(Deadlines):
    """Where to ask, how the model is placed, and how long to wait.

    `resident` says that it stays loaded while a trial runs, `reserve_mib` the most of the GPU that it may take then.
    `leave_s` bounds how long an unloaded model may linger.
    """

    host: str
    model: str
    num_ctx: int = 16384
    num_batch: int = 512
    num_predict: int = 4096
    temperature: float = 0.7
    on_gpu: bool = False
    think: Think = Think.OFF
    resident: bool = True
    reserve_mib: int | None = None
    leave_s: float = 30.0

    @property
    def url(self) -> str:
        """The address in full. Raises ValueError for one that is none."""
        return base_url(self.host)

    @property
    def call(self) -> dict[str, Any]:
        """What every call carries."""
        options: dict[str, Any] = {
            "num_ctx": self.num_ctx,
            "num_batch": self.num_batch,
            "num_predict": self.num_predict,
            "temperature": self.temperature,
        }
        if self.on_gpu:
            options["num_gpu"] = ALL_LAYERS
        return {"model": self.model, "truncate": False, "shift": False, "options": options}

    @property
    def keep_alive(self) -> int | str:
        """For ever beside a trainer of its own; a computer without one may want its memory back after the run."""
        if not self.resident:
            return 0
        return -1 if self.on_gpu else "30m"


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
        raise BadValue(f"OLLAMA_HOST is {host!r}: {error}", _EXAMPLE) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s,;]", parts.hostname):
        raise BadValue(f"OLLAMA_HOST is {host!r}, which names no server", _EXAMPLE)
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(parts.hostname, parts.hostname)
    standard = {"http": 80, "https": 443}[parts.scheme] if has_scheme else DEFAULT_PORT
    return f"{parts.scheme}://{_bracketed(name)}:{port or standard}{parts.path.rstrip('/')}"


def _bracketed(name: str) -> str:
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name


def error_for(settings: OllamaSettings, response: httpx.Response) -> LlmUnavailable | BadLlmResponse:
    """What a status other than 200 means."""
    said = error_text(response)
    if response.status_code == httpx.codes.NOT_FOUND and "not found" in said and "page" not in said:
        return missing(settings)
    if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.INTERNAL_SERVER_ERROR):
        kind = PromptTooLong if _TOO_LONG.search(said) else BadLlmResponse
        return kind(f"{settings.url} refused the question ({response.status_code}): {said}")
    return LlmUnavailable(f"{settings.url} answers {response.status_code}: {said or 'without a word'}")


def missing(settings: OllamaSettings) -> ModelMissing:
    """The server does not have the model."""
    return ModelMissing(
        f"{settings.url} does not have the model {settings.model}; run: overnight pull {settings.model} "
        "(in containers: scripts/up)"
    )


def unreachable(settings: OllamaSettings, error: httpx.HTTPError) -> LlmUnavailable:
    """Nobody answers."""
    what = str(error) or type(error).__name__
    return LlmUnavailable(f"nothing usable answers at {settings.url} ({what}); is Ollama running there?")


def not_ollama(settings: OllamaSettings, error: Exception) -> LlmUnavailable:
    """Somebody else answers."""
    return LlmUnavailable(f"{settings.url} answers, but not like Ollama; is the address right? ({error!r})")


def json_of(settings: OllamaSettings, response: httpx.Response) -> Any:
    """The body of an answer with status 200. Raises LlmUnavailable."""
    if response.status_code != httpx.codes.OK:
        raise LlmUnavailable(
            f"{settings.url} answers {response.status_code}: {error_text(response) or 'without a word'}"
        )
    try:
        return response.json()
    except ValueError as error:
        raise not_ollama(settings, error) from error


def same_model(found: str, wanted: str) -> bool:
    """Ollama's own reading: case does not count, no tag means `latest`, and so does the default namespace."""
    return _full_name(found) == _full_name(wanted)


def _full_name(name: str) -> str:
    name = name.strip().lower().removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
