"""Servers that pull models, line by line, as Ollama documents it. A real pull was never recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.doubles.ollama_server import OllamaDouble

LAYERS = {"sha256:" + "ab" * 32: 6 * 2**30, "sha256:" + "cd" * 32: 12_000}
PART = 2**30


class Library(OllamaDouble):
    """Has no model yet, and offers one. It keeps the pulled part of a layer; `left` are the bytes until the connection
    is cut."""

    left: int | None = None
    error: str | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.has: list[str] = []
        self.parts = dict.fromkeys(LAYERS, 0)

    def installed(self) -> list[str]:
        """Return the pulled models."""
        return self.has

    def pulled(self, model: str) -> Iterator[dict[str, Any] | None]:
        """Yield the lines of a pull, layer by layer; `completed` is left out if it is 0."""
        yield {"status": "pulling manifest"}
        if self.error is not None:
            yield {"error": self.error}
            return
        for digest, total in LAYERS.items():
            step = {"status": f"pulling {digest[7:19]}", "digest": digest, "total": total}
            yield step | ({"completed": self.parts[digest]} if self.parts[digest] else {})
            while self.parts[digest] < total:
                if self.left is not None and self.left <= 0:
                    yield None
                    return
                self.left = None if self.left is None else self.left - PART
                self.parts[digest] = min(total, self.parts[digest] + PART)
                yield step | {"completed": self.parts[digest]}
        yield {"status": "verifying sha256 digest"}
        yield {"status": "writing manifest"}
        self.has.append(model)
        yield {"status": "success"}


class ForgetfulLibrary(Library):
    """Reports a successful pull, and has no model afterwards."""

    def installed(self) -> list[str]:
        """Return no models."""
        return []


class LibraryWithoutEnd(Library):
    """Ends the stream before the line with the success."""

    def pulled(self, model: str) -> Iterator[dict[str, Any] | None]:
        """Yield all lines but the last."""
        yield from list(super().pulled(model))[:-1]
        self.has.clear()


class Stranger(Library):
    """Answers with lines that belong to no pull."""

    def pulled(self, model: str) -> Iterator[dict[str, Any] | None]:
        """Yield one foreign line."""
        yield {"page": "welcome"}
