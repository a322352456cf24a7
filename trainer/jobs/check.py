"""What a check is: would this train.py make its model and take a first step? Asked before it costs a trial.

A check's id names its work, so that the same question is one job however often it is asked. Its answer may be that
nothing can be told; only `FAILS` speaks against a candidate, and only where the incumbent's own check does not say so.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from trainer.jobs.spec import SOURCE_LIMIT_BYTES

CHECKS = "checks"
RUN_CHECK = "run_check"
_ID_CHARACTERS = 32


class DryRunVerdict(StrEnum):
    """What a check found. `UNKNOWN` is every doubt."""

    PASSES = "passes"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class CheckSpec:
    """One check. `files` as in a trial's spec; `cap_mib` is what its weights and gradients must fit into, None where
    nothing of ours limits it."""

    profile: str
    files: dict[str, str]
    cap_mib: int | None = None

    def __post_init__(self) -> None:
        if "train.py" not in self.files:
            raise ValueError("a check carries no train.py")
        size = sum(len(text.encode()) for text in self.files.values())
        if size > SOURCE_LIMIT_BYTES:
            raise ValueError(f"a check carries {size} bytes of source; the limit is {SOURCE_LIMIT_BYTES}")

    @property
    def id(self) -> str:
        """The RQ job id: a digest of the work."""
        work = json.dumps(self.to_json(), sort_keys=True)
        return f"check-{hashlib.sha256(work.encode()).hexdigest()[:_ID_CHARACTERS]}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the RQ job."""
        return dict(_SPEC.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CheckSpec:
        """Raises ValueError (pydantic's ValidationError is one) naming each field that does not fit."""
        return _SPEC.validate_python(values)


@dataclass(frozen=True)
class CheckResult:
    """The answer. `reason` is one line for a person and for an LLM, with `line` of train.py where there is one;
    `parameters` counts the model's, None where no model was seen."""

    id: str
    verdict: DryRunVerdict
    reason: str
    line: int | None
    parameters: int | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, as the RQ job's return value."""
        return dict(_RESULT.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> CheckResult:
        """Raises ValueError (pydantic's ValidationError is one) naming each field that does not fit."""
        return _RESULT.validate_python(values)


_SPEC = TypeAdapter(CheckSpec)
_RESULT = TypeAdapter(CheckResult)
