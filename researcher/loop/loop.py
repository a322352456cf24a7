"""The loop: execute the next step that the journal implies, again and again. Recovery after a crash is the same loop.

An experiment passes through the states proposed, committed, measuring, decided and applied. Each step is repeatable and
is recorded before the next. The journal alone determines the next step, so a killed researcher loses at most one trial.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from statistics import fmean
from typing import NoReturn

from researcher.decision.machine_speed import speed_text
from researcher.decision.rules import decide
from researcher.errors import SubjectDamaged, SubjectError
from researcher.journal.records import Decision, Experiment, PauseCause, Ruling, Run, State, Trial
from researcher.loop.confirmation import advance_confirmation, begin_confirmation, confirmation_due, tag_confirmed
from researcher.loop.context import Finished, RunContext
from researcher.proposers.draft import Draft
from researcher.repository.commits import planned
from researcher.repository.recovery import ensure_commits, keep_copy, repair, set_lost_time_aside
from researcher.repository.repository import GitState
from trainer.jobs import Kind, Outcome

logger = logging.getLogger(__name__)


def run_until_goal(run_context: RunContext) -> str:
    """Sync the repository with the journal, then execute steps until a goal is reached. Return the goal as text.

    The function returns for no other reason.
    """
    run = run_context.run
    if run.pause is not None and not run.paused_by_user:  # a restart retries after a pause that a fault caused
        run_context.journal.go_on(run, run_context.clock())
    run_context.journal.begin(run, run_context.clock())
    try:
        _run_steps(run_context)
    except Finished as finished:
        run_context.journal.end(run_context.run, str(finished), run_context.clock())
        return str(finished)


def _run_steps(run_context: RunContext) -> NoReturn:
    act = sync_with_journal
    while True:
        try:
            act(run_context)
            act = step
        except SubjectDamaged as damaged:
            repair_subject(run_context, damaged)
            act = sync_with_journal


def sync_with_journal(run_context: RunContext) -> None:
    """Make the repository, its copy, the published refs and the files of the report agree with the journal."""
    set_lost_time_aside(run_context.workspace, run_context.journal)
    ensure_commits(run_context.workspace, run_context.journal)
    run_context.workspace.read_candidates(run_context.run)
    run_context.workspace.restore(git_state(run_context))
    tag_confirmed(run_context)
    keep_copy(run_context.workspace.path, run_context.journal)
    run_context.workspace.publish(run_context.run, run_context.incumbent_commit())
    run_context.project()


def repair_subject(run_context: RunContext, damaged: SubjectDamaged) -> None:
    """Repair the repository. Pause if the repair fails, or if it finds nothing to fix."""
    try:
        repaired = repair(run_context.workspace.path, run_context.journal, str(damaged), run_context.workspace.user)
        run_context.workspace.reopen()
        if ensure_commits(run_context.workspace, run_context.journal) or repaired:
            return
    except SubjectError as error:
        run_context.hold(PauseCause.SUBJECT, str(error))
    else:
        run_context.hold(PauseCause.SUBJECT, f"git fails in {run_context.workspace.path}: {damaged}")


def git_state(run_context: RunContext) -> GitState:
    """Return the commit that the repository must show: the current candidate's, the incumbent's, or the baseline's."""
    run = run_context.run
    experiment = run_context.journal.open_experiment()
    if experiment is not None and experiment.state in (State.COMMITTED, State.MEASURING) and experiment.commit_sha:
        return GitState(run.branch, experiment.commit_sha)
    return GitState(run.branch, run_context.incumbent_commit())


def step(run_context: RunContext) -> None:
    """Execute the next step that the journal implies."""
    experiment = run_context.journal.open_experiment()
    if experiment is not None:
        _advance(run_context, experiment)
        return
    run, confirmation = run_context.run, run_context.journal.open_confirmation()
    if confirmation is not None and (
        run.pause is None or confirmation.state is State.DECIDED or run_context.journal.running_trial()
    ):
        advance_confirmation(run_context, confirmation)
    elif run.pause is not None:
        run_context.publish_status(f"paused: {run.pause.message}")
        run_context.end_at_the_limit()
        run_context.rest()
    else:
        _choose(run_context)


def _choose(run_context: RunContext) -> None:
    run = run_context.run
    due = confirmation_due(run_context)
    if due is not None:
        begin_confirmation(run_context, due)
        return
    reached = run_context.goal_reached()
    if reached is not None:
        raise Finished(reached)
    _propose(run_context, run)


def _propose(run_context: RunContext, run: Run) -> None:
    assert run.incumbent is not None, "the baseline is measured before anything is proposed"
    incumbent = run_context.journal.source(run.incumbent)
    run_context.publish_status("proposing")
    draft = run_context.proposers.next_draft(run_context.journal, incumbent, tick=run_context.tick)
    if draft is None:
        run_context.rest()
        return
    _write_down(run_context, run, draft)


