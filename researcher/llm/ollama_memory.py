"""Loads an Ollama model exactly as requested and completely onto the GPU, and unloads it before a trial.

Ollama answers 200 even if it put a part of the model on the CPU, so `/api/ps` is read after each load. It reports
neither the CUDA context nor later growth; the margin of `researcher.llm.gpu_memory_split` covers those.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx

from researcher.errors import LlmUnavailable, ModelDoesNotFit, ModelNotUnloaded
from researcher.llm.ollama_api import OllamaSettings, error_for, json_of, not_ollama, same_model
from researcher.llm.stream import error_text

POLL_S = 0.1
LOADED_FOR = "5m"  # a load with keep_alive 0 is an unload; after a kill the model must not stay for ever
_GIB = 2**30
_SMALLER = "set MODEL or NUM_CTX smaller"


@dataclass(frozen=True)
class Loaded:
    """A model in memory, as `/api/ps` reports it. Sizes are bytes; versions before 0.11 report no context."""

    name: str
    size: int
    on_gpu: int
    context: int | None


class Residence:
    """The loading and unloading of one model. Methods raise LlmUnavailable, and httpx's errors if no server answers."""

    def __init__(self, settings: OllamaSettings) -> None:
        self._settings = settings

    async def load(self, client: httpx.AsyncClient) -> None:
        """Load the model as requested, with a second try after a wrong load. Raises ModelDoesNotFit."""
        if self._fault_of(await self.find(client)) is None:
            return
        fault = await self._load_once(client)
        if fault is not None:
            await self.unload(client)
            fault = await self._load_once(client)
        if fault is not None:
            await self.unload(client)
            raise ModelDoesNotFit(fault)

    async def unload(self, client: httpx.AsyncClient) -> None:
        """Unload all models that would take memory from the trainer, and wait for it. Raises ModelNotUnloaded."""
        try:
            async with asyncio.timeout(self._settings.unload_s):
                there = await self._in_the_way(client)
                for each in there:
                    await client.post("/api/generate", json={"model": each.name, "keep_alive": 0, "stream": False})
                while there:
                    await asyncio.sleep(POLL_S)  # Ollama answers before the unload is complete
                    there = await self._in_the_way(client)
        except TimeoutError:
            raise ModelNotUnloaded(
                f"{self._settings.url} still holds its model {self._settings.unload_s:g} s after the request to unload "
                "it; restart Ollama"
            ) from None

    async def find(self, client: httpx.AsyncClient) -> Loaded | None:
        """Return the model as the server lists it, or None if it is not loaded."""
        return next((each for each in await self.listed(client) if same_model(each.name, self._settings.model)), None)

    async def _load_once(self, client: httpx.AsyncClient) -> str | None:
        """Load the model. Return the difference from the request as text, or None."""
        settings = self._settings
        keep_alive = settings.keep_alive or LOADED_FOR
        response = await client.post("/api/generate", json=settings.call | {"stream": False, "keep_alive": keep_alive})
        if response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
            return f"{settings.model} cannot be loaded ({error_text(response)}); {_SMALLER}"
        if response.status_code != httpx.codes.OK:
            raise LlmUnavailable(str(error_for(settings, response)))
        return self._fault_of(await self.find(client))

    def _fault_of(self, found: Loaded | None) -> str | None:
        settings = self._settings
        if found is None:
            return f"{settings.model} is not loaded, although {settings.url} said so"
        if found.context not in (None, settings.num_ctx):
            return (
                f"{settings.model} was loaded with a context of {found.context} tokens, not {settings.num_ctx}; "
                f"set NUM_CTX={found.context} or another MODEL"
            )
        if settings.on_gpu and found.on_gpu < found.size:
            beside = "beside the trainer" if settings.resident else "onto the GPU"
            spilt, size = (found.size - found.on_gpu) / _GIB, found.size / _GIB
            return f"{settings.model} does not fit {beside}: {spilt:.1f} of {size:.1f} GiB on the CPU; {_SMALLER}"
        reserve_mib = settings.reserve_mib if settings.on_gpu and settings.resident else None
        if reserve_mib is not None and found.on_gpu > reserve_mib * 2**20:
            return (
                f"{settings.model} takes {found.on_gpu / _GIB:.1f} GiB of the GPU, and {reserve_mib / 1024:.1f} GiB "
                f"are set aside for it; {_SMALLER}, or raise LLM_RESERVE_MIB and lower TRAINER_CAP_MIB"
            )
        return None

    async def _in_the_way(self, client: httpx.AsyncClient) -> list[Loaded]:
        """Return the loaded models to unload: all on a shared GPU, else only this one, as the server may have other
        users."""
        return [
            each
            for each in await self.listed(client)
            if self._settings.on_gpu or same_model(each.name, self._settings.model)
        ]

    async def listed(self, client: httpx.AsyncClient) -> list[Loaded]:
        """Return all models in memory."""
        response = await client.get("/api/ps")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise LlmUnavailable(f"{self._settings.url} does not say which models are loaded; update Ollama there")
        models = json_of(self._settings, response)
        try:
            return [
                Loaded(str(each["name"]), int(each["size"]), int(each["size_vram"]), _context(each))
                for each in models["models"]
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise not_ollama(self._settings, error) from error


def _context(listed: dict[str, Any]) -> int | None:
    context = listed.get("context_length")
    return None if context is None else int(context)
