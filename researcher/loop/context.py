"""RunContext: everything that a step of the run works with, and the measurement of one trial.

A measurement is repeatable: the spec is rebuilt from the journal and git, the queue runs each attempt once, and an
infrastructure failure leads to another attempt. A measurement that an accident may have disturbed is set aside once. A
trial that is lost again and again, although the baseline runs between two of the losses, counts as the candidate's own
failure. The context serves users' requests while it waits.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from researcher.backoff import Backoff
from researcher.decision.cost import Cost, cost_of
from researcher.decision.goal import Standing, exceeded, reached, standing_of
from researcher.decision.lost_trials import (
    accident_of,
    doubtful_failure,
    limit_of_losses,
    lost_by_its_own_doing,
    was_in_trouble,
)
from researcher.decision.machine_speed import (
    REFERENCE_TRIALS,
    REPEATS_LIMIT,
    clock_differed,
    judged_all_the_same,
    machine_differed,
)
from researcher.decision.rules import CLAIM_HOURS, CrashReset, Rule, pooled_sigma
from researcher.decision.setup_time import with_setup, with_warmup
from researcher.errors import ModelNotUnloaded
from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment, Goal, Pause, PauseCause, Run, Trial
from researcher.journal.writer import Journal
from researcher.proposers.proposers import Proposers
from researcher.queues.trials import Absent, JobFault, TrialQueue, Waiting
from researcher.repository.repository import Workspace
from trainer.jobs import Budget, Kind, Outcome, Profile, Timing, TrialResult, TrialSpec, files_digest, trial_id

logger = logging.getLogger(__name__)

BACKOFFS = {
    PauseCause.INFRASTRUCTURE: Backoff(10, 1800),
    PauseCause.SUBJECT: Backoff(30, 1800),
    PauseCause.GPU: Backoff(30, 1800),
    PauseCause.OUTAGE: Backoff(5, 60),
}


class Finished(Exception):
    """Ends the loop when a limit is reached. The message names the limit.

    The head's gain is confirmed or rolled back by then, unless a limit of time or cost passed before.
    """


class PauseBackoffs:
    """Pause lengths for repeated faults, in seconds: each cause has its own back-off."""

    def __init__(self) -> None:
        self._held_s: dict[PauseCause, float] = {}

    def next_s(self, cause: PauseCause) -> float:
        """Return the length of this pause, in seconds. The next pause for the same cause is longer."""
        self._held_s[cause] = BACKOFFS[cause].after(self._held_s.get(cause, 0.0))
        return self._held_s[cause]

    def reset(self, cause: PauseCause) -> None:
        """Return to the first length after the cause has ended."""
        self._held_s.pop(cause, None)


def cost_at(journal: JournalReader, run: Run, at: float) -> Cost:
    """Return the cost of a run from its first start to the time `at`."""
    return cost_of(run, journal.experiments(), journal.trials(), at - run.created_at)


def passed_limit(journal: JournalReader, goal: Goal, at: float) -> str | None:
    """Return the end of a run, as text, if a limit of time or cost has passed at the time `at`; else None."""
    run = journal.run()
    if run is None or (goal.until is None and goal.max_cost is None):
        return None
    over = exceeded(goal, cost_at(journal, run, at), at)
    return None if over is None else f"{over}; what is open goes on at the next start"


@dataclass(frozen=True)
class RunContext:
    """The collaborators of a run. `tick` serves requests; `rest` serves requests and sleeps briefly.

    `tick` and `rest` raise on a stop.
    """

    journal: Journal
    workspace: Workspace
    trials: TrialQueue
    proposers: Proposers
    profile: Profile
    rule: Rule
    crash_reset: CrashReset
    goal: Goal
    project: Callable[[], None]
    tick: Callable[[], None]
    rest: Callable[[], None]
    publish_status: Callable[[str], None]
    claim_hours: float = CLAIM_HOURS
    clock: Callable[[], float] = time.time
    back_off: PauseBackoffs = field(default_factory=PauseBackoffs)

    @property
    def run(self) -> Run:
        """The current run."""
        run = self.journal.run()
        assert run is not None, "the context opens only once a run has started"
        return run

    def incumbent(self) -> Experiment | None:
        """Return the version that a candidate must beat, or None until the baseline is measured."""
        run = self.run
        return None if run.incumbent is None else self.journal.experiment(run.incumbent)

    def sigma(self) -> float:
        """Return the standard deviation of scores over seeds, pooled over all groups of repeats so far."""
        return pooled_sigma(list(self.journal.scores().values()), self.profile.sigma_floor)

    def spec(self, trial: Trial) -> TrialSpec:
        """Build the spec of a trial's current attempt from the journal and git alone."""
        run = self.run
        experiment = self.journal.experiment(trial.experiment)
        assert experiment.commit_sha is not None, "only committed candidates are measured"
        files = self.workspace.files(experiment.commit_sha)
        return TrialSpec(
            id=trial_id(run.tag, experiment.number, trial.number, trial.attempt),
            kind=trial.kind,
            profile=run.profile,
            files=files,
            files_sha256=files_digest(files),
            data_sha256=run.data_sha256,
            seed=trial.seed,
            budget=self._budget(),
            caps=self.profile.caps,
            score_to_beat=trial.score_to_beat,
            repeat=trial.repeats,
            shares_compiled=trial.kind is Kind.BASELINE
            and trial.number == 0
            and self.workspace.is_of_users(run.base_commit),
        )

    def _budget(self) -> Budget:
        """Return the budget with the set-up and the warm-up that follow from the baseline's own trials."""
        timings = self._baseline_timings()
        if timings is None:
            return with_warmup(with_setup(self.profile.budget, None), None)
        setups = [timing.setup for timing in timings if timing.setup is not None]
        warmups = [timing.warmup_s for timing in timings if timing.warmup_s is not None]
        return with_warmup(with_setup(self.profile.budget, setups), warmups)

    def _baseline_timings(self) -> list[Timing] | None:
        """Return the times of the baseline's own trials, or None until all of them are measured."""
        baseline = self.journal.numbered(0)
        if baseline.decision is None:
            return None
        own = [trial for trial in self.journal.trials(experiment=baseline.id) if trial.kind is Kind.BASELINE]
        timings = [result.timing for trial in own if (result := self.journal.result(trial.id)) is not None]
        return [timing for timing in timings if timing is not None]

    def incumbent_commit(self) -> str:
        """Return the parent commit of a candidate: the incumbent's, or the subject's until the baseline is measured."""
        incumbent = self.incumbent()
        if incumbent is None:
            return self.run.base_commit
        assert incumbent.commit_sha is not None, "an incumbent was committed"
        return incumbent.commit_sha

    def next_seed(self) -> int:
        """Draw the seed of the next trial, in the same way for every kind of trial and for both sides of a claim.

        A candidate sees its seed. The draws are keyed with a secret of the journal, so a seed reveals neither the kind
        of its trial nor the number of earlier trials. With the key, all seeds of a run can be drawn again.
        """
        run = self.run
        return random.Random(f"{run.seed_key or run.seed} {self.journal.trial_count()}").randrange(1, 2**31)

    def goal_reached(self) -> str | None:
        """Return the reason why no further experiment may begin, computed from journal and clock, or None."""
        return reached(self.goal, self.journal.measured_count(), self._standing)

    def end_at_the_limit(self, patience_s: float = 0.0) -> None:
        """Raise Finished if a limit of time or cost passed `patience_s` seconds ago."""
        over = passed_limit(self.journal, self.goal, self.clock() - patience_s)
        if over is not None:
            raise Finished(over)

    def _standing(self) -> Standing:
        journal, at = self.journal, self.clock()
        cost, per_hour = cost_at(journal, self.run, at), self.run.prices.per_hour
        return standing_of(journal.experiments(), journal.trials(), cost, self.profile.budget, at, per_hour)

    def hold(self, cause: PauseCause, message: str) -> None:
        """Pause for a fault that no proposal can fix.

        The pause ends by itself or on `resume`, and grows with each repeat.
        """
        pause, back_off_s = Pause(cause, message), self.back_off.next_s(cause)
        logger.error("PAUSED for %.0f s: %s", back_off_s, message)
        self.journal.pause(self.run, pause)
        until = self.clock() + back_off_s
        while self.run.pause == pause and self.clock() < until:
            self.publish_status(f"paused: {message}")
            self.end_at_the_limit()
            self.rest()
        if self.run.pause == pause:
            self.journal.go_on(self.run, self.clock())

    def measure(self, trial: Trial) -> Trial:
        """Wait for a trial through lost attempts and restarts, record its result, and return the finished trial."""
        while not trial.finished:
            self._see_the_baseline_run(trial)
            spec = self.spec(trial)
            self.publish_status(f"trial {spec.id}")
            match self._answer(spec):
                case TrialResult() as result:
                    trial = self._take(trial, spec, result)
                case JobFault(reason):
                    trial = self._lose(trial, spec, reason)
                    self.trials.forget(spec.id)
                    if not trial.finished and trial.faults > 1:  # a restart costs one loss and no pause
                        self.hold(
                            PauseCause.INFRASTRUCTURE, _look_at_trainer(f"trial {spec.id} was lost again ({reason})")
                        )
        return trial

    def _see_the_baseline_run(self, trial: Trial) -> None:
        """Run the baseline before the next attempt of a trial that was lost several times in a row.

        No other trial is requested while this trial is open, so every later trial in the journal is a witness of it.
        """
        witnesses = self._witnesses(trial)
        if trial.faults < limit_of_losses(witnesses) or self._is_baseline(trial):
            return
        if not witnesses or (witnesses[-1].finished and was_in_trouble(witnesses[-1])):
            baseline, seed = self.journal.numbered(0).id, self.next_seed()
            witnesses.append(self.journal.add_trial(self.run, baseline, Kind.DRIFT, seed=seed, at=self.clock()))
        while (witness := self.measure(witnesses[-1])).outcome is not Outcome.OK:
            witnesses[-1] = self.journal.measure_again(witness)
            reason = f"the baseline fails beside a trial that was lost ({witness.outcome}: {witness.reason})"
            self.hold(PauseCause.INFRASTRUCTURE, _look_at_trainer(reason))

    def _witnesses(self, trial: Trial) -> list[Trial]:
        return self.journal.trials_after(trial.id) if trial.faults else []

    def _is_baseline(self, trial: Trial) -> bool:
        return self.journal.experiment(trial.experiment).is_baseline

    def _free_gpu(self) -> None:
        """Unload the LLM from the GPU before a trial; otherwise the candidate would seem to run out of memory."""
        while True:
            try:
                self.proposers.free_gpu(self.tick)
            except ModelNotUnloaded as stays:
                self.hold(PauseCause.GPU, str(stays))
            else:
                self.back_off.reset(PauseCause.GPU)
                return

    def _answer(self, spec: TrialSpec) -> TrialResult | JobFault:
        """Send the attempt to the queue if it is absent there, and wait for its result."""
        was_queued = False
        while True:
            match self.trials.poll(spec.id, spec.digest):
                case Waiting():
                    was_queued = True
                    self.end_at_the_limit(self.profile.budget.wall_limit_s)
                    self.tick()
                    self.proposers.draft_ahead(self.journal)
                    self.trials.wait(spec.id)
                case Absent():
                    if was_queued:
                        logger.warning("the queue lost %s; it is queued again from the journal", spec.id)
                    self.end_at_the_limit()
                    self._free_gpu()
                    self.trials.hand_out(spec)
                case answer:
                    return answer

    def _take(self, trial: Trial, spec: TrialSpec, result: TrialResult) -> Trial:
        if result.outcome is Outcome.PREEMPTED:
            logger.info("%s was preempted; measuring it again", spec.id)
            trial = self.journal.attempt_again(trial, fault=False)
        elif result.gpu_use is not None and (shared := result.gpu_use.disturbance) is not None:
            logger.warning("%s %s: %s; measuring it again", spec.id, result.outcome, shared)
            trial = self.journal.set_aside(trial, shared, failed=False, limited=False)
            self.hold(PauseCause.GPU, f"trial {spec.id} is measured again: {shared}")
        elif (accident := accident_of(trial, result) or doubtful_failure(trial, result)) is not None:
            logger.warning("%s %s: %s; measuring it again", spec.id, result.outcome, accident)
            trial = self.journal.set_aside(trial, accident, failed=accident_of(trial, result) is None)
        elif (machine := self._machine(trial, result)) is not None and trial.differed < REPEATS_LIMIT:
            logger.warning("%s %s: %s; measuring it again", spec.id, result.outcome, machine)
            trial = self.journal.repeat_trial(trial, machine)
        else:
            trial = self.journal.finish_trial(trial, result, self.clock(), machine)
            self.back_off.reset(PauseCause.INFRASTRUCTURE)
            self.back_off.reset(PauseCause.OUTAGE)
            logger.info("%s %s: %s", spec.id, result.outcome, result.reason)
        self.trials.forget(spec.id)
        return trial

    def _machine(self, trial: Trial, result: TrialResult) -> str | None:
        """Describe how the machine's speed differed, if this may have decided the trial; otherwise return None.

        Trials of the baseline define the usual speed and are never repeated.
        """
        if trial.kind is Kind.BASELINE or result.outcome not in (Outcome.OK, Outcome.TIMED_OUT):
            return None
        difference = machine_differed(result.calibration, self.journal.known_speed(REPEATS_LIMIT, REFERENCE_TRIALS))
        if difference is None and result.gpu_use is not None:
            known_mhz = self.journal.known_clocks_mhz(REPEATS_LIMIT, REFERENCE_TRIALS)
            difference = clock_differed(result.gpu_use, known_mhz)
        if difference is None:
            return None
        others = map(self.journal.result, [each.id for each in self.journal.trials(experiment=trial.experiment)])
        why = judged_all_the_same(trial, result, difference, [other for other in others if other is not None])
        if why is None:
            return difference.words
        logger.info("%s: %s, but %s", result.id, difference.words, why)
        return None

    def _lose(self, trial: Trial, spec: TrialSpec, reason: str) -> Trial:
        """Start another attempt, or finish the trial as failed if the baseline ran since the last loss."""
        logger.warning("the attempt %s was lost by an infrastructure failure: %s", spec.id, reason)
        if trial.faults < limit_of_losses(self._witnesses(trial)) or self._is_baseline(trial):
            return self.journal.attempt_again(trial, fault=True)
        own = lost_by_its_own_doing(spec, trial.faults + 1, reason, self.clock())
        return self.journal.finish_trial(trial, own, self.clock())


def _look_at_trainer(reason: str) -> str:
    return f"{reason}; look at the trainer's log. The run tries again by itself, or now after `overnight resume`"
