"""The loop: do the next thing the journal implies, for ever. Recovery is the same loop entered again.

An experiment goes proposed -> committed -> measuring -> decided -> applied; each step is repeatable and is written down
before the next. What the next step is follows from the journal alone, so a killed researcher loses at most one trial.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from statistics import fmean

from researcher.decision.machine_speed import told
from researcher.decision.rules import decide
from researcher.errors import SubjectDamaged, SubjectError
from researcher.journal.records import ASKED_TO_PAUSE, Decision, Experiment, Ruling, Run, State, Trial
from researcher.loop.confirmation import advance_check, check_due, open_check, tag_confirmed
from researcher.loop.context import Pause, RunContext
from researcher.proposers.draft import Draft
from researcher.repository.commits import planned
from researcher.repository.recovery import ensure_commits, keep_copy, repair
from researcher.repository.repository import GitState
from trainer.jobs import Kind, Outcome

logger = logging.getLogger(__name__)


class Finished(Exception):
    """The goal is reached and the head's gain is confirmed or rolled back. Says which goal."""


def run_until_goal(lab: RunContext) -> str:
    """Make git agree with the journal, then step until the goal is reached. Returns which; never otherwise."""
    if lab.run.paused not in (None, ASKED_TO_PAUSE):
        lab.journal.go_on(lab.run, lab.clock())  # a fault that was held when we were stopped: a start is a try
    lab.journal.begin(lab.run, lab.clock())
    act = sync_with_journal
    while True:
        try:
            act(lab)
            act = step
        except SubjectDamaged as damaged:
            mend_subject(lab, damaged)
            act = sync_with_journal
        except Finished as finished:
            lab.journal.end(lab.run, str(finished))
            return str(finished)


def sync_with_journal(lab: RunContext) -> None:
    """Make git, its copy, what is pushed and the projections agree with the journal."""
    ensure_commits(lab.workspace, lab.journal)
    lab.workspace.read_candidates(lab.run)
    lab.workspace.restore(git_state(lab))
    tag_confirmed(lab)
    keep_copy(lab.workspace.path, lab.journal)
    lab.workspace.publish(lab.run, lab.incumbent_commit())
    lab.project()


def mend_subject(lab: RunContext, damaged: SubjectDamaged) -> None:
    """Make the repository again; hold where that cannot be done, or where nothing is found to mend."""
    try:
        mended = repair(lab.workspace.path, lab.journal, str(damaged), lab.workspace.user)
        lab.workspace.reopen()
        if ensure_commits(lab.workspace, lab.journal) or mended:
            return
    except SubjectError as error:
        lab.hold(Pause.SUBJECT, str(error))
    else:
        lab.hold(Pause.SUBJECT, f"git fails in {lab.workspace.path}: {damaged}")


def git_state(lab: RunContext) -> GitState:
    """What the repository must show: the candidate under way, else the incumbent, else the baseline."""
    run = lab.run
    experiment = lab.journal.open_experiment()
    if experiment is not None and experiment.state in (State.COMMITTED, State.MEASURING) and experiment.commit_sha:
        return GitState(run.branch, experiment.commit_sha)
    return GitState(run.branch, lab.incumbent_commit())


def step(lab: RunContext) -> None:
    """The one next thing."""
    experiment = lab.journal.open_experiment()
    if experiment is not None:
        _advance(lab, experiment)
        return
    run, check = lab.run, lab.journal.open_confirmation()
    if check is not None and (run.paused is None or check.state is State.DECIDED or lab.journal.running_trial()):
        advance_check(lab, check)
    elif run.paused is not None:
        lab.say(f"paused: {run.paused}")
        lab.rest()
    else:
        _choose(lab)


def _choose(lab: RunContext) -> None:
    run = lab.run
    due = check_due(lab)
    if due is not None:
        open_check(lab, due)
        return
    reached = lab.goal_reached()
    if reached is not None:
        raise Finished(reached)
    _propose(lab, run)


def _propose(lab: RunContext, run: Run) -> None:
    assert run.incumbent is not None, "the baseline is measured before anything is proposed"
    incumbent = lab.journal.source(run.incumbent)
    lab.say("proposing")
    draft = lab.proposers.next_draft(lab.journal, incumbent, tick=lab.tick)
    if draft is None:
        lab.rest()
        return
    _write_down(lab, run, draft)


