"""The interface between supervision and an examination: a candidate's scoring, or the questions to its replica."""

from __future__ import annotations

from typing import Protocol

from trainer.candidate.protocol import ChannelMessage


class Examination(Protocol):
    """Asks a candidate questions after it has asked for its score, and takes the answers."""

    @property
    def share(self) -> float:
        """The progress, 0..1."""

    @property
    def awaits_weights(self) -> bool:
        """True until the weights are written, if they are asked for. Until then the candidate may still train."""

    def begin(self, *, half: bool) -> None:
        """Ask the first questions. `half` asks for logits in half precision."""

    def served(self, message: ChannelMessage) -> bool:
        """Take an answer, and return True after the last one. Raise Unscorable."""

    def close(self) -> None:
        """Release the resources of the examination."""
