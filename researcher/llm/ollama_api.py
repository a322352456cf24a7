"""Ollama's API, as all of its clients use it: the address, the options of each call, and the meaning of a status.

Every call has the same context, batch, layers and `shift`, because Ollama reloads the model for a call that differs in
one of them. With `truncate: false, shift: false` a prompt that does not fit is an error and is not shortened silently.
GPU profiles request all layers, because Ollama would otherwise put some on the CPU without notice.

The server, not the model's name, says whether a model can reason. `think: false` is safe for a model without reasoning,
any other value is refused. If the field is missing, a model that can reason does so. Some models cannot stop reasoning:
these are asked for the lowest level, and their reasoning is not part of the answer; see
`researcher.prompting.reply_parser`.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import SplitResult, urlsplit

import httpx

from researcher.errors import BadValue, LlmServerFault, LlmUnavailable, ModelMissing, PromptTooLong
from researcher.llm.client import Think, billions_in
from researcher.llm.stream import Deadlines, connection_fault, error_text, unquoted

logger = logging.getLogger(__name__)

LEVELS_ONLY = ("gptoss", "gpt-oss")  # families with the levels low, medium and high, but without `false`
COUNTS_CACHED_SINCE = (0, 31)  # version 0.30 omits cached prompt tokens from its count


@dataclass(frozen=True)
class ModelCapabilities:
    """The capabilities of a server and one model. `thinks` and `billions` are None if the server does not say.

    A model that `is_remote` runs on another machine, such as Ollama's cloud, and is never in the server's own memory.
    """

    thinks: bool | None
    family: str
    counts_cached: bool
    is_remote: bool
    billions: float | None = None

    @classmethod
    def of(cls, shown: dict[str, Any], version: str) -> ModelCapabilities:
        """Read the answers of /api/show and /api/version. Raises TypeError or KeyError if the server is not Ollama."""
        capabilities = shown.get("capabilities")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        return cls(
            thinks=None if capabilities is None else "thinking" in capabilities,
            family=str(shown["details"].get("family", "")),
            billions=billions_in(str(shown["details"].get("parameter_size", ""))),
            counts_cached=numbers is not None and (int(numbers[1]), int(numbers[2])) >= COUNTS_CACHED_SINCE,
            is_remote=bool(shown.get("remote_host")),
        )

    def think(self, wanted: Think) -> bool | str:
        """Return the value of the field `think` for every question."""
        if self.thinks is False:
            return False
        if self.family in LEVELS_ONLY:
            return {Think.OFF: "low", Think.ON: "medium"}.get(wanted, wanted.value)
        return {Think.OFF: False, Think.ON: True}.get(wanted, wanted.value)


DEFAULT_PORT = 11434
ALL_LAYERS = 999

_LOCAL = "127.0.0.1"
_CLOUD = "ollama.com"
_EXAMPLE = "write for example http://127.0.0.1:11434"
_TOO_LONG = re.compile(r"exceed.*context|context.*exceed", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class OllamaSettings(Deadlines):
    """The server, the model's placement, and the time limits.

    `resident` means that the model stays loaded while a trial runs, and `reserve_mib` is its limit of GPU memory then.
    `unload_s` is the longest wait for an unload.
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
    unload_s: float = 30.0

    @property
    def url(self) -> str:
        """The full address. Raises BadValue, a ValueError, for an invalid host."""
        return base_url(self.host)

    @property
    def call(self) -> dict[str, Any]:
        """The fields of every call."""
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
    def is_cloud_model(self) -> bool:
        """Whether the model's name says that it runs in Ollama's cloud."""
        return self.model.lower().endswith(("-cloud", ":cloud"))

    @property
    def keep_alive(self) -> int | str:
        """The time that the model stays loaded.

        It is for ever on a GPU; on a CPU the user may want the memory back after a run. A model that is not resident is
        unloaded after each answer.
        """
        if not self.resident:
            return 0
        return -1 if self.on_gpu else "30m"


