"""Confirmations: fresh trials that test a claimed gain, or that test whether the incumbent still works.

A claim measures the head (the incumbent) and the last confirmed version with fresh seeds, in alternating pairs. The
claim ends as confirmed or rolled back. An incumbent confirmation follows three failures in a row. If the incumbent
fails too, the run returns to an earlier version; if even the baseline fails, the infrastructure is the cause. A single
failure of code that ran before rolls nothing back: the same trial must fail twice in a row. An `unscorable` trial is
not a failure, and one unscorable trial is enough for a verdict.
"""

from __future__ import annotations

import logging

from researcher.decision.machine_speed import changed_for_good
from researcher.decision.rules import (
    CLAIM_PAIRS,
    FAILURES_IN_A_ROW,
    CrashReset,
    Due,
    Head,
    RunFacts,
    judge_claim,
    mean_gain,
    needs_incumbent_confirmation,
    next_confirmation,
)
from researcher.journal.records import (
    CONFIRM,
    Confirmation,
    ConfirmationKind,
    ConfirmationVerdict,
    PauseCause,
    RequestState,
    State,
    Trial,
)
from researcher.loop.context import RunContext
from trainer.jobs import Kind, Outcome

logger = logging.getLogger(__name__)

LOOKED_AT = 10  # the number of latest measured experiments that are searched for three failures in a row


def confirmation_due(run_context: RunContext) -> Due | None:
    """Return the confirmation that the rules ask for before the next proposal, computed from the journal."""
    journal, run, confirmations = run_context.journal, run_context.run, run_context.journal.confirmations()
    claimed = _last_decided_at(confirmations, ConfirmationKind.CLAIM)
    since = [] if run.incumbent is None else journal.trials_since(run.incumbent)
    limit = run_context.goal.experiments
    head = None if run.incumbent is None or run.incumbent == run.confirmed else _head(run_context, run.incumbent)
    return next_confirmation(
        RunFacts(
            rule=run_context.rule,
            outcomes=_outcomes(run_context, confirmations),
            incumbent_failed=bool(confirmations) and confirmations[-1].incumbent_failed,
            trials_without_incumbent=sum(trial.kind is Kind.FIRST for trial in since),
            machine_changed=any(map(changed_for_good, since)),
            head=head,
            is_asked_for=any(request.kind == CONFIRM for request in journal.requests(RequestState.WAITING)),
            goal=run_context.goal_reached(),
            experiments_left=None if limit is None else limit - journal.measured_count(),
            decisions=() if head is None else journal.decisions_since(claimed),
            trial_hours=0.0 if head is None else journal.trial_hours_since(claimed),
            claim_hours=run_context.claim_hours,
        )
    )


def _head(run_context: RunContext, incumbent: int) -> Head:
    experiment, first = run_context.journal.experiment(incumbent), run_context.journal.trials(experiment=incumbent)[0]
    return Head(experiment.score, first.score_to_beat, experiment.sigma)


def _outcomes(run_context: RunContext, confirmations: list[Confirmation]) -> list[Outcome]:
    """Return the outcomes of the latest candidates since the last incumbent confirmation, oldest first."""
    measured_at = _last_decided_at(confirmations, ConfirmationKind.INCUMBENT)
    since = run_context.journal.measured_since(measured_at, LOOKED_AT)
    return [item.outcome for item in since if item.outcome is not None]


def _last_decided_at(confirmations: list[Confirmation], kind: ConfirmationKind) -> float:
    """Return the time of the last verdict on a confirmation of this kind, or 0 if there is none."""
    return max((item.decided_at or 0.0 for item in confirmations if item.kind is kind), default=0.0)


def begin_confirmation(run_context: RunContext, due: Due) -> None:
    """Open a confirmation of the incumbent in the journal."""
    run = run_context.run
    assert run.incumbent is not None
    base = run.confirmed if due.kind is ConfirmationKind.CLAIM else None
    run_context.journal.begin_confirmation(run, due.kind, run.incumbent, base, CLAIM_PAIRS, run_context.clock())
    logger.info(
        "%s of experiment %d begins: %s", due.kind.words, run_context.journal.experiment(run.incumbent).number, due.why
    )


def advance_confirmation(run_context: RunContext, confirmation: Confirmation) -> None:
    """Execute the next step of an open confirmation."""
    if confirmation.state is State.DECIDED:
        _apply(run_context, confirmation)
    elif confirmation.kind is ConfirmationKind.CLAIM:
        _measure_claim(run_context, confirmation)
    else:
        _measure_incumbent(run_context, confirmation)


def _measure_claim(run_context: RunContext, confirmation: Confirmation) -> None:
    """Measure one more trial of the claim, or decide the claim once all its trials are measured.

    The trials of head and base alternate, so that a drift of the machine affects both equally.
    """
    assert confirmation.base is not None
    trials = run_context.journal.trials(confirmation=confirmation.id)
    if len(trials) < 2 * confirmation.pairs and all(trial.outcome is Outcome.OK for trial in trials):
        side = confirmation.base if len(trials) % 2 else confirmation.head
        trials.append(_add(run_context, confirmation, side, Kind.CONFIRM))
    trials[-1] = run_context.measure(trials[-1])
    if trials[-1].outcome is not Outcome.OK:
        _claim_failed(run_context, confirmation, trials[-1])
        return
    if len(trials) < 2 * confirmation.pairs:
        return
    head = [trial.val_bpb for trial in trials if trial.experiment == confirmation.head and trial.val_bpb is not None]
    base = [trial.val_bpb for trial in trials if trial.experiment == confirmation.base and trial.val_bpb is not None]
    unseen = mean_gain(
        [trial.unseen_bpb for trial in trials if trial.experiment == confirmation.head],
        [trial.unseen_bpb for trial in trials if trial.experiment == confirmation.base],
    )
    sigma = run_context.sigma()
    claim = judge_claim(head, base, sigma, run_context.profile.sigma_floor, unseen, run_context.run.metric)
    if claim.verdict is None:
        run_context.journal.one_more_pair(confirmation)
        return
    run_context.journal.decide_claim(confirmation, claim, sigma, run_context.clock())
    logger.info("claim %s: %s", claim.verdict, claim.reason)


