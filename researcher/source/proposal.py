"""Proposals and candidates: what a proposer offers, and the source it becomes.

A proposal is complete when it is made; a candidate exists only after `researcher.source.validation` let it pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

KnobValue = int | float | str
KnobLiteral = bool | KnobValue | tuple[bool | KnobValue, ...]  # `bool` by name, or JSON makes a number of it


class EditFormat(StrEnum):
    """The forms in which a model can write an edit, and the names of the prompt files that explain them."""

    SET = "set"
    FUNCTION = "function"
    SEARCH = "search"
    FILE = "file"


class AnswerStage(StrEnum):
    """Where an answer fails before it becomes a candidate."""

    PARSE = "parse"
    APPLY = "apply"
    VALIDATE = "validate"


class ProposerName(StrEnum):
    """The names of proposers that other modules speak of; a proposal may name one that stands in its module alone."""

    LLM = "llm"
    ADVISER = "adviser"  # an LLM that moves knobs, shown what the optimiser would do
    OPTIMIZER = "optimizer"
    RANDOM = "random"  # uniform draws of knobs, to compare with
    HUMAN = "human"


@dataclass(frozen=True)
class SetKnobs:
    """Assign knobs of train.py."""

    knobs: Mapping[str, KnobLiteral]


@dataclass(frozen=True)
class ReplaceFunction:
    """Replace the function, class or method `name` (`Model.forward`); None for the only one of the new one's name."""

    name: str | None
    definition: str


@dataclass(frozen=True)
class SearchReplace:
    """Replace the one place where `search` stands."""

    search: str
    replace: str


@dataclass(frozen=True)
class WholeFile:
    """A new train.py."""

    text: str


Edit = SetKnobs | ReplaceFunction | SearchReplace | WholeFile


_LANES: dict[type[Edit], EditFormat] = {
    SetKnobs: EditFormat.SET,
    ReplaceFunction: EditFormat.FUNCTION,
    SearchReplace: EditFormat.SEARCH,
    WholeFile: EditFormat.FILE,
}


def formats_of(edits: Iterable[Edit]) -> tuple[EditFormat, ...]:
    """The lanes that edits were written in, each once."""
    return tuple(dict.fromkeys(_LANES[type(edit)] for edit in edits))


@dataclass(frozen=True)
class Attempt:
    """One answer on the way to a proposal: the lanes it tried, and where it failed, if it did."""

    lanes: tuple[EditFormat, ...]
    failed: AnswerStage | None = None


@dataclass(frozen=True)
class LlmCost:
    """What asking cost, over all calls for one proposal. None where the server did not say, or bills nothing."""

    endpoint: str
    model: str
    calls: int
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    money: float | None = None


@dataclass(frozen=True)
class Proposal:
    """One idea: `title` names it in a line, `hypothesis` says why it should help.

    `attempts` are all answers of a model to the question it came from; an older journal has none.
    """

    proposer: str
    title: str
    hypothesis: str
    edits: tuple[Edit, ...]
    cost: LlmCost | None = None
    request: str | None = None
    attempts: tuple[Attempt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the journal."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Proposal:
        """Raises ValueError naming each field that does not fit."""
        return _ADAPTER.validate_python(values)


@dataclass(frozen=True)
class Candidate:
    """The subject's train.py after the edits.

    `fingerprint` is the hash of its normalised syntax tree: layout and comments do not count. `change` is that of the
    statements that differ from the incumbent's, the same wherever the same edit is made. `added_lines` is the net
    growth in lines of code over the incumbent, negative when the code got shorter.
    """

    source: str
    fingerprint: str
    change: str
    added_lines: int


_ADAPTER = TypeAdapter(Proposal)
