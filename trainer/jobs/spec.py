"""What a trial is: the files, the seed, the budget and the caps under which a trainer runs a candidate.

A spec is complete and immutable: two attempts at one trial differ in nothing but their id. Files travel inside it,
so a trainer needs no repository; `digest` names the work asked for, and a result that names another is not an answer.
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
TRAIN_LIMIT_BYTES = 256 * 1024  # train.py alone; what a candidate adds never pushes a trial over the limit
JUMP_SHARE = 0.03  # a gain beyond this share of the score to beat is hard to believe, and looked at more closely
_TRIAL_ID = re.compile(r"[A-Za-z0-9_-]+-t(\d+)-a\d+")


class Clock(StrEnum):
    """What the budget counts: wall seconds (GPU), processor seconds of the whole tree (CPU), or steps (tests)."""

    WALL = "wall"
    PROCESSOR = "processor"
    STEPS = "steps"


class Kind(StrEnum):
    """Why a trial is run."""

    BASELINE = "baseline"
    FIRST = "first"
    CONFIRM = "confirm"
    DRIFT = "drift"
    MANUAL = "manual"


@dataclass(frozen=True)
class Budget:
    """How long a trial may train and how much of the text scores it.

    The timed phase lasts from the first batch, less at most `warmup_steps` steps and `warmup_cap_s` wall seconds,
    until the candidate asks to be scored. `setup_s` bounds everything before it, `scoring_s` everything after it.
    Rows of the unseen slice are for claims; a budget of none, as of an earlier version, leaves it out.
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

    @property
    def wall_limit_s(self) -> float:
        """Wall seconds after which a trial is ended whatever it does.

        Processor seconds can take many wall seconds on a busy machine, so that clock gets ten times its amount.
        """
        timed_s = {Clock.WALL: 1.2, Clock.PROCESSOR: 10.0, Clock.STEPS: 10.0}[self.clock] * self.amount
        return self.setup_s + self.warmup_cap_s + timed_s + self.scoring_s

    @property
    def replica_limit_s(self) -> float:
        """Wall seconds that a replica may take after that."""
        return self.setup_s + self.scoring_s


@dataclass(frozen=True)
class Caps:
    """What a trial may take of the machine. None means that nothing of ours limits it."""

    memory_mib: int | None
    vram_mib: int | None
    processes: int
    file_mib: int
    log_kib: int

    @property
    def folder_mib(self) -> int:
        """All that the work folder may hold: the largest file twice, since one is replaced by writing the next."""
        return 2 * self.file_mib


@dataclass(frozen=True)
class TrialSpec:
    """One trial. `files` maps names relative to the subject's root to their text; `train.py` is what runs.

    `repeat` counts the measurements of this trial that were set aside, so the next one is other work and has another
    digest. An attempt after one that was lost asks for the same work, whose stored answer serves both.
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

    def __post_init__(self) -> None:
        if not _TRIAL_ID.fullmatch(self.id):
            raise ValueError(f"trial id {self.id!r} is not <experiment>-t<n>-a<attempt>")
        if self.files_sha256 != files_digest(self.files):
            raise ValueError(f"files of trial {self.id} do not match their digest {self.files_sha256[:12]}")
        if "train.py" not in self.files:
            raise ValueError(f"trial {self.id} carries no train.py")
        size = sum(len(text.encode()) for text in self.files.values())
        if size > SOURCE_LIMIT_BYTES:
            raise ValueError(f"trial {self.id} carries {size} bytes of source; the limit is {SOURCE_LIMIT_BYTES}")

    @property
    def is_first_of_its_code(self) -> bool:
        """True for trial 0 of an experiment, whatever the attempt."""
        return self.number == 0

    @property
    def number(self) -> int:
        """Which of its experiment's trials it is, from 0 on."""
        named = _TRIAL_ID.fullmatch(self.id)
        assert named is not None, "checked when the spec was made"
        return int(named[1])

    @property
    def digest(self) -> str:
        """Names the work asked for; the id (and so the attempt) is not part of it."""
        work = {name: value for name, value in self.to_json().items() if name != "id"}
        return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for the RQ job."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrialSpec:
        """Raises ValueError (pydantic's ValidationError is one) naming each field that does not fit."""
        return _ADAPTER.validate_python(values)


def trial_id(run: str, experiment: int, number: int, attempt: int) -> str:
    """The RQ job id of one attempt; letters, digits, `_` and `-` only, as RQ demands."""
    return f"{run}-{experiment}-t{number}-a{attempt}"


def files_digest(files: dict[str, str]) -> str:
    """sha256 over names and texts, in the order of the names."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


_ADAPTER = TypeAdapter(TrialSpec)
