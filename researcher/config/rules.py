"""The rules between settings: which settings need each other, and which exclude each other. Pure functions.

Values are those that are set, by key, as text or as `researcher.config.settings` reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from researcher.config.setting import SettingFault
from researcher.llm.backends import DEFAULT_BACKEND, LlmBackend, backend_named
from researcher.proposers.schedule import Mix

ESCALATION_NEEDS = ("ESCALATE_MODEL", "ESCALATE_PRICE_IN", "ESCALATE_PRICE_OUT", "ESCALATE_MAX_COST")
_ENDPOINT_NEEDS = {"OPENAI_BASE_URL": "https://llm.example/v1", "MODEL": "the model as the endpoint names it"}
_PRICES = ("OPENAI_PRICE_IN", "OPENAI_PRICE_OUT")


class Disagreement(ValueError):
    """Settings that are valid one by one but not together."""

    def __init__(self, faults: tuple[SettingFault, ...]) -> None:
        super().__init__(". ".join(map(str, faults)))
        self.faults = faults


def asks_llm(values: Mapping[str, object]) -> bool:
    """Return True if an LLM takes turns. Raises BadValue for an LLM that is not in the table of backends."""
    return _backend(values).asks_llm and _proposer(values).asks_llm


def conflicts(values: Mapping[str, object]) -> Iterator[SettingFault]:
    """Yield a fault for each broken rule. Each value must be valid by itself."""
    backend, proposer = _backend(values), _proposer(values)
    if "MAX_COST" in values and "PRICE_PER_HOUR" not in values:
        yield SettingFault(
            "MAX_COST", "MAX_COST needs a price to count with", "set PRICE_PER_HOUR, or HOURS instead of it"
        )
    if proposer is Mix.LLM and not backend.asks_llm:
        found = f"with LLM={backend.name} nobody can propose for PROPOSER={proposer}"
        yield SettingFault("PROPOSER", found, f"set PROPOSER=optimizer, or LLM={DEFAULT_BACKEND}")
    if backend.is_endpoint:
        for key, example in _ENDPOINT_NEEDS.items():
            if key not in values:
                yield SettingFault(key, f"LLM={backend.name} needs {key}", f"set it, for example to {example}")
        if len([key for key in _PRICES if key in values]) == 1:
            yield SettingFault(
                _PRICES[0], "one price of the endpoint is set without the other", f"set {' and '.join(_PRICES)}"
            )
    if "ESCALATE_BASE_URL" in values:
        lacking = [key for key in ESCALATION_NEEDS if key not in values]
        if lacking:
            found = f"ESCALATE_BASE_URL needs {', '.join(lacking)} as well"
            yield SettingFault("ESCALATE_BASE_URL", found, "set them, or leave it empty")
        if not proposer.asks_llm:
            found = f"with PROPOSER={proposer} no LLM is asked, and ESCALATE_BASE_URL names one"
            yield SettingFault("ESCALATE_BASE_URL", found, "set PROPOSER=hybrid, or leave it empty")


def _backend(values: Mapping[str, object]) -> LlmBackend:
    return backend_named(str(values.get("LLM") or DEFAULT_BACKEND))


def _proposer(values: Mapping[str, object]) -> Mix:
    return Mix(str(values.get("PROPOSER") or Mix.HYBRID))
