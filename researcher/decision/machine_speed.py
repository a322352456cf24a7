"""Did the machine change between two trials? Pure: calibrations and trials in, a reason in words or None out.

A trial is out of line when the machine was slower, or faster, than the reference by more than a band, both before it
and after it. The reference is the median of the first trials (the baseline's), or of those since the machine was
found changed for good; the band is 2.5 deviations of the same calibrations, at least 15 %. It is measured again, but
for two cases: its code was measured before and trained as fast as ever, or the machine was faster and it lost.

Measured on two shared cores, never idle: 70 calibrations in nine minutes under a load of 6 falling to 2 lay between
0.081 and 0.130 s, bands between 23 and 44 %, and at most 1 pair of 21 was out of line. Around training under a load of
5 to 6 (9.5 to 12.2 steps a processor second) 1 pair of 7 was; two more busy neighbours (9.3 to 11.5) made it 4 of 8.
In a run whose baseline had busier neighbours than the rest, 13 of 39 trials were out of line by 18 to 33 %; all seven
of them whose code had run before made as many steps as its first trial did, within 13 %.
Does not cover what changes within a trial and back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from researcher.journal.records import Trial
from trainer.jobs import Calibration, Kind, Outcome, TrialResult

REPEATS_LIMIT = 2
REFERENCE_TRIALS = 5
BAND_FLOOR = 0.15
_BAND_DEVIATIONS = 2.5
_DEVIATION_PER_MEDIAN = 1.4826  # of the absolute deviations, for a normal distribution


@dataclass(frozen=True)
class Difference:
    """How far the machine was from the reference, in words, and to which side."""

    words: str
    faster: bool


def machine_differed(speed: Calibration | None, known: Sequence[Calibration]) -> Difference | None:
    """How far the machine was from the reference; None within the band, or where nothing was measured."""
    reference = [side for each in known for side in _sides(each)]
    sides = [] if speed is None else _sides(speed)
    if not reference or not sides:
        return None
    usual_s, allowed = median(reference), band(reference)
    if min(sides) > usual_s * (1 + allowed):
        words = f"the machine was {min(sides) / usual_s - 1:.0%} slower than usual, {allowed:.0%} is allowed"
        return Difference(words, faster=False)
    if max(sides) < usual_s / (1 + allowed):
        words = f"the machine was {usual_s / max(sides) - 1:.0%} faster than usual, {allowed:.0%} is allowed"
        return Difference(words, faster=True)
    return None


def judged_all_the_same(
    trial: Trial, result: TrialResult, difference: Difference, earlier: Sequence[TrialResult]
) -> str | None:
    """Why the difference decided nothing, in words; None where it may have. `earlier` ran the same code."""
    if _as_fast_as(result, earlier):
        return "its code ran as fast as in its other trials"
    if difference.faster and trial.kind is Kind.FIRST and _lost(trial, result):
        return "it lost all the same"
    return None


def _lost(trial: Trial, result: TrialResult) -> bool:
    if result.outcome is Outcome.TIMED_OUT:
        return True
    beaten = trial.score_to_beat
    return result.metric is not None and beaten is not None and result.metric.value >= beaten


def _as_fast_as(result: TrialResult, earlier: Sequence[TrialResult]) -> bool:
    """True when its training made as many steps for its budget as the same code did before, within their band."""
    paces = [pace for each in earlier if (pace := _pace(each)) is not None]
    pace = _pace(result)
    if pace is None or not paces:
        return False
    ratio, allowed = pace / median(paces), band(paces)
    return 1 / (1 + allowed) <= ratio <= 1 + allowed


def _pace(result: TrialResult) -> float | None:
    """Steps a unit of the budget."""
    timed = None if result.timing is None else result.timing.timed
    return result.steps / timed if result.steps and timed else None


def band(measured: Sequence[float]) -> float:
    """The share of their median by which another of the same kind may differ."""
    middle = median(measured)
    spread = median(abs(each - middle) for each in measured) / middle
    return max(BAND_FLOOR, _BAND_DEVIATIONS * _DEVIATION_PER_MEDIAN * spread)


def changed_for_good(trial: Trial) -> bool:
    """True for a trial that was judged although the machine differed to the last of its attempts."""
    return trial.differed > REPEATS_LIMIT


def told(trial: Trial) -> str | None:
    """What the machine did to a trial, for a person; None when it did nothing."""
    if not trial.differed:
        return None
    if changed_for_good(trial):
        return f"judged all the same after {REPEATS_LIMIT} repeats: {trial.machine}"
    return f"measured again ({trial.differed} of at most {REPEATS_LIMIT}): {trial.machine}"


def _sides(speed: Calibration) -> list[float]:
    return [side for side in (speed.before_s, speed.after_s) if side is not None]