def _write_down(run_context: RunContext, run: Run, draft: Draft) -> None:
    proposal = draft.proposal
    if draft.candidate is not None:
        experiment = run_context.journal.propose(run, proposal, draft.candidate, run_context.clock())
        logger.info("%d proposed by %s: %s", experiment.number, proposal.proposer, proposal.title)
    elif draft.unanswered is not None:
        experiment = run_context.journal.unanswered(run, proposal, draft.unanswered, run_context.clock())
        logger.info("%d unanswered: %s", experiment.number, draft.unanswered)
        run_context.project()
    else:
        assert draft.rejected is not None, "a draft is a candidate, a rejection or no answer"
        experiment = run_context.journal.reject(run, proposal, draft.rejected, run_context.clock())
        logger.info("%d rejected: %s: %s", experiment.number, proposal.title, draft.rejected)
        run_context.project()
    run_context.proposers.store_exchanges(experiment.number, draft)


def _advance(run_context: RunContext, experiment: Experiment) -> None:
    match experiment.state:
        case State.PROPOSED:
            _commit(run_context, experiment)
        case State.COMMITTED:
            run_context.journal.measuring(experiment)
        case State.MEASURING if experiment.is_baseline:
            _measure_baseline(run_context, experiment)
        case State.MEASURING:
            _measure_candidate(run_context, experiment)
        case State.DECIDED | State.APPLIED:
            _apply(run_context, experiment)


def _commit(run_context: RunContext, experiment: Experiment) -> None:
    run = run_context.run
    sha = run_context.workspace.commit_candidate(run.branch, planned(run_context.journal, run, experiment))
    run_context.journal.committed(experiment, sha)


def _measure_candidate(run_context: RunContext, experiment: Experiment) -> None:
    assert experiment.parent is not None, "only the baseline has none"
    parent_scores = run_context.journal.scores()[experiment.parent]
    trials = run_context.journal.trials(experiment=experiment.id) or [
        run_context.journal.add_trial(
            run_context.run,
            experiment.id,
            Kind.FIRST,
            seed=run_context.next_seed(),
            at=run_context.clock(),
            score_to_beat=fmean(parent_scores),
        )
    ]
    trial = run_context.measure(trials[0])
    assert trial.outcome is not None
    sigma = run_context.sigma()
    ruling = decide(
        trial.outcome,
        trial.val_bpb,
        parent_scores=parent_scores,
        parent_is_incumbent=run_context.run.incumbent == experiment.parent,
        added_lines=experiment.added_lines or 0,
        sigma=sigma,
        rule=run_context.rule,
        detail=trial.reason or "",
        metric=run_context.run.metric,
    )
    if (machine := speed_text(trial)) is not None:
        ruling = replace(ruling, reason=f"{ruling.reason}; {machine}")
    run_context.journal.decide(experiment, trial.outcome, ruling, sigma, run_context.clock())
    logger.info("%d %s: %s (%s)", experiment.number, ruling.decision, experiment.title, ruling.reason)


def _measure_baseline(run_context: RunContext, experiment: Experiment) -> None:
    """Measure the baseline with several seeds.

    A failure of the baseline is a fault of the infrastructure or the subject.
    """
    run = run_context.run
    trials = run_context.journal.trials(experiment=experiment.id)
    scores: list[float] = []
    for number in range(run_context.profile.baseline_repeats):
        if number == len(trials):
            trial = run_context.journal.add_trial(
                run, experiment.id, Kind.BASELINE, seed=run_context.next_seed(), at=run_context.clock()
            )
            trials.append(trial)
        trial = run_context.measure(trials[number])
        if trial.val_bpb is None:
            _baseline_failed(run_context, trial)
            return
        scores.append(trial.val_bpb)
    sigma = run_context.sigma()
    reason = f"baseline {run.metric.text(fmean(scores))} over {len(scores)} seeds, sigma {sigma:.6f}"
    run_context.journal.decide(
        experiment, Outcome.OK, Ruling(Decision.KEEP, reason, fmean(scores)), sigma, run_context.clock()
    )
    run_context.back_off.reset(PauseCause.SUBJECT)
    logger.info("0 %s", reason)


def _baseline_failed(run_context: RunContext, trial: Trial) -> None:
    reason = f"the baseline fails ({trial.outcome}: {trial.reason})"
    run_context.journal.measure_again(trial)
    run_context.hold(PauseCause.SUBJECT, f"{reason}; fix the subject or the machine, then `overnight resume`")


def _apply(run_context: RunContext, experiment: Experiment) -> None:
    run_context.workspace.checkout(run_context.incumbent_commit())
    run_context.workspace.publish(run_context.run, run_context.incumbent_commit())
    run_context.proposers.learn(run_context.journal)
    run_context.journal.applied(experiment, run_context.clock())
    run_context.project()
    run_context.workspace.keep_small(run_context.run.branch)
