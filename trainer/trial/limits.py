"""The records of a running candidate (moments, peaks, its own reports), and the limits that follow from them.

Promises: the limit of every phase follows from the budget alone. Does not cover enforcing the limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.candidate.protocol import ChannelMessage
from trainer.jobs import Budget, Clock

_LAST_WORDS_S = 5.0
_LATE_S = 1.0
_START_S = 60.0  # of the interpreter and of torch


@dataclass(frozen=True)
class Mark:
    """A moment, in monotonic wall seconds and in processor seconds of the candidate's process tree."""

    wall_s: float
    processor_s: float


@dataclass
class Timeline:
    """The moments of a trial, each set once, and the moment of every answer.

    `saved` is the moment when the weights were written, or `ready` if no weights are asked for.
    """

    launched: Mark
    imported: Mark | None = None
    first_batch: Mark | None = None
    warm: Mark | None = None
    ready: Mark | None = None
    saved: Mark | None = None
    answers: list[Mark] = field(default_factory=list)
    scored: Mark | None = None


@dataclass
class Reported:
    """The messages of the candidate's process about itself. Nothing in them is verified."""

    device: str = ""
    threads: int | None = None
    memory_mib: float = 0.0
    calibration_s: float = 0.0
    steps: int = 0
    tokens: int | None = None
    share: float = 0.0
    verdict: ChannelMessage | None = None


@dataclass
class PeakUsage:
    """The highest values of all samples, and the interruptions of a trial.

    For `stopped_s` seconds a stop signal held a process of the candidate; for `away_s` the supervisor did not run.
    """

    rss_mib: float = 0.0
    processor_s: float = 0.0
    sampled_s: float = 0.0
    stopped_s: float = 0.0
    away_s: float = 0.0

    def sampled(self, now_s: float, processor_s: float, *, stopped: bool) -> None:
        """Record a sample. If a process is stopped now, the time since the last sample counts as stopped."""
        if stopped and self.sampled_s:
            self.stopped_s += now_s - self.sampled_s
        self.sampled_s = now_s
        self.processor_s = max(self.processor_s, processor_s)

    def woke(self, late_s: float) -> None:
        """Record how late the supervisor woke. More than a second is no ordinary delay, so it counts as away."""
        if late_s > _LATE_S:
            self.away_s += late_s


@dataclass(frozen=True)
class Limit:
    """At most `wall_s` seconds since a moment, or no limit while the moment is None. `failure` is shown to users."""

    since: Mark | None
    wall_s: float
    failure: str


def between(clock: Clock, start: Mark, end: Mark, steps: int) -> float:
    """Return how much of a budget passed between two moments, in the unit of the budget's clock."""
    match clock:
        case Clock.WALL:
            return end.wall_s - start.wall_s
        case Clock.PROCESSOR:
            return end.processor_s - start.processor_s
        case Clock.STEPS:
            return float(steps)


def limits(marks: Timeline, budget: Budget, longest: float) -> list[Limit]:
    """Return the limits that apply now, in wall seconds. The timed phase gets at least `longest` seconds."""
    allotted_s = budget.wall_limit_s - budget.setup_s - budget.warmup_cap_s - budget.scoring_s
    imports = marks.imported is None and marks.ready is None
    in_setup = marks.first_batch is None and marks.ready is None
    return [
        Limit(marks.launched if marks.ready is None else None, budget.wall_limit_s, "it did not end"),
        Limit(marks.launched if imports else None, max(_START_S, budget.setup_s), "its modules were not imported"),
        Limit(marks.imported if in_setup else None, budget.setup_s, "its set-up took no first batch"),
        Limit(marks.warm if marks.ready is None else None, max(allotted_s, longest), "it did not end training"),
        Limit(marks.ready if marks.scored is None else None, budget.scoring_s, "it was not scored"),
        Limit(marks.scored, _LAST_WORDS_S, "after its score it did not end"),
    ]
