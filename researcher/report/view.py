"""The read model: the run as users see it. `researcher.report.snapshot` returns all of it at once.

Everything is derived from the journal. The live status comes from Redis and may be missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

from researcher.decision.cost import Cost, cost_of
from researcher.decision.heldout import HeldOut, held_out
from researcher.decision.machine_speed import REPEATS_LIMIT
from researcher.decision.rules import pooled_sigma, rolled_back_keeps
from researcher.journal.reader import JournalReader
from researcher.journal.records import (
    Confirmation,
    ConfirmationVerdict,
    Decision,
    Experiment,
    PaidCall,
    Request,
    RequestState,
    Run,
    Trial,
)
from trainer.jobs import (
    BITS_PER_BYTE,
    CLAIMED_BY,
    TRIALS,
    Degree,
    Kind,
    Metric,
    Outcome,
    Profile,
    Progress,
    RedisClient,
    Status,
    StatusKind,
    WorkerRole,
    WorkerStatus,
    share_of,
    trial_id,
    unknown_jobs_text,
)

MIB_PER_GB = 1000**3 / 1024**2
NOT_RUNNING = "not running"
NOTED = ("llm", "dry_runs", "subject", "backup")
PULL = "pull"  # while the LLM's model is pulled, it explains why there is no LLM
FAILURES = (Outcome.CRASHED, Outcome.OUT_OF_MEMORY, Outcome.TIMED_OUT, Outcome.UNSCORABLE, Outcome.REJECTED)


@dataclass(frozen=True)
class Row:
    """One experiment in a line. Its `metric` shows scores as values.

    `rolled_back_because` is the reason why a confirmation rolled this keep back, or None.
    """

    experiment: Experiment
    trial: Trial | None
    confirmed: bool
    rolled_back_because: str | None
    took_s: float | None
    metric: Metric = BITS_PER_BYTE

    @property
    def value(self) -> float | None:
        """The value of the metric, or None without a score."""
        score = self.experiment.score
        return None if score is None else self.metric.value_of(score)

    @property
    def change(self) -> float | None:
        """The value minus the value that it had to beat. None without both."""
        return None if self.delta is None else self.metric.change(self.delta)

    @property
    def rolled_back(self) -> bool:
        """True for a keep that a confirmation rolled back."""
        return self.rolled_back_because is not None

    @property
    def note(self) -> str:
        """The note beside the status: the state of a keep's confirmation, or the kind of a failure; often empty."""
        item = self.experiment
        if item.decision is Decision.KEEP and not item.is_baseline:
            if self.rolled_back:
                return f"rolled back: {self.rolled_back_because}"
            return "confirmed" if self.confirmed else "provisional"
        if item.decision is None or item.outcome in (None, Outcome.OK) or item.outcome.is_without_trial:
            return ""
        return item.outcome.value.replace("_", " ")

    @property
    def status(self) -> str:
        """keep, discard, crash, rejected, unanswered, or the present state."""
        outcome = self.experiment.outcome
        if outcome is not None and outcome.is_without_trial:
            return outcome.value
        return str(self.experiment.decision or self.experiment.state)

    @property
    def delta(self) -> float | None:
        """The score minus the score that it had to beat, the best at that time: below 0 is better. None without
        both."""
        beaten = None if self.trial is None else self.trial.score_to_beat
        return None if beaten is None or self.experiment.score is None else self.experiment.score - beaten

    @property
    def memory_gb(self) -> float | None:
        """Peak memory in GB: the GPU's if there is one, else the process tree's."""
        mib = None if self.trial is None else self.trial.memory_mib
        return None if mib is None else mib / MIB_PER_GB


@dataclass(frozen=True)
class Gain:
    """The gain over the baseline's score, above 0 if it is better. Only `confirmed` is proven."""

    baseline: float
    confirmed: float | None
    provisional: float | None


@dataclass(frozen=True)
class LiveStatus:
    """The live status. `trial` and `progress` are None between trials, `workers` are those with a heartbeat.

    `status` is the researcher's, or the end of its run. It is None without a running researcher, and `silent` is the
    text to show then. `answers` is False if Redis does not answer. `foreign` describes refused unknown jobs, `notes` is
    the state of each source in `NOTED`.
    """

    status: Status | None
    trial: str | None = None
    progress: Progress | None = None
    workers: tuple[WorkerStatus, ...] = ()
    foreign: str | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    silent: str = NOT_RUNNING
    answers: bool = True

    @property
    def doing(self) -> str:
        """The researcher's status as text for users."""
        return self.silent if self.status is None else str(self.status)

    @property
    def trainers(self) -> tuple[WorkerStatus, ...]:
        """The workers that run trials."""
        return tuple(worker for worker in self.workers if worker.role is WorkerRole.TRAINER)


