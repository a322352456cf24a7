"""Whether a model thinks before it answers, and what a question asks of it: learned from the server, not from names.

`think: false` is safe for a model without thinking, anything else there is refused. Left unset, a model that can think
does. Some cannot stop: those are asked for little, and whatever they think is no answer
(`researcher.prompting.thoughts`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

LEVELS_ONLY = ("gptoss", "gpt-oss")  # families that know a low, medium and high, and take no `false`
COUNTS_CACHED_SINCE = (0, 31)  # 0.30 counted only the tokens of a prompt that it had not read before


class Think(StrEnum):
    """What is asked of a model that can think."""

    OFF = "off"
    ON = "on"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True)
class ModelCapabilities:
    """What a server says of itself and one model. `thinks` is None where it does not say."""

    thinks: bool | None
    family: str
    counts_cached: bool

    @classmethod
    def of(cls, shown: dict[str, Any], version: str) -> ModelCapabilities:
        """From the answers of /api/show and /api/version. Raises TypeError or KeyError for what is not Ollama's."""
        capabilities = shown.get("capabilities")
        numbers = re.match(r"(\d+)\.(\d+)", version)
        return cls(
            thinks=None if capabilities is None else "thinking" in capabilities,
            family=str(shown["details"].get("family", "")),
            counts_cached=numbers is not None and (int(numbers[1]), int(numbers[2])) >= COUNTS_CACHED_SINCE,
        )

    def think(self, wanted: Think) -> bool | str:
        """The field `think` of every question."""
        if self.thinks is False:
            return False
        if self.family in LEVELS_ONLY:
            return {Think.OFF: "low", Think.ON: "medium"}.get(wanted, wanted.value)
        return {Think.OFF: False, Think.ON: True}.get(wanted, wanted.value)