@cache
def base_url(host: str) -> str:
    """Return the full address for a value of `OLLAMA_HOST`: `host`, `host:port`, `:port` or `http://host:port`.

    It is read as Ollama itself reads it: also in quotes, its cloud's name without https, and an invalid port as the
    default port, with a warning. An address to listen on, such as 0.0.0.0, becomes this machine's. Raises BadValue for
    an invalid value.
    """
    text = unquoted(host) or _LOCAL
    text = f"https://{text}" if text.startswith(_CLOUD) else text
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"http://{_bracketed(text)}")
        name = parts.hostname or _LOCAL
        httpx.URL(f"http://{_bracketed(name)}")
    except (ValueError, httpx.InvalidURL) as error:
        raise BadValue(f"OLLAMA_HOST is {host!r}: {error}", _EXAMPLE) from error
    standard = {"http": 80, "https": 443}.get(parts.scheme)
    if standard is None or _bracketed(parts.netloc) != parts.netloc or re.search(r"[\s,;\"']", name):
        raise BadValue(f"OLLAMA_HOST is {host!r}, which names no server", _EXAMPLE)
    name = {"0.0.0.0": _LOCAL, "::": "::1"}.get(name, name)
    port = _port_of(parts, standard if has_scheme else DEFAULT_PORT)
    return f"{parts.scheme}://{_bracketed(name)}:{port}{parts.path.rstrip('/')}"


def _port_of(parts: SplitResult, standard: int) -> int:
    try:
        port = parts.port
    except ValueError as error:
        logger.warning("the port in OLLAMA_HOST is invalid (%s), so port %d is used, as Ollama does", error, standard)
        return standard
    return standard if port is None else port


def _bracketed(name: str) -> str:
    return f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name


def error_for(settings: OllamaSettings, response: httpx.Response) -> LlmUnavailable | LlmServerFault:
    """Return the error for a status other than 200."""
    message = error_text(response)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return LlmUnavailable(f"{settings.url} refuses {settings.model} (401: {message}); run there: ollama signin")
    if response.status_code == httpx.codes.NOT_FOUND and "not found" in message and "page" not in message:
        return missing(settings)
    if response.status_code in (httpx.codes.BAD_REQUEST, httpx.codes.INTERNAL_SERVER_ERROR):
        kind = PromptTooLong if _TOO_LONG.search(message) else LlmServerFault
        return kind(f"{settings.url} refused the question ({response.status_code}): {message}")
    return _unexpected(settings, response)


def _unexpected(settings: OllamaSettings, response: httpx.Response) -> LlmUnavailable:
    return LlmUnavailable(f"{settings.url} answers {response.status_code}: {error_text(response) or 'without a word'}")


def missing(settings: OllamaSettings) -> ModelMissing:
    """Return the error for a server without the model."""
    return ModelMissing(
        f"{settings.url} does not have the model {settings.model}; run: overnight pull {settings.model} "
        "(in containers: scripts/up)"
    )


def unreachable(settings: OllamaSettings, error: httpx.HTTPError) -> LlmUnavailable:
    """Return the error for a server that does not answer."""
    what = connection_fault(error)
    return LlmUnavailable(f"nothing usable answers at {settings.url} ({what}); Ollama may not be running there")


def not_ollama(settings: OllamaSettings, error: Exception) -> LlmUnavailable:
    """Return the error for a server that is not Ollama."""
    return LlmUnavailable(f"{settings.url} answers, but not like Ollama; is the address right? ({error!r})")


def json_of(settings: OllamaSettings, response: httpx.Response) -> Any:
    """Return the JSON body of an answer with status 200. Raises LlmUnavailable."""
    if response.status_code != httpx.codes.OK:
        raise _unexpected(settings, response)
    try:
        return response.json()
    except ValueError as error:
        raise not_ollama(settings, error) from error


def same_model(found: str, wanted: str) -> bool:
    """Compare two model names as Ollama does: without case, with the default tag `latest` and the default namespace."""
    return _full_name(found) == _full_name(wanted)


def _full_name(name: str) -> str:
    name = name.strip().lower().removeprefix("library/")
    return name if ":" in name.rsplit("/", 1)[-1] else f"{name}:latest"
