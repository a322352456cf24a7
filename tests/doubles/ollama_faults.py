"""Servers that place the model badly, each named for what it does. Ollama's own placing on a GPU was never recorded:
the shapes are those of a server without one, the faults follow its source.
"""

from __future__ import annotations

from typing import Any

from tests.doubles.ollama_server import Held, OllamaDouble


class SpillingServer(OllamaDouble):
    """Puts a third of the model on the CPU and answers 200, as Ollama does beside a full GPU."""

    spills_left = 1_000

    def load(self, options: dict[str, Any]) -> str | None:
        """Hold the model, in part where it should not be."""
        super().load(options)
        if self.held is not None and self.spills_left > 0:
            self.spills_left -= 1
            self.held = Held(self.held.context, self.held.on_card * 2 // 3)
        return None


class OnceSpillingServer(SpillingServer):
    """Spills at its first load only: something else left the GPU meanwhile."""

    spills_left = 1


class FullCard(OllamaDouble):
    """Has no room for the layers asked for, and says so as Ollama does."""

    def load(self, options: dict[str, Any]) -> str | None:
        """Holds nothing."""
        return "llama-server process has terminated: exit status 1 cudaMalloc failed: out of memory"


class ClampingServer(OllamaDouble):
    """Its model was trained on a short context, and it gives no longer one."""

    longest = 4096

    def load(self, options: dict[str, Any]) -> str | None:
        """Hold the model with less context than asked for."""
        return super().load(options | {"num_ctx": min(int(options["num_ctx"]), self.longest)})


class SlowToUnload(OllamaDouble):
    """Lists the model for some looks after it was told to unload it, for it unloads in its own time."""

    looks_left = 0

    def unload(self) -> None:
        """Soon."""
        self.looks_left = 3

    def listing(self) -> list[dict[str, Any]]:
        """The model, until the looks are used up."""
        if self.looks_left > 0:
            self.looks_left -= 1
            if self.looks_left == 0:
                self.held = None
        return super().listing()


class StickyServer(OllamaDouble):
    """Never lets a model go."""

    def unload(self) -> None:
        """Not so."""
