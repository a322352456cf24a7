"""What the researcher needs of a chat server, whichever protocol it speaks: messages in, one complete answer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from researcher.llm.gpu_memory_split import Placement, placement_for


class Think(StrEnum):
    """What is asked of a model that can think."""

    OFF = "off"
    ON = "on"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Answer:
    """A complete answer. `done_reason` is `length` where it was cut at its own limit or at the end of the context.

    `prompt_tokens` are those of the whole prompt where `counts_cached`, else perhaps without those read before.
    """

    text: str
    thoughts: str
    done_reason: Literal["stop", "length"]
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    counts_cached: bool = True


class ChatClient(Protocol):
    """One model on one server; `context_tokens` is the whole window, `answer_tokens` the part kept for the answer."""

    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def answer_tokens(self) -> int: ...

    def look(self) -> object:
        """Asks nothing, loads nothing, within seconds at most. Raises LlmUnavailable unless the server has the
        model."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        tick: Callable[[], None],
        *,
        answer_tokens: int | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Raises LlmUnavailable (ask again later) or BadLlmResponse (this question got no answer).

        `answer_tokens`: another longest answer for this question; `schema`: a JSON schema that the answer keeps to.
        `tick` is called at least twice a second while the answer comes, and may raise to give up.
        """
        ...


@runtime_checkable
class HoldsGpu(Protocol):
    """A client whose server loads the model onto the GPU that trials train on."""

    def unload(self, tick: Callable[[], None]) -> None:
        """Before a trial: returns once no model is on the GPU that cannot stay there beside the trial.

        Raises ModelNotUnloaded where a model does not go, LlmUnavailable where the server cannot be asked.
        """
        ...


@dataclass(frozen=True)
class LlmOptions:
    """The settings that a client is made from. An Ollama beside the trainer takes `host`, `placement` and `on_gpu`, an
    endpoint elsewhere `url`, `key_file`, `model` and `num_ctx`."""

    model: str | None = None
    num_ctx: int | None = None
    num_predict: int = 4096
    deadline_s: float = 600.0
    think: Think = Think.OFF
    host: str = ""
    placement: Placement = field(default_factory=lambda: placement_for("cpu"))
    on_gpu: bool = False
    url: str | None = None
    key_file: Path | None = None