def _write_down(lab: RunContext, run: Run, draft: Draft) -> None:
    proposal = draft.proposal
    if draft.candidate is not None:
        experiment = lab.journal.propose(run, proposal, draft.candidate, lab.clock())
        logger.info("%d proposed by %s: %s", experiment.number, proposal.proposer, proposal.title)
    else:
        assert draft.rejected is not None, "a draft is a candidate or a rejection"
        experiment = lab.journal.reject(run, proposal, draft.rejected, lab.clock())
        logger.info("%d rejected: %s: %s", experiment.number, proposal.title, draft.rejected)
        lab.project()
    lab.proposers.store_exchanges(experiment.number, draft)


def _advance(lab: RunContext, experiment: Experiment) -> None:
    match experiment.state:
        case State.PROPOSED:
            _commit(lab, experiment)
        case State.COMMITTED:
            lab.journal.measuring(experiment)
        case State.MEASURING if experiment.is_baseline:
            _measure_baseline(lab, experiment)
        case State.MEASURING:
            _measure_candidate(lab, experiment)
        case State.DECIDED | State.APPLIED:
            _apply(lab, experiment)


def _commit(lab: RunContext, experiment: Experiment) -> None:
    run = lab.run
    sha = lab.workspace.commit_candidate(run.branch, planned(lab.journal, run, experiment))
    lab.journal.committed(experiment, sha)


def _measure_candidate(lab: RunContext, experiment: Experiment) -> None:
    run = lab.run
    assert run.incumbent is not None
    incumbent_scores = lab.journal.scores()[run.incumbent]
    trials = lab.journal.trials(experiment=experiment.id) or [
        lab.journal.add_trial(
            run,
            experiment.id,
            Kind.FIRST,
            seed=lab.next_seed(),
            at=lab.clock(),
            score_to_beat=fmean(incumbent_scores),
        )
    ]
    trial = lab.measure(trials[0])
    assert trial.outcome is not None
    sigma = lab.sigma()
    ruling = decide(
        trial.outcome,
        trial.val_bpb,
        incumbent_scores=incumbent_scores,
        added_lines=experiment.added_lines or 0,
        sigma=sigma,
        rule=lab.rule,
        detail=trial.reason or "",
    )
    if (machine := told(trial)) is not None:
        ruling = replace(ruling, reason=f"{ruling.reason}; {machine}")
    lab.journal.decide(experiment, trial.outcome, ruling, sigma, lab.clock())
    logger.info("%d %s: %s (%s)", experiment.number, ruling.decision, experiment.title, ruling.reason)


def _measure_baseline(lab: RunContext, experiment: Experiment) -> None:
    """Repeat the baseline with its own seeds; a baseline that fails is a fault of the machine or of the subject."""
    run = lab.run
    trials = lab.journal.trials(experiment=experiment.id)
    scores: list[float] = []
    for number in range(lab.profile.baseline_repeats):
        if number == len(trials):
            trial = lab.journal.add_trial(run, experiment.id, Kind.BASELINE, seed=lab.next_seed(), at=lab.clock())
            trials.append(trial)
        trial = lab.measure(trials[number])
        if trial.val_bpb is None:
            _baseline_failed(lab, trial)
            return
        scores.append(trial.val_bpb)
    sigma = lab.sigma()
    reason = f"baseline {fmean(scores):.6f} over {len(scores)} seeds, sigma {sigma:.6f}"
    lab.journal.decide(experiment, Outcome.OK, Ruling(Decision.KEEP, reason, fmean(scores)), sigma, lab.clock())
    lab.back_off.reset(Pause.SUBJECT)
    logger.info("0 %s", reason)


def _baseline_failed(lab: RunContext, trial: Trial) -> None:
    reason = f"the baseline fails ({trial.outcome}: {trial.reason})"
    lab.journal.measure_again(trial)
    lab.hold(Pause.SUBJECT, f"{reason}; mend the subject or the machine, then `overnight resume`")


def _apply(lab: RunContext, experiment: Experiment) -> None:
    lab.workspace.settle(lab.incumbent_commit())
    lab.workspace.publish(lab.run, lab.incumbent_commit())
    lab.proposers.learn(lab.journal)
    lab.journal.applied(experiment, lab.clock())
    lab.project()
