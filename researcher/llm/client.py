"""The protocol of chat clients for all servers: they send messages and return one complete answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from researcher.llm.gpu_memory_split import Placement, placement_for

WARMER_STEP, WARMEST = 0.2, 0.4
ANSWER_SHARE = 0.25  # of the context, for an answer whose longest length is not set


SMALL_BELOW_BILLIONS = 8
_BILLIONS = re.compile(r"(?<![\w.])e?(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)
_MILLIONS = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)m(?![a-z])", re.IGNORECASE)


def billions_in(text: str) -> float | None:
    """Return the billions of parameters that a model's name or size gives, or None."""
    if found := _BILLIONS.search(text):
        return float(found[1])
    found = _MILLIONS.search(text)
    return float(found[1]) / 1000 if found else None


class Think(StrEnum):
    """The reasoning effort that a question asks of a model that can reason."""

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
class Sampling:
    """How a server draws one answer: another seed gives another answer to the same question.

    `warmer` is added to the client's usual temperature.
    """

    seed: int
    warmer: float = 0.0

    @classmethod
    def after(cls, refusals: int) -> Sampling:
        """Return a sampling with a new seed, warmer after each refused answer in a row."""
        return cls(random.getrandbits(31), min(WARMER_STEP * refusals, WARMEST))


@dataclass(frozen=True)
class Answer:
    """A complete answer. `done_reason` is `length` if the answer was cut at its own limit or at the end of the context.

    `prompt_tokens` counts the whole prompt if `counts_cached`; otherwise the count may omit cached tokens.
    """

    text: str
    thoughts: str
    done_reason: Literal["stop", "length"]
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    counts_cached: bool = True


class ChatClient(Protocol):
    """One model on one server.

    `context_tokens` is the whole context, `answer_tokens` the part reserved for the answer.
    """

    @property
    def url(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def answer_tokens(self) -> int: ...

    def check_available(self) -> None:
        """Check that the server has the model, within seconds, without a question or a load. Raises LlmUnavailable."""
        ...

    def chat(
        self,
        messages: Sequence[Message],
        tick: Callable[[], None],
        *,
        answer_tokens: int | None = None,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
    ) -> Answer:
        """Return one answer. Raises LlmUnavailable (ask again later) or LlmServerFault (this question has no answer).

        `answer_tokens` replaces the longest answer for this question, `schema` is a JSON schema for the answer, and
        `sampling` differs from the usual one.
        `tick` is called at least twice a second during the wait, and may raise to cancel.
        """
        ...


@runtime_checkable
class HoldsGpu(Protocol):
    """A client of a server that loads the model onto the GPU of the trials."""

    def unload(self, tick: Callable[[], None]) -> None:
        """Return once no model is on the GPU that cannot stay there beside a trial.

        Raises ModelNotUnloaded if a model stays, LlmUnavailable if the server cannot be asked.
        """
        ...


@runtime_checkable
class KnowsSize(Protocol):
    """A client of a server that tells the size of its model."""

    @property
    def billions(self) -> float | None:
        """The billions of parameters, or None before the server has told them."""
        ...


def is_small(client: ChatClient) -> bool:
    """Return True if a model has fewer than 8 billion parameters, as its server or else its name says."""
    stated = client.billions if isinstance(client, KnowsSize) else None
    billions = billions_in(client.model) if stated is None else stated
    return billions is not None and billions < SMALL_BELOW_BILLIONS


@runtime_checkable
class ShowsProgress(Protocol):
    """A client that can say how far the answer in progress is."""

    def progress(self) -> str:
        """Describe the progress in words for users; may be called from another thread than `chat`."""
        ...


@dataclass(frozen=True)
class LlmOptions:
    """The settings of a client.

    An Ollama beside the trainer uses `host`, `placement` and `on_gpu`; a remote endpoint uses `url`, `key_file`,
    `model` and `num_ctx`.
    """

    model: str | None = None
    num_ctx: int | None = None
    num_predict: int | None = None
    deadline_s: float = 600.0
    think: Think = Think.OFF
    host: str = ""
    placement: Placement = field(default_factory=lambda: placement_for("cpu"))
    on_gpu: bool = False
    url: str | None = None
    key_file: Path | None = None

    def answer_tokens(self, context_tokens: int) -> int:
        """Return the longest answer of a model with this context."""
        return self.num_predict or int(ANSWER_SHARE * context_tokens)

    @property
    def first_s(self) -> float:
        """The longest silence before an answer, which a slow machine needs as it needs a longer deadline."""
        return self.deadline_s / 2
