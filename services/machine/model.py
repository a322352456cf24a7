"""Pulls the LLM's model into an Ollama, with a bar for each layer. Only a user's command pulls a model.

After an interruption the next pull continues, because Ollama keeps the parts until it is restarted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from researcher.config.rules import asks_llm
from researcher.config.settings import TABLE
from researcher.errors import LlmUnavailable, ModelMissing, ResearcherError
from researcher.llm.backends import backend_named
from researcher.llm.gpu_memory_split import placement_for
from researcher.llm.ollama import OllamaClient
from researcher.llm.ollama_api import OllamaSettings, base_url, unreachable
from researcher.llm.stream import error_text, tls_context

SILENCE_S = 300.0  # while Ollama verifies a layer of many GiB, it sends nothing
SUCCESS = "success"
_UNKNOWN = ("file does not exist", "invalid model name", "not found")
_FULL = ("no space left", "not enough space", "disk quota")
_OUTSIDE = ("no such host", "timeout", "timed out", "refused", "unreachable", "reset", "max retries", "eof", "tls:")


class PullFailed(ResearcherError):
    """The server did not pull the model."""


class UnknownModel(PullFailed):
    """The registry has no model of this name."""


class DiskFull(PullFailed):
    """The disk of Ollama's models is full."""


class RegistryAway(PullFailed):
    """Ollama does not reach its registry, or lost the connection."""


@dataclass(frozen=True)
class Step:
    """One line of a pull. A line about a layer has its digest and its sizes in bytes."""

    status: str
    layer: str | None
    total: int
    completed: int


def model_wanted(environment: Mapping[str, str], profile: str, model: str | None = None) -> OllamaSettings:
    """Return the model and the server that a run of the profile would use. Raises ValueError for an invalid address."""
    host = environment.get("OLLAMA_HOST") or TABLE["OLLAMA_HOST"].default
    base_url(host)
    return OllamaSettings(host, model or environment.get("MODEL") or placement_for(profile).model)


def warn_if_missing(environment: Mapping[str, str], profile: str, console: Console) -> None:
    """Before a run, print how to get the model if an Ollama answers and lacks it. The researcher reports every other
    fault."""
    if not asks_llm(environment) or not backend_named(environment.get("LLM")).needs_model_pull:
        return
    try:
        OllamaClient(model_wanted(environment, profile)).check_available()
    except ModelMissing as missing:
        console.print(f"no LLM yet: {missing}", soft_wrap=True)
    except (LlmUnavailable, ValueError):
        return


def pull_model(wanted: OllamaSettings, console: Console) -> None:
    """Return once the server lists the model. Raises PullFailed or LlmUnavailable."""
    client = OllamaClient(wanted)
    try:
        client.check_available()
    except ModelMissing:
        _show(_steps(wanted), console)
        try:
            client.check_available()
        except ModelMissing as error:
            raise PullFailed(f"{wanted.url} says that it pulled {wanted.model}, and does not list it") from error
    console.print(f"{wanted.url} has {wanted.model}", soft_wrap=True)


def _show(steps: Iterator[Step], console: Console) -> None:
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bars: dict[str, TaskID] = {}
        message = ""
        for step in steps:
            if step.layer is not None:
                if step.layer not in bars:
                    bars[step.layer] = progress.add_task(step.status, total=step.total)
                progress.update(bars[step.layer], completed=step.completed, total=step.total)
            elif step.status != message:
                message = step.status
                progress.console.print(message, highlight=False)


def _steps(wanted: OllamaSettings) -> Iterator[Step]:
    limits = httpx.Timeout(wanted.connect_s, read=SILENCE_S)
    status = ""
    try:
        with (
            httpx.Client(
                base_url=wanted.url, timeout=limits, trust_env=False, verify=tls_context(wanted.url)
            ) as client,
            client.stream("POST", "/api/pull", json={"model": wanted.model, "stream": True}) as response,
        ):
            if response.status_code != httpx.codes.OK:
                response.read()
                raise _failed(wanted, error_text(response))
            for line in filter(None, response.iter_lines()):
                step = _step(wanted, line)
                status = step.status
                yield step
    except httpx.ConnectError as error:
        raise unreachable(wanted, error) from error
    except httpx.HTTPError as error:
        raise PullFailed(f"{wanted.url} broke off ({error or repr(error)}); {_again(wanted)}") from error
    if status != SUCCESS:
        raise PullFailed(f"{wanted.url} ended after {status!r} without a success; {_again(wanted)}")


def _step(wanted: OllamaSettings, line: str) -> Step:
    try:
        progress_line = json.loads(line)
        if "error" in progress_line:
            raise _failed(wanted, str(progress_line["error"]))
        layer = progress_line.get("digest")
        return Step(
            str(progress_line["status"]),
            layer,
            int(progress_line.get("total", 0)),
            int(progress_line.get("completed", 0)),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PullFailed(f"{wanted.url} says {line[:200]!r}, which is no step of a pull") from error


def _failed(wanted: OllamaSettings, message: str) -> PullFailed:
    """Return the error that the server's text means; the server sends no error codes."""
    lowered = message.lower()
    if any(part in lowered for part in _FULL):
        return DiskFull(
            f"no room for {wanted.model} where Ollama keeps its models ({message}); free some. {_again(wanted)}"
        )
    if any(part in lowered for part in _UNKNOWN):
        return UnknownModel(f"Ollama's library has no model {wanted.model} ({message}); look its name up there")
    if any(part in lowered for part in _OUTSIDE):
        return RegistryAway(f"Ollama at {wanted.url} does not reach its registry ({message}); {_again(wanted)}")
    return PullFailed(f"{wanted.url} cannot pull {wanted.model}: {message}")


def _again(wanted: OllamaSettings) -> str:
    return f"`overnight pull {wanted.model}` goes on where it was"
