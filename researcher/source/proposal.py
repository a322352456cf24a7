"""Proposals and candidates: a proposer's idea with its edits, and the source that results from it.

A proposal is complete when it is created. A candidate exists only after `researcher.source.validation` has accepted it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import AliasChoices, Field, TypeAdapter

KnobValue = int | float | str
KnobLiteral = bool | KnobValue | tuple[bool | KnobValue, ...]  # without `bool`, JSON would give a number


class EditFormat(StrEnum):
    """The edit formats, which are also the names of the prompt files that explain them.

    A question in the format `JSON` asks for a change of knobs in a schema, and for nothing else.
    """

    SET = "set"
    FUNCTION = "function"
    SEARCH = "search"
    FILE = "file"
    JSON = "json"


FREE_FORMATS = tuple(edit_format for edit_format in EditFormat if edit_format is not EditFormat.JSON)


class AnswerStage(StrEnum):
    """The stage at which an answer fails before it becomes a candidate."""

    PARSE = "parse"
    APPLY = "apply"
    VALIDATE = "validate"


class ProposerName(StrEnum):
    """The names of proposers that several modules use. Other names may exist in single modules."""

    LLM = "llm"
    ADVISER = "adviser"  # an LLM that moves knobs and sees the optimiser's own choice
    OPTIMIZER = "optimizer"
    RANDOM = "random"  # uniform draws of knobs, as a comparison
    HUMAN = "human"


@dataclass(frozen=True)
class SetKnobs:
    """Assign values to knobs of train.py."""

    knobs: Mapping[str, KnobLiteral]


@dataclass(frozen=True)
class ReplaceFunction:
    """Replace the function, class or method `name` (`Model.forward`).

    If `name` is None, replace the only definition with the new one's own name.
    """

    name: str | None
    definition: str


@dataclass(frozen=True)
class SearchReplace:
    """Replace the only place that matches `search`."""

    search: str
    replace: str


@dataclass(frozen=True)
class WholeFile:
    """Replace the whole train.py."""

    text: str


Edit = SetKnobs | ReplaceFunction | SearchReplace | WholeFile


_FORMATS: dict[type[Edit], EditFormat] = {
    SetKnobs: EditFormat.SET,
    ReplaceFunction: EditFormat.FUNCTION,
    SearchReplace: EditFormat.SEARCH,
    WholeFile: EditFormat.FILE,
}


def formats_of(edits: Iterable[Edit]) -> tuple[EditFormat, ...]:
    """Return the edit formats of edits, each once."""
    return tuple(dict.fromkeys(_FORMATS[type(edit)] for edit in edits))


@dataclass(frozen=True)
class Attempt:
    """One answer for a proposal: its edit formats, and the stage at which it failed, or None.

    The formats are those in which it was begun. An answer without any counts for all formats that it was offered.
    """

    edit_formats: Annotated[tuple[EditFormat, ...], Field(validation_alias=AliasChoices("edit_formats", "lanes"))]
    failed: AnswerStage | None = None


@dataclass(frozen=True)
class LlmCost:
    """The cost of all calls for one proposal.

    Counts are None if the server did not report them, money if nothing is billed.
    """

    endpoint: str
    model: str
    calls: int
    prompt_tokens: int | None
    answer_tokens: int | None
    seconds: float
    money: float | None = None


@dataclass(frozen=True)
class Proposal:
    """One idea: `title` names it in a line, `hypothesis` is the reason why it should help.

    `attempts` are all answers of the model for this proposal; an older journal has none.
    """

    proposer: str
    title: str
    hypothesis: str
    edits: tuple[Edit, ...]
    cost: LlmCost | None = None
    request: str | None = None
    attempts: tuple[Attempt, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for the journal."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Proposal:
        """Parse JSON values. Raises ValueError that names each invalid field."""
        return _ADAPTER.validate_python(values)


@dataclass(frozen=True)
class Candidate:
    """The subject's train.py after the edits.

    `fingerprint` is the hash of its normalised syntax tree, without layout and comments. `change` is the hash of the
    statements that differ from the incumbent's; the same edit to another incumbent has the same hash. `added_lines` is
    the net growth in lines of code over the incumbent, negative if the code got shorter.
    """

    source: str
    fingerprint: str
    change: str
    added_lines: int


_ADAPTER = TypeAdapter(Proposal)
