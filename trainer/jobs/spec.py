"""The spec of a trial: the files, the seed, the budget and the caps with which a trainer runs a candidate.

A spec is complete and immutable, and two attempts at one trial differ only in their id. It contains the files, so a
trainer needs no repository. `digest` names the work, and a result with another digest does not answer the spec.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

SOURCE_LIMIT_BYTES = 512 * 1024  # all files of a trial
TRAIN_LIMIT_BYTES = 256 * 1024  # train.py alone, so that a candidate's additions cannot exceed the limit of a trial
JUMP_SHARE = 0.03  # a gain beyond this share of the score to beat is examined more closely
_TRIAL_ID = re.compile(r"[A-Za-z0-9_-]+-t(\d+)-a\d+")


class Clock(StrEnum):
    """The unit of a budget: wall seconds (GPU), processor seconds of the whole tree (CPU), or steps (tests)."""

    WALL = "wall"
    PROCESSOR = "processor"
    STEPS = "steps"


class Kind(StrEnum):
    """The purpose of a trial."""

    BASELINE = "baseline"
    FIRST = "first"
    CONFIRM = "confirm"
    DRIFT = "drift"
    MANUAL = "manual"


@dataclass(frozen=True)
class Budget:
    """The training time of a trial and the number of rows that score it.

    The warm-up begins with the first batch and lasts `warmup_steps` steps or `warmup_cap_s` wall seconds, whichever
    ends first. Then the timed phase lasts until the candidate asks for its score. `setup_s` limits the time before the
    first batch, `scoring_s` the time after the timed phase, both in wall seconds. Set-up counts as training beyond
    `free_setup`, in `setup_clock`; None is a share of the amount, and the clock of the amount. Rows of the unseen slice
    are for claims; budgets of earlier versions have none.
    """

    amount: float
    clock: Clock
    warmup_steps: int
    warmup_cap_s: float
    setup_s: float
    scoring_s: float
    eval_rows: int
    heldout_rows: int
    unseen_rows: int = 0
    setup_clock: Clock | None = None
    free_setup: float | None = None

    @property
    def clock_of_setup(self) -> Clock:
        """The clock of the time before the first batch."""
        return self.setup_clock or self.clock

    @property
    def wall_limit_s(self) -> float:
        """The wall seconds after which a trial is ended in any case.

        On a busy machine, processor seconds take many wall seconds, so that clock gets ten times its amount.
        """
        timed_s = {Clock.WALL: 1.2, Clock.PROCESSOR: 10.0, Clock.STEPS: 10.0}[self.clock] * self.amount
        return self.setup_s + self.warmup_cap_s + timed_s + self.scoring_s

    @property
    def replica_limit_s(self) -> float:
        """The additional wall seconds of a replica."""
        return self.setup_s + self.scoring_s


@dataclass(frozen=True)
class Caps:
    """The limits of a trial. None means no limit."""

    memory_mib: int | None
    vram_mib: int | None
    processes: int
    file_mib: int
    log_kib: int

    @property
    def folder_mib(self) -> int:
        """The limit of the work folder: the largest file twice, since a script may write a new file before removing
        the old one.
        """
        return 2 * self.file_mib


@dataclass(frozen=True)
class TrialSpec:
    """One trial. `files` maps names relative to the subject's root to their text; `train.py` is run.

    `repeat` counts the measurements of this trial that were set aside, so that the next one has another digest. An
    attempt after a lost one has the same digest, so a stored result answers both. Later trials start with the compiled
    code of a trial that `shares_compiled`: the first one of a baseline whose script no model wrote.
    """

    id: str
    kind: Kind
    profile: str
    files: dict[str, str]
    files_sha256: str
    data_sha256: str
    seed: int
    budget: Budget
    caps: Caps
    score_to_beat: float | None = None
    repeat: int = 0
    shares_compiled: bool = False

    def __post_init__(self) -> None:
        if not _TRIAL_ID.fullmatch(self.id):
            raise ValueError(f"trial id {self.id!r} is not <experiment>-t<n>-a<attempt>")
        if self.files_sha256 != files_digest(self.files):
            raise ValueError(f"files of trial {self.id} do not match their digest {self.files_sha256[:12]}")
        if self.shares_compiled and not (self.kind is Kind.BASELINE and self.is_first_of_its_code):
            raise ValueError(f"trial {self.id} is not the baseline's first, so it must not share its compiled code")
        require_source(self.files, f"trial {self.id}")

    @property
    def is_first_of_its_code(self) -> bool:
        """True for trial 0 of an experiment, at any attempt."""
        return self.number == 0

    @property
    def number(self) -> int:
        """The number of the trial within its experiment, from 0 on."""
        named = _TRIAL_ID.fullmatch(self.id)
        assert named is not None, "checked when the spec was made"
        return int(named[1])

    @property
    def digest(self) -> str:
        """The name of the work: a hash of all fields but the id, which contains the attempt, and `shares_compiled`."""
        work = {name: value for name, value in self.to_json().items() if name not in ("id", "shares_compiled")}
        return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for the RQ job."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrialSpec:
        """Parse plain JSON values. Raise ValueError (pydantic's ValidationError) that names each invalid field."""
        return _ADAPTER.validate_python(values)


def trial_id(run: str, experiment: int, number: int, attempt: int) -> str:
    """Return the RQ job id of one attempt. RQ allows only letters, digits, `_` and `-`."""
    return f"{run}-{experiment}-t{number}-a{attempt}"


def require_source(files: dict[str, str], carrier: str) -> None:
    """Raise ValueError, which names the carrier, for files without a train.py or beyond SOURCE_LIMIT_BYTES."""
    if "train.py" not in files:
        raise ValueError(f"{carrier} carries no train.py")
    size = sum(len(text.encode()) for text in files.values())
    if size > SOURCE_LIMIT_BYTES:
        raise ValueError(f"{carrier} carries {size} bytes of source; the limit is {SOURCE_LIMIT_BYTES}")


def files_digest(files: dict[str, str]) -> str:
    """Return the sha256 of all names and texts, in the order of the names."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


_ADAPTER = TypeAdapter(TrialSpec)
