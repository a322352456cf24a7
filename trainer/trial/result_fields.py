"""Fields of a trial's result: its times, its scores, and how far they were examined. Pure functions of values."""

from __future__ import annotations

import math
from dataclasses import replace

from trainer.jobs import Timing, Trust
from trainer.scoring.causality import CausalityFinding
from trainer.scoring.score import EVALUATOR, Score
from trainer.trial.limits import Mark, Timeline
from trainer.trial.outcome import printed_agrees

PROBE = "rows asked again of a fresh process"


def timing(processor_s: float, marks: Timeline, timed: float | None) -> Timing:
    """Return the lengths of a trial's phases, from their recorded moments."""
    return Timing(
        processor_s=processor_s,
        start_s=_wall_between(marks.launched, marks.imported),
        setup_s=_wall_between(marks.imported, marks.first_batch),
        warmup_s=_wall_between(marks.first_batch, marks.warm),
        timed=timed,
        timed_wall_s=_wall_between(marks.warm, marks.ready),
        scoring_s=_wall_between(marks.ready, marks.scored),
    )


def bpb(score: Score | None) -> float | None:
    """Return a score in bits per byte, or None if nothing was scored."""
    return score.bpb if score is not None else None


def trust(bpb: float | None, printed_bpb: float | None, finding: CausalityFinding | None) -> Trust | None:
    """Return how far a score was examined, or None without a score. Without a replica's finding no probe is named."""
    if bpb is None:
        return None
    agrees = printed_agrees(bpb, printed_bpb) if printed_bpb is not None else None
    plain = Trust(evaluator=EVALUATOR, printed_bpb=finite(printed_bpb), printed_agrees=agrees)
    if finding is None:
        return plain
    return replace(plain, probe=PROBE, probe_rows=finding.rows, tolerance=finding.tolerance)


def probes(finding: CausalityFinding | None) -> dict[str, float]:
    """Return the finite numbers of a replica's finding, in nats.

    `noise` and `change` are the largest differences of a loss, `profit` is a token's mean gain from the text after it,
    `profit_error` its standard error, and `smallest_caught` the smallest such gain that is detected 99 times in 100.
    """
    if finding is None:
        return {}
    seen = {
        "noise": finding.noise,
        "change": finding.change,
        "profit": finding.profit,
        "profit_error": finding.profit_error,
        "smallest_caught": finding.smallest_caught,
    }
    return {name: value for name, value in seen.items() if math.isfinite(value)}


def finite(value: float | None) -> float | None:
    """Return the value, or None if it is not a finite number."""
    return value if value is not None and math.isfinite(value) else None


def _wall_between(start: Mark | None, end: Mark | None) -> float | None:
    return end.wall_s - start.wall_s if start is not None and end is not None else None
