"""The seam between supervision and what a candidate is asked: a candidate's own scoring, and that of its replica."""

from __future__ import annotations

from typing import Protocol

from trainer.candidate.protocol import ChannelMessage


class Examination(Protocol):
    """What is done with a candidate's answers once it asks to be scored."""

    @property
    def share(self) -> float:
        """How far it is, 0..1."""

    @property
    def awaits_weights(self) -> bool:
        """True until the weights are written down, if they are asked for: so long it may train."""

    def begin(self, *, half: bool) -> None:
        """Ask for the first batches."""

    def served(self, message: ChannelMessage) -> bool:
        """Take an answer; True after the last. Raises Unscorable."""

    def close(self) -> None:
        """Release what it holds."""
