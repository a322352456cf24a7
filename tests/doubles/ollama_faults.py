"""Servers that place the model badly, each named for its fault. Ollama's own placing on a GPU was never recorded: the
shapes are those of a server without a GPU, and the faults follow Ollama's source."""

from __future__ import annotations

from typing import Any

from tests.doubles.ollama_server import Held, OllamaDouble


class SpillingServer(OllamaDouble):
    """Puts a third of the model on the CPU and answers 200, as Ollama does beside a full GPU."""

    spills_left = 1_000

    def load(self, options: dict[str, Any]) -> str | None:
        """Hold the model, in part on the CPU."""
        super().load(options)
        if self.held is not None and self.spills_left > 0:
            self.spills_left -= 1
            self.held = Held(self.held.context, self.held.on_gpu * 2 // 3)
        return None


class OnceSpillingServer(SpillingServer):
    """Spills at its first load only, because another process left the GPU meanwhile."""

    spills_left = 1


class FullGpu(OllamaDouble):
    """Has no room for the requested layers, and answers with Ollama's error."""

    def load(self, options: dict[str, Any]) -> str | None:
        """Hold nothing and return the error."""
        return "llama-server process has terminated: exit status 1 cudaMalloc failed: out of memory"


class ClampingServer(OllamaDouble):
    """Has a model that was trained on a short context, and never gives a longer one."""

    longest = 4096

    def load(self, options: dict[str, Any]) -> str | None:
        """Hold the model with less context than requested."""
        return super().load(options | {"num_ctx": min(int(options["num_ctx"]), self.longest)})


class SlowToUnload(OllamaDouble):
    """Still lists the model in some requests after the command to unload it."""

    looks_left = 0

    def unload(self) -> None:
        """Unload the model after three more listings."""
        self.looks_left = 3

    def listing(self) -> list[dict[str, Any]]:
        """List the model until these listings are used up."""
        if self.looks_left > 0:
            self.looks_left -= 1
            if self.looks_left == 0:
                self.held = None
        return super().listing()


class StickyServer(OllamaDouble):
    """Never unloads a model."""

    def unload(self) -> None:
        """Do nothing."""
