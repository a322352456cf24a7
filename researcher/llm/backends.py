"""The table of LLM backends: the values of the setting LLM, each with its client and its requirements.

To add a backend, write its client and add a line here; this is enough for local mode. With `in_containers` the backend
also works in the container stack; then compose.yaml needs a network llm-NAME, and gpu.env must name the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from researcher.errors import BadValue
from researcher.llm.client import ChatClient, LlmOptions
from researcher.llm.ollama import ollama_client
from researcher.llm.openai import openai_client


@dataclass(frozen=True)
class LlmBackend:
    """A row of the table.

    `client` is None if no LLM is asked. `holds_gpu`: the model shares the GPU with trials, and memory is reserved for
    it. `needs_model_pull`: the model is downloaded before the first question. `is_endpoint`: the backend answers at
    OPENAI_BASE_URL as MODEL, with the key and the prices of the other OPENAI keys.
    """

    name: str
    client: Callable[[LlmOptions], ChatClient] | None
    holds_gpu: bool = False
    needs_model_pull: bool = False
    is_endpoint: bool = False
    in_containers: bool = False

    @property
    def asks_llm(self) -> bool:
        """False if the optimiser works alone."""
        return self.client is not None


BACKENDS = {
    backend.name: backend
    for backend in (
        LlmBackend("ollama", ollama_client, holds_gpu=True, needs_model_pull=True, in_containers=True),
        LlmBackend("none", None, in_containers=True),
        LlmBackend("openai", openai_client, is_endpoint=True, in_containers=True),
    )
}
DEFAULT_BACKEND = "ollama"
IN_CONTAINERS = [backend.name for backend in BACKENDS.values() if backend.in_containers]


def backend_named(name: str | None) -> LlmBackend:
    """Return the backend that LLM names, or the default for an empty name.

    Raises BadValue for a name not in the table.
    """
    name = name or DEFAULT_BACKEND
    if name not in BACKENDS:
        raise BadValue(f"LLM={name} is not one of {', '.join(BACKENDS)}", f"set LLM={DEFAULT_BACKEND}")
    return BACKENDS[name]