def _add(run_context: RunContext, confirmation: Confirmation, experiment: int, kind: Kind) -> Trial:
    return run_context.journal.add_trial(
        run_context.run,
        experiment,
        kind,
        seed=run_context.next_seed(),
        at=run_context.clock(),
        confirmation=confirmation.id,
    )


def _claim_failed(run_context: RunContext, confirmation: Confirmation, trial: Trial) -> None:
    """Decide a claim in which a trial of the head or of the base failed.

    A head that fails is rolled back. A base that fails points to the infrastructure, and the run pauses. If the same
    base fails in two claims in a row, the base itself is the cause, and the next claim compares the head with the
    baseline.
    """
    reason = f"experiment {run_context.journal.experiment(trial.experiment).number} {_outcome_text(trial)}"
    logger.warning("no claim: %s", reason)
    if trial.experiment == confirmation.head:
        run_context.journal.decide_confirmation(
            confirmation, ConfirmationVerdict.ROLLED_BACK, reason, run_context.clock(), roll_back_to=confirmation.base
        )
    else:
        again = trial.experiment == _base_that_failed(run_context, before=confirmation)
        baseline = run_context.journal.numbered(0).id if again else None
        run_context.journal.decide_confirmation(
            confirmation, ConfirmationVerdict.FAILS, reason, run_context.clock(), confirmed=baseline
        )


def _base_that_failed(run_context: RunContext, before: Confirmation) -> int | None:
    """Return the id of the base that failed in the previous claim, or None if that claim ended otherwise."""
    claims = [
        item
        for item in run_context.journal.confirmations()
        if item.kind is ConfirmationKind.CLAIM and item.id < before.id
    ]
    return claims[-1].base if claims and claims[-1].verdict is ConfirmationVerdict.FAILS else None


def _measure_incumbent(run_context: RunContext, confirmation: Confirmation) -> None:
    """Measure the incumbent once, and return to an earlier version if the incumbent fails.

    The run returns from a failing head to the last confirmed version, and from there to the baseline. A failing
    baseline stays the incumbent. `CRASH_RESET=baseline` goes straight to the baseline; after three failures in a row it
    does so without a trial.
    """
    run, baseline = run_context.run, run_context.journal.numbered(0).id
    head = run_context.journal.experiment(confirmation.head)
    straight = run_context.crash_reset is CrashReset.BASELINE and not head.is_baseline
    if straight and needs_incumbent_confirmation(_outcomes(run_context, run_context.journal.confirmations())):
        reason = f"{FAILURES_IN_A_ROW} failures in a row and CRASH_RESET=baseline: back to the baseline"
        run_context.journal.decide_confirmation(
            confirmation, ConfirmationVerdict.ROLLED_BACK, reason, run_context.clock(), roll_back_to=baseline
        )
        logger.warning("experiment %d is given up: %s", head.number, reason)
        return
    trials = run_context.journal.trials(confirmation=confirmation.id) or [
        _add(run_context, confirmation, confirmation.head, Kind.DRIFT)
    ]
    trial = run_context.measure(trials[0])
    if trial.outcome is Outcome.OK:
        run_context.journal.decide_confirmation(
            confirmation, ConfirmationVerdict.HOLDS, "the incumbent still works", run_context.clock()
        )
        return
    reason = _outcome_text(trial)
    target = baseline if straight or run.confirmed is None or confirmation.head == run.confirmed else run.confirmed
    run_context.journal.decide_confirmation(
        confirmation, ConfirmationVerdict.FAILS, reason, run_context.clock(), roll_back_to=target
    )
    logger.warning("experiment %d fails now: %s", head.number, reason)


def _outcome_text(trial: Trial) -> str:
    """Describe the outcome of a trial. A failure here is the second in a row of code that ran before."""
    assert trial.outcome is not None
    return f"{trial.outcome.text}{' twice in a row' if trial.failed else ''}: {trial.reason}"


def tag_confirmed(run_context: RunContext) -> None:
    """Set the git tag of every confirmed version, including tags that a user has deleted."""
    for confirmation in run_context.journal.confirmations():
        _tag(run_context, confirmation)


def _tag(run_context: RunContext, confirmation: Confirmation) -> None:
    if confirmation.verdict is ConfirmationVerdict.CONFIRMED:
        head = run_context.journal.experiment(confirmation.head)
        assert head.commit_sha is not None, "what was confirmed was measured"
        run_context.workspace.tag_confirmed(run_context.run.tag, head.number, head.commit_sha)


def _apply(run_context: RunContext, confirmation: Confirmation) -> None:
    run_context.workspace.checkout(run_context.incumbent_commit())
    head = run_context.journal.experiment(confirmation.head)
    _tag(run_context, confirmation)
    run_context.workspace.publish(run_context.run, run_context.incumbent_commit())
    run_context.journal.confirmation_applied(confirmation, run_context.clock())
    run_context.project()
    if confirmation.verdict is ConfirmationVerdict.FAILS and (
        head.is_baseline or confirmation.kind is ConfirmationKind.CLAIM
    ):
        run_context.hold(
            PauseCause.SUBJECT,
            f"code that ran before now fails ({confirmation.reason}). "
            "Next: check the trainer's log and the GPU, then run `overnight resume`",
        )
    else:
        run_context.back_off.reset(PauseCause.SUBJECT)
