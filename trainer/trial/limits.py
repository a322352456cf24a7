"""What is noted while a candidate runs, and the limits that follow from it: moments, peaks, claims. Values only.

Promises: the limit of every phase is derived from the budget alone. Does not cover acting on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from trainer.candidate.protocol import ChannelMessage
from trainer.jobs import Budget, Clock

_LAST_WORDS_S = 5.0
_LATE_S = 1.0


@dataclass(frozen=True)
class Mark:
    """A moment, on the wall and in processor seconds of the tree."""

    wall_s: float
    processor_s: float


@dataclass
class Timeline:
    """The moments of a trial, each set once, and the moment of every answer. `saved` is when its weights were written
    down; what is asked for no weights has been so since it was ready."""

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
    """What the candidate's process said of itself in messages."""

    device: str = ""
    threads: int | None = None
    memory_mib: float = 0.0
    calibration_s: float = 0.0
    steps: int = 0
    tokens: int | None = None
    share: float = 0.0
    rehearsed: ChannelMessage | None = None


@dataclass
class PeakUsage:
    """The most that was seen in samples; and how long a process of the candidate was held by a stop signal, and the
    supervisor itself did not run."""

    rss_mib: float = 0.0
    processor_s: float = 0.0
    sampled_s: float = 0.0
    stopped_s: float = 0.0
    away_s: float = 0.0

    def sampled(self, now_s: float, processor_s: float, *, stopped: bool) -> None:
        """Take a sample; a tree in which a process is stopped now counts as stopped since the sample before."""
        if stopped and self.sampled_s:
            self.stopped_s += now_s - self.sampled_s
        self.sampled_s = now_s
        self.processor_s = max(self.processor_s, processor_s)

    def woke(self, late_s: float) -> None:
        """The supervisor woke so much later than it asked for; more than a second is no delay, it was held."""
        if late_s > _LATE_S:
            self.away_s += late_s


@dataclass(frozen=True)
class Limit:
    """No more than `wall_s` since a moment; None while it does not apply. `failure` is what a person reads."""

    since: Mark | None
    wall_s: float
    failure: str


def between(clock: Clock, start: Mark, end: Mark, steps: int) -> float:
    """How much of a budget passed between two moments, in its clock."""
    match clock:
        case Clock.WALL:
            return end.wall_s - start.wall_s
        case Clock.PROCESSOR:
            return end.processor_s - start.processor_s
        case Clock.STEPS:
            return float(steps)


def limits(marks: Timeline, budget: Budget, most_trained: float) -> list[Limit]:
    """What must have happened by when, in wall seconds; `most_trained` is in the budget's clock."""
    allotted_s = budget.wall_limit_s - budget.setup_s - budget.warmup_cap_s - budget.scoring_s
    in_setup = marks.first_batch is None and marks.ready is None
    return [
        Limit(marks.launched if marks.ready is None else None, budget.wall_limit_s, "it did not end"),
        Limit(marks.launched if in_setup else None, budget.setup_s, "it took no first batch"),
        Limit(marks.warm if marks.ready is None else None, max(allotted_s, most_trained), "it did not end training"),
        Limit(marks.ready if marks.scored is None else None, budget.scoring_s, "it was not scored"),
        Limit(marks.scored, _LAST_WORDS_S, "after its score it did not end"),
    ]
