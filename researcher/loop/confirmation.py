"""Checks: fresh trials that claim a gain, or that ask whether the incumbent still works.

A claim runs the head against the last confirmed state with fresh seeds, in pairs close in time, and ends confirmed or
rolled back. A recheck follows three failures in a row; when the incumbent fails too, the run falls back, and when even
the baseline fails the machine is at fault. Neither rolls anything back for a single failure of code that ran before:
the same trial has to fail twice in a row. What could not be verified (`unscorable`) is no failure but a finding, and
one is enough.
"""

from __future__ import annotations

import logging

from researcher.decision.machine_speed import changed_for_good
from researcher.decision.rules import (
    CLAIM_PAIRS,
    FAILURES_BEFORE_RECHECK,
    CrashReset,
    Due,
    Head,
    RunFacts,
    judge_claim,
    mean_gain,
    needs_recheck,
    next_confirmation,
)
from researcher.journal.records import CONFIRM, CheckKind, Confirmation, RequestState, State, Trial, Verdict
from researcher.loop.context import Pause, RunContext
from trainer.jobs import Kind, Outcome

logger = logging.getLogger(__name__)

LOOKED_AT = 10  # measured experiments in which three failures in a row are looked for


def check_due(lab: RunContext) -> Due | None:
    """The confirmation that the rules ask for before the next proposal, by what the journal says now."""
    journal, run, checks = lab.journal, lab.run, lab.journal.confirmations()
    claimed = max((check.decided_at or 0.0 for check in checks if check.kind is CheckKind.CLAIM), default=0.0)
    since = [] if run.incumbent is None else journal.trials_since(run.incumbent)
    limit = lab.goal.experiments
    return next_confirmation(
        RunFacts(
            rule=lab.rule,
            outcomes=_outcomes(lab, checks),
            fell_back=bool(checks) and checks[-1].verdict is Verdict.FAILS and checks[-1].kind is CheckKind.RECHECK,
            trials_without_incumbent=sum(trial.kind is Kind.FIRST for trial in since),
            machine_changed=any(map(changed_for_good, since)),
            head=None if run.incumbent is None or run.incumbent == run.confirmed else _head(lab, run.incumbent),
            is_asked_for=any(request.kind == CONFIRM for request in journal.requests(RequestState.WAITING)),
            goal=lab.goal_reached(),
            experiments_left=None if limit is None else limit - journal.measured_count(),
            keeps=journal.keeps_since(claimed),
            trial_hours=journal.trial_hours_since(claimed),
            claim_hours=lab.claim_hours,
        )
    )


def _head(lab: RunContext, incumbent: int) -> Head:
    experiment, first = lab.journal.experiment(incumbent), lab.journal.trials(experiment=incumbent)[0]
    return Head(experiment.score, first.score_to_beat, experiment.sigma)


def _outcomes(lab: RunContext, checks: list[Confirmation]) -> list[Outcome]:
    """What the last candidates came to, oldest first, as far as the incumbent was not looked at since."""
    rechecked = max((check.decided_at or 0.0 for check in checks if check.kind is CheckKind.RECHECK), default=0.0)
    since = lab.journal.measured_since(rechecked, LOOKED_AT)
    return [item.outcome for item in since if item.outcome is not None]


def open_check(lab: RunContext, due: Due) -> None:
    """Begin one on the present head."""
    run = lab.run
    assert run.incumbent is not None
    base = run.confirmed if due.kind is CheckKind.CLAIM else None
    lab.journal.open_check(run, due.kind, run.incumbent, base, CLAIM_PAIRS, lab.clock())
    logger.info("%s of experiment %d begins: %s", due.kind, lab.journal.experiment(run.incumbent).number, due.why)


def advance_check(lab: RunContext, check: Confirmation) -> None:
    """The one next step of a check."""
    if check.state is State.DECIDED:
        _apply(lab, check)
    elif check.kind is CheckKind.CLAIM:
        _measure_claim(lab, check)
    else:
        _recheck(lab, check)


def _measure_claim(lab: RunContext, check: Confirmation) -> None:
    """One trial, or the verdict once all are there. Head and base take turns, so that drift meets both alike."""
    assert check.base is not None
    trials = lab.journal.trials(confirmation=check.id)
    if len(trials) < 2 * check.pairs and all(trial.outcome is Outcome.OK for trial in trials):
        side = check.base if len(trials) % 2 else check.head
        trials.append(_add(lab, check, side, Kind.CONFIRM))
    trials[-1] = lab.measure(trials[-1])
    if trials[-1].outcome is not Outcome.OK:
        _claim_failed(lab, check, trials[-1])
        return
    if len(trials) < 2 * check.pairs:
        return
    head = [trial.val_bpb for trial in trials if trial.experiment == check.head and trial.val_bpb is not None]
    base = [trial.val_bpb for trial in trials if trial.experiment == check.base and trial.val_bpb is not None]
    unseen = mean_gain(
        [trial.unseen_bpb for trial in trials if trial.experiment == check.head],
        [trial.unseen_bpb for trial in trials if trial.experiment == check.base],
    )
    sigma = lab.sigma()
    claim = judge_claim(head, base, sigma, unseen)
    if claim.verdict is None:
        lab.journal.one_more_pair(check)
        return
    lab.journal.decide_claim(check, claim.verdict, claim, sigma, lab.clock())
    logger.info("claim %s: %s", claim.verdict, claim.reason)


