"""Detects whether the machine's speed changed between two trials. Pure functions of calibrations and trials.

A trial is out of line if the machine was slower, or faster, than the reference by more than a band, both before and
after the trial. The reference is the median of the first trials (the baseline's), or of the trials since the machine
changed permanently. The band is 2.5 standard deviations of the same calibrations, and at least 15 %. A trial that is
out of line is measured again, with two exceptions: the same code trained at its usual speed, or the candidate lost
although the machine was faster.

Measured on two shared cores that were never idle: 70 calibrations in nine minutes, under a load falling from 6 to 2,
took between 0.081 and 0.130 s. The bands were between 23 and 44 %, and at most 1 pair of 21 was out of line. Around
training under a load of 5 to 6 (9.5 to 12.2 steps in a processor second), 1 pair of 7 was out of line; with two more
busy neighbours (9.3 to 11.5 steps), 4 of 8. In a run whose baseline had busier neighbours than its other trials, 13 of
39 trials were out of line, by 18 to 33 %. All seven of these trials whose code had run before made as many steps as
their first trial, within 13 %.

Not covered: a change that begins and ends within one trial.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from researcher.journal.records import Trial
from trainer.jobs import Calibration, GpuUse, Kind, Outcome, TrialResult

REPEATS_LIMIT = 2
REFERENCE_TRIALS = 5
BAND_FLOOR = 0.15
_BAND_DEVIATIONS = 2.5
_DEVIATION_PER_MEDIAN = 1.4826  # standard deviation / median absolute deviation of a normal distribution


@dataclass(frozen=True)
class Difference:
    """The difference between the machine's speed and the reference, as text, and its direction."""

    words: str
    faster: bool


def machine_differed(speed: Calibration, known: Sequence[Calibration]) -> Difference | None:
    """Compare the machine's speed with the reference. Return None within the band, or if a calibration is missing."""
    reference = [side for each in known for side in _sides(each)]
    sides = _sides(speed)
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


def clock_differed(use: GpuUse, known_mhz: Sequence[float]) -> Difference | None:
    """Compare the GPU's clock in the timed phase with that of the reference. Return None within the band.

    A GPU is calibrated before training only, and heat lowers its clock later.
    """
    if use.clock_mhz is None or not known_mhz:
        return None
    usual_mhz, allowed = median(known_mhz), band(known_mhz)
    if usual_mhz / (1 + allowed) <= use.clock_mhz <= usual_mhz * (1 + allowed):
        return None
    why = f" ({', '.join(use.throttled)})" if use.throttled else ""
    words = f"the GPU's clock was {use.clock_mhz:.0f} MHz{why}, usual are {usual_mhz:.0f}, {allowed:.0%} is allowed"
    return Difference(words, faster=use.clock_mhz > usual_mhz)


def judged_all_the_same(
    trial: Trial, result: TrialResult, difference: Difference, earlier: Sequence[TrialResult]
) -> str | None:
    """Return the reason why the difference decided nothing, as text, or None if it may have decided the trial.

    `earlier` are results of the same code.
    """
    if _as_fast_as(result, earlier):
        return "its code ran as fast as in its other trials"
    if difference.faster and trial.kind is Kind.FIRST and _lost(trial, result):
        return "it lost all the same"
    return None


def _lost(trial: Trial, result: TrialResult) -> bool:
    if result.outcome is Outcome.TIMED_OUT:
        return True
    beaten = trial.score_to_beat
    return result.val_bpb is not None and beaten is not None and result.val_bpb >= beaten


def _as_fast_as(result: TrialResult, earlier: Sequence[TrialResult]) -> bool:
    """Return True if training made as many steps per unit of budget as the same code did before, within the band."""
    paces = [pace for each in earlier if (pace := _pace(each)) is not None]
    pace = _pace(result)
    if pace is None or not paces:
        return False
    ratio, allowed = pace / median(paces), band(paces)
    return 1 / (1 + allowed) <= ratio <= 1 + allowed


def _pace(result: TrialResult) -> float | None:
    """Return the training steps per unit of the budget, or None if unknown."""
    timed = None if result.timing is None else result.timing.timed
    return result.steps / timed if result.steps and timed else None


def band(measured: Sequence[float]) -> float:
    """Return the share of the median by which another measurement of the same kind may differ."""
    middle = median(measured)
    spread = median(abs(each - middle) for each in measured) / middle
    return max(BAND_FLOOR, _BAND_DEVIATIONS * _DEVIATION_PER_MEDIAN * spread)


def changed_for_good(trial: Trial) -> bool:
    """Return True for a trial that was judged although the machine differed in every attempt."""
    return trial.differed > REPEATS_LIMIT


def speed_text(trial: Trial) -> str | None:
    """Describe for users how the machine affected a trial. Return None if it did not."""
    if not trial.differed:
        return None
    if changed_for_good(trial):
        return f"judged all the same after {REPEATS_LIMIT} repeats: {trial.machine}"
    return f"measured again ({trial.differed} of at most {REPEATS_LIMIT}): {trial.machine}"


def _sides(speed: Calibration) -> list[float]:
    return [side for side in (speed.before_s, speed.after_s) if side is not None]
