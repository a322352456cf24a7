"""Servers that pull models: what a pull says, line by line, as Ollama documents it. A real one was never recorded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.doubles.ollama_server import OllamaDouble

LAYERS = {"sha256:" + "ab" * 32: 6 * 2**30, "sha256:" + "cd" * 32: 12_000}
PART = 2**30


class Library(OllamaDouble):
    """Has no model yet, and offers one. What it got of a layer it keeps; `left` are the bytes until the line is cut."""

    left: int | None = None
    error: str | None = None

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.has: list[str] = []
        self.parts = dict.fromkeys(LAYERS, 0)

    def installed(self) -> list[str]:
        """What was pulled."""
        return self.has

    def pulled(self, model: str) -> Iterator[dict[str, Any] | None]:
        """Layer by layer; `completed` is left out where it is 0."""
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
    """Says that it pulled, and has nothing."""

    def installed(self) -> list[str]:
        """Nothing."""
        return []


class LibraryWithoutEnd(Library):
    """Stops talking before it says that it is done."""

    def pulled(self, model: str) -> Iterator[dict[str, Any] | None]:
        """All but the last line."""
        yield from list(super().pulled(model))[:-1]
        self.has.clear()


class Stranger(Library):
    """Says what no pull says."""

    def pulled(self, model: str) -> Iterator[dict[str, Any] | None]:
        """A line of something else."""
        yield {"page": "welcome"}