def _add(lab: RunContext, check: Confirmation, experiment: int, kind: Kind) -> Trial:
    return lab.journal.add_trial(lab.run, experiment, kind, seed=lab.next_seed(), at=lab.clock(), confirmation=check.id)


def _claim_failed(lab: RunContext, check: Confirmation, trial: Trial) -> None:
    """A head that does not run again is no gain. A confirmed state that does not run again speaks of the machine, or
    of itself where that happens in two claims in a row: the next head is compared with the baseline then."""
    reason = f"experiment {lab.journal.experiment(trial.experiment).number} {_told(trial)}"
    logger.warning("no claim: %s", reason)
    if trial.experiment == check.head:
        lab.journal.decide_check(check, Verdict.ROLLED_BACK, reason, lab.clock(), fall_back_to=check.base)
    else:
        again = trial.experiment == _base_that_failed(lab, before=check)
        baseline = lab.journal.numbered(0).id if again else None
        lab.journal.decide_check(check, Verdict.FAILS, reason, lab.clock(), confirmed=baseline)


def _base_that_failed(lab: RunContext, before: Confirmation) -> int | None:
    """The confirmed state that did not run in the claim before this one, if so."""
    claims = [each for each in lab.journal.confirmations() if each.kind is CheckKind.CLAIM and each.id < before.id]
    return claims[-1].base if claims and claims[-1].verdict is Verdict.FAILS else None


def _recheck(lab: RunContext, check: Confirmation) -> None:
    """From a head that fails to the last confirmed state, from there to the baseline; the baseline stays where it is.

    `CRASH_RESET=baseline` goes straight to the baseline, and after three failures asks nothing.
    """
    run, baseline, head = lab.run, lab.journal.numbered(0).id, lab.journal.experiment(check.head)
    straight = lab.crash_reset is CrashReset.BASELINE and not head.is_baseline
    if straight and needs_recheck(_outcomes(lab, lab.journal.confirmations())):
        reason = f"{FAILURES_BEFORE_RECHECK} failures in a row and CRASH_RESET=baseline: back to the baseline"
        lab.journal.decide_check(check, Verdict.ROLLED_BACK, reason, lab.clock(), fall_back_to=baseline)
        logger.warning("experiment %d is given up: %s", head.number, reason)
        return
    trials = lab.journal.trials(confirmation=check.id) or [_add(lab, check, check.head, Kind.DRIFT)]
    trial = lab.measure(trials[0])
    if trial.outcome is Outcome.OK:
        lab.journal.decide_check(check, Verdict.HOLDS, "the incumbent still works", lab.clock())
        return
    reason = _told(trial)
    target = baseline if straight or run.confirmed is None or check.head == run.confirmed else run.confirmed
    lab.journal.decide_check(check, Verdict.FAILS, reason, lab.clock(), fall_back_to=target)
    logger.warning("experiment %d fails now: %s", head.number, reason)


def _told(trial: Trial) -> str:
    """What a trial came to; code that ran before has failed twice in a row by now."""
    return f"{trial.outcome}{' twice in a row' if trial.failed else ''}: {trial.reason}"


def tag_confirmed(lab: RunContext) -> None:
    """Every state that fresh seeds confirmed has its tag, also one that somebody deleted."""
    for check in lab.journal.confirmations():
        _tag(lab, check)


def _tag(lab: RunContext, check: Confirmation) -> None:
    if check.verdict is Verdict.CONFIRMED:
        head = lab.journal.experiment(check.head)
        assert head.commit_sha is not None, "what was confirmed was measured"
        lab.workspace.tag_confirmed(lab.run.tag, head.number, head.commit_sha)


def _apply(lab: RunContext, check: Confirmation) -> None:
    lab.workspace.settle(lab.incumbent_commit())
    head = lab.journal.experiment(check.head)
    _tag(lab, check)
    lab.workspace.publish(lab.run, lab.incumbent_commit())
    lab.journal.check_applied(check, lab.clock())
    lab.project()
    if check.verdict is Verdict.FAILS and (head.is_baseline or check.kind is CheckKind.CLAIM):
        lab.hold(
            Pause.SUBJECT,
            f"what ran before does not run any more ({check.reason}); look at the machine, then `overnight resume`",
        )
    else:
        lab.back_off.reset(Pause.SUBJECT)
