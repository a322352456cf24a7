"""Decides whether a lost or failed attempt at a trial is due to the infrastructure, an accident, or the candidate.

An attempt is lost if it returns no result. A trial that was lost three times in a row gets one more attempt only after
a trial of the baseline has run beside it (a DRIFT trial, the witness). If that attempt is lost too, the losses are the
candidate's failure. If the witness itself had losses or repeats, the infrastructure is the cause, and the trial gets
three more attempts. So no candidate can block the run for ever. All functions take and return values.

Not covered: several trainers of which one is broken, because the witness may run on another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from researcher.journal.records import Trial
from trainer.jobs import Kind, Outcome, TrialResult, TrialSpec

FAULTS_LIMIT = 3  # losses in a row before the baseline must run
DISTURBED_LIMIT = 1  # measurements of a trial that are set aside because of a possible accident
_RAN_BEFORE = (Kind.CONFIRM, Kind.DRIFT)


def limit_of_losses(witnesses: Sequence[Trial]) -> int:
    """Return the number of losses after which a trial gets its last attempt.

    `witnesses` are the baseline's trials since the losses began.
    """
    return FAULTS_LIMIT * (1 + sum(was_in_trouble(each) for each in witnesses if each.finished))


def was_in_trouble(witness: Trial) -> bool:
    """Return True if the witness did not succeed at its first attempt."""
    return witness.faults > 0 or witness.repeats > 0


def accident_of(trial: Trial, result: TrialResult) -> str | None:
    """Return the possible outside cause for which a measurement is set aside, at most once for each trial, or None.

    The candidate may have caused the disturbance itself, for example a kill, so the next measurement counts in any
    case.
    """
    return result.disturbed if trial.disturbed < DISTURBED_LIMIT else None


def doubtful_failure(trial: Trial, result: TrialResult) -> str | None:
    """Describe the first failure in a row of code that ran before; return None otherwise.

    Such a trial is measured again with the same seed. An accident does not repeat; a fault of the code does, so a
    second failure in a row counts.
    """
    if trial.kind not in _RAN_BEFORE or trial.failed or not result.outcome.is_failure:
        return None
    return f"{result.outcome}: {result.reason}"


def lost_by_its_own_doing(spec: TrialSpec, losses: int, reason: str, at: float) -> TrialResult:
    """Build the result of a trial that was lost through its candidate's failure."""
    return TrialResult(
        id=spec.id,
        spec_digest=spec.digest,
        outcome=Outcome.CRASHED,
        reason=f"{losses} attempts in a row were lost, and the baseline ran before the last: {reason}",
        started_at=at,
        finished_at=at,
    )
