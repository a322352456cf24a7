"""The result of a trial. A number that was not measured is None, never 0.

The trainer reports an `outcome`; the researcher takes the `decision`. The trainer computes the score from logits. A
score that the candidate prints is only compared with it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from pydantic import AliasPath, TypeAdapter
from pydantic_core import PydanticUndefined

LOSS_POINTS = 200
LOG_TAIL_CHARACTERS = 8_000


class Outcome(StrEnum):
    """The end of a trial; or without a trial, `rejected` for a refused proposal, `unanswered` for a question to an LLM.

    A server that gave no answer is the cause of `unanswered`, and neither the LLM nor its proposal.
    """

    OK = "ok"
    CRASHED = "crashed"
    OUT_OF_MEMORY = "out_of_memory"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"
    UNANSWERED = "unanswered"
    UNSCORABLE = "unscorable"
    PREEMPTED = "preempted"
    LOST = "lost"

    @property
    def text(self) -> str:
        """The outcome as text for users."""
        return self.value.replace("_", " ")

    @property
    def is_without_trial(self) -> bool:
        """True if nothing was committed and measured."""
        return self in (Outcome.REJECTED, Outcome.UNANSWERED)

    @property
    def is_infrastructure(self) -> bool:
        """True for an infrastructure failure. The trial gets another attempt."""
        return self in (Outcome.PREEMPTED, Outcome.LOST)

    @property
    def is_failure(self) -> bool:
        """True if the candidate ran and failed. Three in a row start an incumbent confirmation."""
        return self in (Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.TIMED_OUT)


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """The measured numbers of a trial. The journal holds each in a column of the same name; None means not measured.

    `val_bpb` is the score, of which lower is better, also where the run has another metric. `heldout_bpb` and
    `unseen_bpb` are None if the trial did not beat its `score_to_beat`. No prompt may contain either, and only claims
    use `unseen_bpb`.
    """

    val_bpb: float | None = None
    heldout_bpb: float | None = None
    unseen_bpb: float | None = None
    wall_s: float | None = None
    memory_mib: float | None = None  # peak: of the GPU where there is one, else of the process tree
    before_s: float | None = None  # seconds of one fixed piece of work, just before the trial
    after_s: float | None = None  # the same, just after it


@dataclass(frozen=True)
class Timing:
    """The times of a trial's phases. `timed` is in the unit of the budget's clock, `setup` in that of its set-up."""

    processor_s: float
    start_s: float | None = None
    setup_s: float | None = None
    warmup_s: float | None = None
    timed: float | None = None
    timed_wall_s: float | None = None
    scoring_s: float | None = None
    setup: float | None = None


@dataclass(frozen=True)
class Calibration:
    """The seconds of a fixed benchmark just before and after a trial, or None where it did not run."""

    before_s: float | None
    after_s: float | None


@dataclass(frozen=True)
class LossPoint:
    """A training loss that the candidate printed. No decision uses it. `progress` is 0..1 of the budget."""

    step: int
    progress: float
    loss: float


@dataclass(frozen=True)
class Trust:
    """The evidence for a metric: the version of its evaluator, the printed score, and the passed probe."""

    evaluator: str
    printed_bpb: float | None = None
    printed_agrees: bool | None = None
    probe: str | None = None
    probe_rows: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Device:
    """The device of a trial. `kind` is cuda or cpu."""

    name: str
    kind: str
    memory_mib: int | None
    torch: str | None
    driver: str | None
    threads: int | None


@dataclass(frozen=True)
class GpuUse:
    """The use of a trial's GPU, by the trial and by others, as its lease and the driver show it.

    `llm_overlap_s` are the seconds of the timed phase in which the LLM answered, or in which the lease was lost.
    `foreign` names other processes of that phase. `peak_mib` is the growth of the used memory up to the scoring.
    `clock_mhz` is the median and `temperature_c` the maximum of the timed phase, and `throttled` are its reasons for
    lower clocks.
    """

    llm_overlap_s: float = 0.0
    foreign: str | None = None
    peak_mib: int | None = None
    clock_mhz: float | None = None
    temperature_c: int | None = None
    throttled: tuple[str, ...] = ()

    @property
    def disturbance(self) -> str | None:
        """The reason why the trial trained less than others may have, as text, or None."""
        if self.llm_overlap_s > 0:
            return f"the LLM may have used the GPU for {self.llm_overlap_s:.1f} s of its training"
        return None if self.foreign is None else f"during its training {self.foreign}"


@dataclass(frozen=True)
class TrialLog:
    """The kept log: its path below the trainer's results folder, and the end of its text."""

    path: str
    seen_bytes: int
    kept_bytes: int
    tail: str


@dataclass(frozen=True)
class TrialResult(Measurements):
    """The result of one attempt. `spec_digest` names the work that it answers; `reason` is one sentence for users.

    `disturbed` names a possible cause outside the candidate, such as a signal that the trainer did not send. The
    candidate may have caused it itself, so the researcher measures once more and accepts the second result.
    """

    id: str
    spec_digest: str
    outcome: Outcome
    reason: str
    started_at: float
    finished_at: float
    timing: Timing | None = None
    trust: Trust | None = None
    steps: int | None = None
    tokens: int | None = None
    tokens_per_s: float | None = None
    load: float | None = None
    params_m: float | None = None
    exit_code: int | None = None
    loss_curve: tuple[LossPoint, ...] = ()
    layers: tuple[str, ...] = ()
    probes: dict[str, float] = field(default_factory=dict)
    device: Device | None = None
    gpu_use: GpuUse | None = None
    worker: str | None = None
    log: TrialLog | None = None
    disturbed: str | None = None

    def __post_init__(self) -> None:
        if (self.val_bpb is not None) != (self.outcome is Outcome.OK):
            raise ValueError(f"trial {self.id} is {self.outcome} but its score is {self.val_bpb}")

    @property
    def calibration(self) -> Calibration:
        """The speed of the machine before and after the trial."""
        return Calibration(self.before_s, self.after_s)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values for the result of the RQ job."""
        return dict(_ADAPTER.dump_python(self, mode="json"))

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TrialResult:
        """Parse plain JSON values. Raise ValueError (pydantic's ValidationError) that names each invalid field."""
        return _ADAPTER.validate_python(_upgraded(values))


_ADAPTER = TypeAdapter(TrialResult)
# Where results of earlier versions hold their measurements. Journals and trainers' disks keep such results.
_EARLIER = {
    "val_bpb": AliasPath("metric", "value"),
    "heldout_bpb": AliasPath("heldout", "value"),
    "unseen_bpb": AliasPath("unseen", "value"),
    "wall_s": AliasPath("timing", "wall_s"),
    "before_s": AliasPath("calibration", "before_s"),
    "after_s": AliasPath("calibration", "after_s"),
}


def _upgraded(values: Any) -> Any:
    """Return the values of a result with the measurements of an earlier version under today's names."""
    if not isinstance(values, dict) or "metric" not in values:
        return values
    found = {name: path.search_dict_for_path(values) for name, path in _EARLIER.items()}
    known = {name: value for name, value in found.items() if value is not PydanticUndefined}
    return values | known | {"memory_mib": values.get("peak_vram_mib") or values.get("peak_memory_mib")}