@dataclass(frozen=True)
class RunReport:
    """The present state of a run.

    `remeasured` are trials that measured an incumbent again to detect failures and drift. `running_s` is the time from
    the first start to now or to the run's last event. `baseline_repeats` is the number of trials of the baseline, and
    `measuring` is True while a trial waits or runs.
    """

    run: Run
    rows: tuple[Row, ...]
    confirmations: tuple[Confirmation, ...]
    remeasured: tuple[Trial, ...]
    requests: tuple[Request, ...]
    baseline_scores: tuple[float, ...]
    incumbent_scores: tuple[float, ...]
    lost_attempts: int
    repeated_attempts: int
    sigma: float | None
    gain: Gain | None
    running_s: float
    cost: Cost
    heldout: HeldOut
    paid: tuple[PaidCall, ...]
    baseline_repeats: int
    measuring: bool

    @property
    def tally(self) -> dict[str, int]:
        """The number of experiments by decision and by kind of failure.

        The last two entries count attempts, not experiments.
        """
        decided = [row.experiment for row in self.rows if not row.experiment.is_baseline and row.experiment.decision]
        scored = Counter(item.decision for item in decided if item.outcome is Outcome.OK)
        failed = Counter(item.outcome for item in decided)
        counts = {str(decision): scored[decision] for decision in (Decision.KEEP, Decision.DISCARD)}
        counts |= {outcome.value: failed[outcome] for outcome in (*FAILURES, Outcome.UNANSWERED)}
        return counts | {"infrastructure": self.lost_attempts, "repeated": self.repeated_attempts}

    @property
    def measured(self) -> int:
        """The number of experiments measured so far."""
        return sum(row.experiment.was_measured for row in self.rows)

    def row(self, experiment: int | None) -> Row | None:
        """Return the row of an experiment by its id, or None."""
        return next((row for row in self.rows if row.experiment.id == experiment), None)

    def decided_confirmations(self, experiment: Experiment) -> list[Confirmation]:
        """Return the confirmations of an experiment that have a verdict, oldest first."""
        return [each for each in self.confirmations if each.head == experiment.id and each.verdict is not None]

    @property
    def standing_claims(self) -> list[Confirmation]:
        """The confirmed claims whose gain still stands, oldest first."""
        fallen = {row.experiment.id for row in self.rows if row.rolled_back}
        confirmed = [each for each in self.confirmations if each.verdict is ConfirmationVerdict.CONFIRMED]
        return [each for each in confirmed if each.head not in fallen]

    @property
    def closest(self) -> Row | None:
        """The measured experiment with the lowest score among those that were not kept, or None."""
        lost = [row for row in self.rows if row.experiment.score is not None and row.status != "keep"]
        return min(lost, key=lambda row: row.experiment.score or 0.0, default=None)

    @property
    def incumbent(self) -> Row | None:
        """The row of the version that a candidate must beat."""
        return self.row(self.run.incumbent)

    @property
    def seconds_each(self) -> float | None:
        """Mean wall seconds from proposal to decision, over the last ten measured experiments."""
        took = [row.took_s for row in self.rows if row.experiment.was_measured and row.took_s is not None][-10:]
        return fmean(took) if took else None


def build_report(history: JournalReader, profile: Profile, at: float | None = None) -> RunReport | None:
    """Return the run in a journal, or None before the first run. `at` is the present of a run that goes on."""
    run = history.run()
    if run is None:
        return None
    experiments, confirmations = history.experiments(), history.confirmations()
    trials = history.trials()
    rolled_back_because = rolled_back_keeps(experiments, confirmations)
    scores = history.scores()
    baseline = tuple(scores.get(experiments[0].id, ()))
    last = max((trial.finished_at or trial.queued_at for trial in trials), default=run.created_at)
    running_s = max(0.0, (at or run.ended_at or last) - run.created_at)
    return RunReport(
        run=run,
        rows=rows_of(history.lineage(run.confirmed), experiments, trials, rolled_back_because, run.metric),
        confirmations=tuple(confirmations),
        remeasured=tuple(trial for trial in trials if trial.kind is Kind.DRIFT and trial.val_bpb is not None),
        requests=tuple(history.requests()),
        baseline_scores=baseline,
        incumbent_scores=tuple(scores.get(run.incumbent or 0, ())),
        lost_attempts=sum(trial.faults + (trial.outcome is Outcome.LOST) for trial in trials),
        repeated_attempts=sum(min(trial.differed, REPEATS_LIMIT) for trial in trials),
        sigma=pooled_sigma(list(scores.values()), profile.sigma_floor) if len(baseline) > 1 else None,
        gain=_gain(run, experiments, [each for each in confirmations if each.head not in rolled_back_because], scores),
        running_s=running_s,
        cost=cost_of(run, experiments, trials, running_s),
        heldout=held_out(experiments, confirmations, rolled_back_because, trials),
        paid=tuple(history.paid_calls()),
        baseline_repeats=profile.baseline_repeats,
        measuring=any(not trial.finished for trial in trials),
    )


