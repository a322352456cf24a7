"""What a result says of a trial's times, its metric and how far that is to be believed. Values in, values out."""

from __future__ import annotations

import math
from dataclasses import replace

from trainer.causality import Finding
from trainer.jobs import Metric, Timing, Trust
from trainer.observation import Mark, Marks
from trainer.scoring import EVALUATOR, Score
from trainer.verdict import printed_agrees

PROBE, REPLICA_PROBE = "rows asked again", "rows asked again, also of a replica"


def timing(wall_s: float, processor_s: float, marks: Marks, timed: float | None) -> Timing:
    """The phases, from the moments that were noted."""
    return Timing(
        wall_s=wall_s,
        processor_s=processor_s,
        start_s=_wall_between(marks.launched, marks.imported),
        setup_s=_wall_between(marks.imported, marks.first_batch),
        warmup_s=_wall_between(marks.first_batch, marks.warm),
        timed=timed,
        timed_wall_s=_wall_between(marks.warm, marks.ready),
        scoring_s=_wall_between(marks.ready, marks.scored),
    )


def metric(score: Score | None) -> Metric | None:
    """As the contract has it."""
    return Metric("val_bpb", score.bpb) if score is not None else None


def trust(
    bpb: float | None, printed_bpb: float | None, finding: Finding | None, replica: Finding | None
) -> Trust | None:
    """None without a score; without a closer look no probe is named."""
    if bpb is None:
        return None
    agrees = printed_agrees(bpb, printed_bpb) if printed_bpb is not None else None
    plain = Trust(evaluator=EVALUATOR, printed_bpb=finite(printed_bpb), printed_agrees=agrees)
    if finding is None:
        return plain
    probe = PROBE if replica is None else REPLICA_PROBE
    return replace(plain, probe=probe, probe_rows=finding.rows, tolerance=finding.tolerance)


def probes(finding: Finding | None, replica: Finding | None) -> dict[str, float]:
    """What the closer look saw: the largest changes of logits, and the smallest share of peeking positions it finds."""
    seen: dict[str, float | None] = {}
    for name, each in (("", finding), ("replica_", replica)):
        if each is not None:
            seen |= {f"{name}noise": finite(each.noise), f"{name}change": finite(each.change)}
    if finding is not None:
        seen["caught_share"] = finding.caught_share
    return {name: value for name, value in seen.items() if value is not None}


def finite(value: float | None) -> float | None:
    """The value, or None where it is no number."""
    return value if value is not None and math.isfinite(value) else None


def _wall_between(start: Mark | None, end: Mark | None) -> float | None:
    return end.wall_s - start.wall_s if start is not None and end is not None else None
