"""What a lost or a failed attempt at a trial says: of the machine, of an accident, or of the candidate. Values only.

An attempt is lost when no answer comes of it. A trial that is lost three times in a row is tried again only after the
baseline, which is known to run, was seen to run beside it (a DRIFT trial, the witness). If it is lost then too, the
loss follows the candidate, say its seed, and is its failure. A witness that was itself in trouble speaks of the
machine, and the trial has as many attempts again. So nothing that a candidate does can hold the run for ever.

Does not cover several trainers of which one is broken: the witness may run on another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from researcher.journal.records import Trial
from trainer.jobs import Kind, Outcome, TrialResult, TrialSpec

FAULTS_LIMIT = 3  # losses in a row before the baseline must be seen to run
DISTURBED_LIMIT = 1  # measurements of a trial that are set aside because they may have met with an accident
_RAN_BEFORE = (Kind.CONFIRM, Kind.DRIFT)


def limit_of_losses(witnesses: Sequence[Trial]) -> int:
    """After how many losses a trial is tried only once more, given the baseline's trials that were asked for since."""
    return FAULTS_LIMIT * (1 + sum(was_in_trouble(each) for each in witnesses if each.finished))


def was_in_trouble(witness: Trial) -> bool:
    """True where the baseline did not run at once."""
    return witness.faults > 0 or witness.repeats > 0


def accident_of(trial: Trial, result: TrialResult) -> str | None:
    """What may have come from outside, where the measurement is to be set aside for it; once for each trial.

    The candidate may have done it to itself, a kill for example, so the next measurement counts whatever comes.
    """
    return result.disturbed if trial.disturbed < DISTURBED_LIMIT else None


def doubtful_failure(trial: Trial, result: TrialResult) -> str | None:
    """A failure of code that ran before, in words, where it is the first in a row; two in a row are the code's own.

    It is measured again with the same seed: an accident does not come again with it, a fault of the code does.
    """
    if trial.kind not in _RAN_BEFORE or trial.failed or not result.outcome.is_failure:
        return None
    return f"{result.outcome}: {result.reason}"


def lost_by_its_own_doing(spec: TrialSpec, losses: int, reason: str, at: float) -> TrialResult:
    """The result of a trial whose losses follow its candidate."""
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=Outcome.CRASHED,
        reason=f"{losses} attempts in a row were lost, and the baseline ran before the last: {reason}",
        started_at=at,
        finished_at=at,
    )