def rows_of(
    confirmed: Sequence[int],
    experiments: list[Experiment],
    trials: list[Trial],
    rolled_back_because: dict[int, str],
    metric: Metric = BITS_PER_BYTE,
) -> tuple[Row, ...]:
    """Return a row for each experiment.

    `confirmed` is the lineage of the last confirmed version. `trials` contains at least the trials of the experiments,
    and `rolled_back_because` all rolled-back keeps of the run.
    """
    standing = set(confirmed)
    first = {trial.experiment: trial for trial in reversed(trials) if trial.confirmation is None}
    return tuple(
        Row(
            experiment=item,
            trial=first.get(item.id),
            confirmed=item.id in standing,
            rolled_back_because=rolled_back_because.get(item.id),
            took_s=None if item.decided_at is None else item.decided_at - item.proposed_at,
            metric=metric,
        )
        for item in experiments
    )


def headline(report: RunReport) -> str:
    """Return the result of the run in one sentence. Its percentage is the confirmed gain over the baseline's mean."""
    gain, tried = report.gain, f"{report.measured} tried"
    claimed = f", {CLAIMED_BY}" if report.run.degree is Degree.CLAIMED else ""
    if gain is None:
        return f"Measuring the start: {len(report.baseline_scores)} of {report.baseline_repeats} times so far"
    if gain.confirmed is not None:
        times = min(each.pairs for each in report.standing_claims)
        return f"{size_text(report, gain.confirmed)} better than the start, measured again {times} times{claimed}"
    if gain.provisional is not None and gain.provisional > 0:
        looks = size_text(report, gain.provisional)
        return f"Perhaps {looks} better than the start, not yet measured again ({tried}){claimed}"
    if report.run.ended is not None:
        return f"Nothing better than the start was found ({tried})"
    return f"Nothing better than the start yet ({tried})"


def size_text(report: RunReport, gain: float) -> str:
    """Return a gain as a percentage of the baseline, or in the metric's unit for a baseline of 0. The baseline must be
    measured."""
    assert report.gain is not None
    share = share_of(gain, report.gain.baseline)
    return f"{gain:g} {report.run.metric.unit}".strip() if share is None else percent(share)


def percent(share: float) -> str:
    """Return a share as a percentage with at least two significant digits."""
    value = 100 * share
    return f"{value:.1f} %" if abs(value) >= 1 else f"{value:.2g} %"


def tally_text(report: RunReport) -> str:
    """Return the tally as text. Zero counts are omitted, except for keeps and discards."""
    words = {
        "keep": "kept",
        "discard": "discarded",
        "infrastructure": "lost to the infrastructure",
        "repeated": "measured again",
    }
    return ", ".join(
        f"{count} {words.get(name) or name.replace('_', ' ')}"
        for name, count in report.tally.items()
        if count or name in ("keep", "discard")
    )


def now(history: JournalReader | None, bus: RedisClient) -> LiveStatus:
    """Return the live status from Redis. `history` is None while there is no readable journal."""
    run, running = (None, None) if history is None else (history.run(), history.running_trial())
    status = bus.doing("researcher")
    workers = tuple(worker for role in WorkerRole for worker in bus.workers(role))
    if status is None and run is not None and run.ended is not None:
        status = Status(StatusKind.ENDED, run.ended)
    live = LiveStatus(status, workers=workers, notes=_notes(bus))
    live = replace(live, foreign=_foreign(bus, live.trainers))
    if history is None or run is None or running is None:
        return live
    number = history.experiment(running.experiment).number
    name = trial_id(run.tag, number, running.number, running.attempt)
    return replace(live, trial=name, progress=bus.read_progress(name))


def _foreign(bus: RedisClient, trainers: tuple[WorkerStatus, ...]) -> str | None:
    """Return the message about unknown jobs in the queues of trials and requests, or None."""
    if refused := sum(trainer.refused for trainer in trainers):
        return unknown_jobs_text(refused, TRIALS)
    shown = bus.doing("requests")
    return None if shown is None else shown.message


def _notes(bus: RedisClient) -> dict[str, str]:
    """Return the researcher's messages about parts that the run can do without."""
    shown = {source: bus.doing(source) for source in NOTED}
    notes = {source: status.message for source, status in shown.items() if status is not None and status.message}
    pull = bus.doing(PULL)
    return notes if pull is None else notes | {"llm": f"none yet: {pull.message}"}


def _gain(
    run: Run, experiments: list[Experiment], standing: list[Confirmation], scores: dict[int, list[float]]
) -> Gain | None:
    if run.incumbent is None:
        return None
    baseline = fmean(scores[experiments[0].id])
    confirmed = sum(each.gain or 0.0 for each in standing if each.verdict is ConfirmationVerdict.CONFIRMED)
    head = fmean(scores[run.incumbent])
    return Gain(
        baseline=baseline,
        confirmed=confirmed if run.confirmed != experiments[0].id else None,
        provisional=baseline - head if run.incumbent != run.confirmed else None,
    )


def waiting(report: RunReport) -> list[Request]:
    """Return the requests that still wait: ideas, files and claims."""
    return [request for request in report.requests if request.state is RequestState.WAITING]
