"""Spec and result of a dry run, which tests before a trial whether a train.py builds its model and takes a first step.

The id of a dry run is a digest of its content, so asking again does not add a job. Only the verdict `FAILS` counts
against a candidate, and only if the incumbent's own dry run does not fail, too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from trainer.jobs.spec import require_source

DRY_RUNS = "dry-runs"
RUN_DRY_RUN = "run_dry_run"
_ID_CHARACTERS = 32


class DryRunVerdict(StrEnum):
    """The verdict of a dry run. Every doubt is `UNKNOWN`."""

    PASSES = "passes"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class DryRunSpec:
    """One dry run. `files` are as in a trial's spec. Weights and gradients must fit into `cap_mib`, if not None."""

    profile: str
    files: dict[str, str]
    cap_mib: int | None = None

    def __post_init__(self) -> None:
        require_source(self.files, "a dry run")

    @property
    def id(self) -> str:
        """The id of the RQ job, a digest of all fields."""
        work = json.dumps(self.to_json(), sort_keys=True)
        return f"dry-run-{hashlib.sha256(work.encode()).hexdigest()[:_ID_CHARACTERS]}"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for the RQ job."""
        return dict(_SPEC.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DryRunSpec:
        """Parse plain JSON values. Raise ValueError (pydantic's ValidationError) that names each invalid field."""
        return _SPEC.validate_python(values)


@dataclass(frozen=True)
class DryRunResult:
    """The result of a dry run. `reason` is one line for users and for an LLM; `line` is a line of train.py or None.

    `parameters` is the number of the model's parameters, or None without a model.
    """

    id: str
    verdict: DryRunVerdict
    reason: str
    line: int | None
    parameters: int | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for the return value of the RQ job."""
        return dict(_RESULT.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> DryRunResult:
        """Parse plain JSON values. Raise ValueError (pydantic's ValidationError) that names each invalid field."""
        return _RESULT.validate_python(values)


_SPEC = TypeAdapter(DryRunSpec)
_RESULT = TypeAdapter(DryRunResult)
