"""What a result says of a trial's times, its scores and how far that is to be believed. Values in, values out."""

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
    """The phases, from the moments that were noted."""
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
    """None without a score; without a closer look no probe is named."""
    if bpb is None:
        return None
    agrees = printed_agrees(bpb, printed_bpb) if printed_bpb is not None else None
    plain = Trust(evaluator=EVALUATOR, printed_bpb=finite(printed_bpb), printed_agrees=agrees)
    if finding is None:
        return plain
    return replace(plain, probe=PROBE, probe_rows=finding.rows, tolerance=finding.tolerance)


def probes(finding: CausalityFinding | None) -> dict[str, float]:
    """What the closer look saw, in nats: the largest differences of a loss, the mean gain of a token from its future,
    its standard error, and the smallest such gain that is found 99 times in 100."""
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
    """The value, or None where it is no number."""
    return value if value is not None and math.isfinite(value) else None


def _wall_between(start: Mark | None, end: Mark | None) -> float | None:
    return end.wall_s - start.wall_s if start is not None and end is not None else None
