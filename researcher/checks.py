"""Checks: fresh trials that claim a gain, or that ask whether the incumbent still works.

A claim runs the head against the last confirmed state with fresh seeds, in pairs close in time, and ends confirmed or
rolled back. A recheck follows three failures in a row; when the incumbent fails too, the run falls back, and when even
the baseline fails the machine is at fault.
"""

from __future__ import annotations

import logging

from researcher.decision import CLAIM_PAIRS, judge_claim, needs_recheck
from researcher.experiment import CheckKind, Confirmation, State, Trial, Verdict
from researcher.lab import Lab
from researcher.settings import CrashReset
from trainer.jobs import Kind, Outcome

logger = logging.getLogger(__name__)

KEEPS_BEFORE_CLAIM = 5
NEAR_THE_END = 10


def check_due(lab: Lab) -> CheckKind | None:
    """What the journal asks for before the next proposal: a recheck, a claim at a checkpoint or at the end, nothing."""
    run, checks = lab.run, lab.journal.confirmations()
    rechecked = max((check.decided_at or 0.0 for check in checks if check.kind is CheckKind.RECHECK), default=0.0)
    since = [item for item in lab.journal.recent(10) if item.was_measured and (item.decided_at or 0.0) > rechecked]
    if needs_recheck([item.outcome for item in since if item.outcome is not None]) or _falling(lab, checks):
        return CheckKind.RECHECK
    if run.incumbent == run.confirmed:
        return None
    if lab.goal_reached():
        return CheckKind.CLAIM
    claimed = max((check.decided_at or 0.0 for check in checks if check.kind is CheckKind.CLAIM), default=0.0)
    keeps = lab.journal.keeps_since(claimed)
    left = None if lab.goal.experiments is None else lab.goal.experiments - lab.journal.measured_count()
    if keeps >= KEEPS_BEFORE_CLAIM and (left is None or left >= NEAR_THE_END):
        return CheckKind.CLAIM  # nearer to the end, the claim there serves both
    return None


def _falling(lab: Lab, checks: list[Confirmation]) -> bool:
    """True after a recheck that failed: what the run fell back to is looked at next."""
    return bool(checks) and checks[-1].verdict is Verdict.FAILS and checks[-1].kind is CheckKind.RECHECK


def open_check(lab: Lab, kind: CheckKind) -> None:
    """Begin one on the present head."""
    run = lab.run
    assert run.incumbent is not None
    base = run.confirmed if kind is CheckKind.CLAIM else None
    lab.journal.open_check(run, kind, run.incumbent, base, CLAIM_PAIRS, lab.clock())
    logger.info("%s of experiment %d begins", kind, lab.journal.experiment(run.incumbent).number)


def advance_check(lab: Lab, check: Confirmation) -> None:
    """The one next step of a check."""
    if check.state is State.DECIDED:
        _apply(lab, check)
    elif check.kind is CheckKind.CLAIM:
        _measure_claim(lab, check)
    else:
        _recheck(lab, check)


def _measure_claim(lab: Lab, check: Confirmation) -> None:
    """One trial, or the verdict once all are there. Head and base take turns, so that drift meets both alike."""
    assert check.base is not None
    trials = lab.journal.trials(confirmation=check.id)
    if len(trials) < 2 * check.pairs and all(trial.finished for trial in trials):
        side = check.base if len(trials) % 2 else check.head
        trials.append(_add(lab, check, side, Kind.CONFIRM))
    if not trials[-1].finished:
        trial = lab.measure(trials[-1])
        if trial.outcome is not Outcome.OK:
            _claim_failed(lab, check, trial)
        return
    head = [trial.val_bpb for trial in trials if trial.experiment == check.head and trial.val_bpb is not None]
    base = [trial.val_bpb for trial in trials if trial.experiment == check.base and trial.val_bpb is not None]
    sigma = lab.sigma()
    claim = judge_claim(head, base, sigma)
    if claim.verdict is None:
        lab.journal.one_more_pair(check)
        return
    lab.journal.decide_claim(check, claim.verdict, claim, sigma, lab.clock())
    logger.info("claim %s: %s", claim.verdict, claim.reason)


def _add(lab: Lab, check: Confirmation, experiment: int, kind: Kind) -> Trial:
    return lab.journal.add_trial(lab.run, experiment, kind, seed=lab.next_seed(), at=lab.clock(), confirmation=check.id)


def _claim_failed(lab: Lab, check: Confirmation, trial: Trial) -> None:
    """A head that does not run again is no gain. A confirmed state that does not run again speaks of the machine."""
    reason = f"experiment {lab.journal.experiment(trial.experiment).number} {trial.outcome}: {trial.reason}"
    logger.warning("no claim: %s", reason)
    if trial.experiment == check.head:
        lab.journal.decide_check(check, Verdict.ROLLED_BACK, reason, lab.clock(), fall_back_to=check.base)
    else:
        lab.journal.decide_check(check, Verdict.FAILS, reason, lab.clock())


def _recheck(lab: Lab, check: Confirmation) -> None:
    trials = lab.journal.trials(confirmation=check.id) or [_add(lab, check, check.head, Kind.DRIFT)]
    trial = lab.measure(trials[0])
    if trial.outcome is Outcome.OK:
        lab.journal.decide_check(check, Verdict.HOLDS, "the incumbent still works", lab.clock())
        return
    reason = f"{trial.outcome}: {trial.reason}"
    target = _fall_back(lab, check.head)
    lab.journal.decide_check(check, Verdict.FAILS, reason, lab.clock(), fall_back_to=target)
    logger.warning("experiment %d fails now: %s", lab.journal.experiment(check.head).number, reason)


def _fall_back(lab: Lab, head: int) -> int:
    """From the head to the last confirmed state, from there to the baseline; the baseline stays where it is."""
    run, baseline = lab.run, lab.journal.numbered(0).id
    if lab.crash_reset is CrashReset.BASELINE or run.confirmed is None or head == run.confirmed:
        return baseline
    return run.confirmed


def _apply(lab: Lab, check: Confirmation) -> None:
    run = lab.run
    lab.workspace.settle(lab.incumbent_commit())
    head = lab.journal.experiment(check.head)
    if check.verdict is Verdict.CONFIRMED:
        lab.workspace.tag(f"{run.branch}-confirmed-{head.number}", lab.incumbent_commit())
    lab.journal.check_applied(check, lab.clock())
    lab.project()
    if check.verdict is Verdict.FAILS and (head.is_baseline or check.kind is CheckKind.CLAIM):
        lab.hold(
            f"what ran before does not run any more ({check.reason}); look at the machine, then `overnight resume`"
        )
