"""The lab: everything a step of the night works with, and how one trial is measured in it.

Measuring is repeatable: the spec is rebuilt from the journal and git, the queue runs an attempt once, and an attempt
lost to the machine buys another. While it waits, the lab serves requests.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from researcher.decision import Rule, pooled_sigma
from researcher.errors import ModelStays
from researcher.experiment import Experiment, Run, Trial
from researcher.journal import Journal
from researcher.proposers import Proposers
from researcher.settings import CrashReset
from researcher.trials import Absent, Fault, TrialQueue, Waiting
from researcher.view import Cost, cost_of
from researcher.workspace import Workspace
from trainer.jobs import Outcome, Profile, TrialResult, TrialSpec, files_digest, trial_id

logger = logging.getLogger(__name__)

FAULTS_LIMIT = 3


@dataclass(frozen=True)
class Goal:
    """When the night is over: at whatever limit is reached first. None is no limit; `hours` are those of `Cost`."""

    experiments: int | None = None
    hours: float | None = None
    max_cost: float | None = None

    def reached(self, measured: int, cost: Cost) -> str | None:
        """Why the night is over, in words; None while it is not."""
        if self.experiments is not None and measured >= self.experiments:
            return f"{measured} of {self.experiments} experiments are measured"
        if self.hours is not None and cost.hours >= self.hours:
            return f"{cost.hours:.2f} of {self.hours:g} hours of trials and LLM are used"
        if self.max_cost is not None and cost.money is not None and cost.money >= self.max_cost:
            return f"{cost.money:.2f} of {self.max_cost:g} are spent"
        return None


class BackOff:
    """How long to hold after each fault of the machine in a row: 30 s, doubled up to half an hour."""

    FIRST_S = 30.0
    LAST_S = 1800.0

    def __init__(self) -> None:
        self._next_s = self.FIRST_S

    def next_s(self) -> float:
        """This time's hold; the next one is longer."""
        now_s = self._next_s
        self._next_s = min(2 * now_s, self.LAST_S)
        return now_s

    def reset(self) -> None:
        """The machine works again."""
        self._next_s = self.FIRST_S


@dataclass(frozen=True)
class Lab:
    """The collaborators. `tick` serves requests, `rest` does so and lets a moment pass; both raise on a stop."""

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
    say: Callable[[str], None]
    clock: Callable[[], float] = time.time
    back_off: BackOff = field(default_factory=BackOff)

    @property
    def run(self) -> Run:
        """The run under way."""
        run = self.journal.run()
        assert run is not None, "the lab opens only once a run has started"
        return run

    def incumbent(self) -> Experiment | None:
        """What a candidate must beat; None until the baseline is measured."""
        run = self.run
        return None if run.incumbent is None else self.journal.experiment(run.incumbent)

    def sigma(self) -> float:
        """Standard deviation over seeds, from every group of repeats so far."""
        return pooled_sigma(list(self.journal.scores().values()), self.profile.sigma_floor)

    def spec(self, trial: Trial) -> TrialSpec:
        """The work of a trial's current attempt, from the journal and git alone."""
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
            budget=self.profile.budget,
            caps=self.profile.caps,
            score_to_beat=trial.score_to_beat,
        )

    def incumbent_commit(self) -> str:
        """The commit a candidate builds on: the incumbent's, or the untouched subject's before the baseline stands."""
        incumbent = self.incumbent()
        if incumbent is None:
            return self.run.base_commit
        assert incumbent.commit_sha is not None, "an incumbent was committed"
        return incumbent.commit_sha

    def next_seed(self) -> int:
        """The seed of the next trial: a fixed sequence per run, so that a night can be told again."""
        return random.Random(f"{self.run.seed} {self.journal.trial_count()}").randrange(1, 2**31)

    def goal_reached(self) -> str | None:
        """Why the night is over, in words, from the journal alone; None while it is not."""
        journal = self.journal
        cost = cost_of(self.run, journal.experiments(), journal.trials())
        return self.goal.reached(journal.measured_count(), cost)

    def hold(self, reason: str) -> None:
        """A fault of the machine or the subject: pause, longer each time, and go on by itself or on `resume`."""
        back_off_s = self.back_off.next_s()
        logger.error("PAUSED for %.0f s: %s", back_off_s, reason)
        self.journal.pause(self.run, reason)
        until = self.clock() + back_off_s
        while self.run.paused == reason and self.clock() < until:
            self.say(f"paused: {reason}")
            self.rest()
        if self.run.paused == reason:
            self.journal.pause(self.run, None)

    def measure(self, trial: Trial) -> Trial:
        """Wait until a trial is finished, through lost machines and restarts, and write its result down."""
        while not trial.finished:
            spec = self.spec(trial)
            self.say(f"trial {spec.id}")
            match self.trials.look(spec.id, spec.digest):
                case TrialResult() as result:
                    trial = self._take(trial, spec, result)
                case Fault(reason):
                    trial = self._lose(trial, spec, reason)
                    self.trials.forget(spec.id)
                case Waiting():
                    self._wait(spec)
                case Absent():
                    self._free_card()
                    self.trials.hand_out(spec)
        return trial

    def _free_card(self) -> None:
        """No trial begins on a card that an LLM fills: its candidate would look out of memory by its own fault."""
        while True:
            try:
                self.proposers.leave_card(self.tick)
            except ModelStays as stays:
                self.hold(str(stays))
            else:
                return

    def _wait(self, spec: TrialSpec) -> None:
        while isinstance(self.trials.look(spec.id, spec.digest), Waiting):
            self.tick()
            self.trials.wait(spec.id)

    def _take(self, trial: Trial, spec: TrialSpec, result: TrialResult) -> Trial:
        if result.outcome is Outcome.PREEMPTED:
            logger.info("%s was preempted; measuring it again", spec.id)
            trial = self.journal.attempt_again(trial, fault=False)
        else:
            trial = self.journal.finish_trial(trial, result, self.clock())
            if result.outcome is Outcome.OK:
                self.back_off.reset()
            logger.info("%s %s: %s", spec.id, result.outcome, result.reason)
        self.trials.forget(spec.id)
        return trial

    def _lose(self, trial: Trial, spec: TrialSpec, reason: str) -> Trial:
        logger.warning("%s was lost to the machine: %s", spec.id, reason)
        if trial.faults + 1 < FAULTS_LIMIT:
            return self.journal.attempt_again(trial, fault=True)
        now = self.clock()
        gone = TrialResult(
            id=spec.id,
            spec_digest=spec.digest,
            outcome=Outcome.LOST,
            reason=f"{FAULTS_LIMIT} attempts were lost to the machine; the last: {reason}",
            started_at=now,
            finished_at=now,
        )
        return self.journal.finish_trial(trial, gone, now)
