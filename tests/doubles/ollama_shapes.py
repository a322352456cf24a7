"""The recorded shapes of Ollama's JSON, for its double."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any


def line(model: str, **said: str) -> dict[str, Any]:
    """Return one piece of a streamed answer."""
    message = {"role": "assistant", "content": "", **said}
    return {"model": model, "created_at": _now(), "message": message, "done": False}


def last_line(model: str, took_ns: int, asked: int, answered: int, done_reason: str) -> dict[str, Any]:
    """Return the line that ends a complete answer."""
    counts = {"prompt_eval_count": asked, "prompt_eval_duration": 1_000_000, "eval_count": answered}
    times = {"total_duration": took_ns, "load_duration": 1_000_000}
    ending = {"done": True, "done_reason": done_reason}
    return line(model) | ending | times | counts | {"eval_duration": took_ns}


def too_long(asked: int, room: int) -> dict[str, Any]:
    """Return llama.cpp's error for a prompt beyond its context, in tokens."""
    message = f"request ({asked} tokens) exceeds the available context size ({room} tokens), try increasing it"
    kind = {"type": "exceed_context_size_error", "n_prompt_tokens": asked, "n_ctx": room}
    return {"code": 400, "message": message, **kind}


def listed_model(
    model: str, capabilities: Sequence[str] = ("completion",), family: str = "llama", parameter_size: str = ""
) -> dict[str, Any]:
    """Return a model as /api/tags lists it."""
    details = {"parent_model": "", "format": "gguf", "family": family, "families": [family]}
    details |= {"parameter_size": parameter_size, "quantization_level": "Q4_1"}
    listed = {"name": full_name(model), "model": full_name(model), "modified_at": _now(), "size": 98_362_763}
    return {**listed, "digest": "4a51" * 16, "details": details, "capabilities": list(capabilities)}


def loaded_model(model: str, size: int, size_vram: int, context: int) -> dict[str, Any]:
    """Return a model as /api/ps lists it; sizes in bytes, `context` in tokens."""
    listed = {name: value for name, value in listed_model(model).items() if name not in ("modified_at", "capabilities")}
    return listed | {"size": size, "expires_at": _now(), "size_vram": size_vram, "context_length": context}


def load_answer(model: str, done_reason: str) -> dict[str, Any]:
    """Return the answer of /api/generate to a call without a prompt, which loads or unloads the model."""
    return {"model": model, "created_at": _now(), "response": "", "done": True, "done_reason": done_reason}


def full_name(model: str) -> str:
    """Return Ollama's own name of a model."""
    return (model if ":" in model else f"{model}:latest").lower()


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + ".000000001Z"
