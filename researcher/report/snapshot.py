"""The state of a run at one moment, for all views: a terminal, a file, a page.

`snapshot` reads the journal and Redis once. Views draw the report, or send it as JSON with `Report.to_json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean

import redis

from researcher.decision.goal import ends_at, standing_of
from researcher.decision.heldout import HeldOutGain
from researcher.journal.reader import JournalReader
from researcher.journal.records import Trial
from researcher.report.document import (
    VERSION,
    Best,
    CostFields,
    Document,
    GainFields,
    GoalFields,
    MetricFields,
    Progress,
    RunFields,
    RunState,
    Times,
    WaitingRequest,
)
from researcher.report.proposer_stats import Rates, rates_of
from researcher.report.results_table import values_of
from researcher.report.stall_alarm import alarm
from researcher.report.view import NOT_RUNNING, LiveStatus, Row, RunReport, build_report, headline, now, waiting
from researcher.source.knobs import range_faults
from trainer.jobs import Profile, RedisClient, Status, StatusKind

GOES_ON = (RunState.RUNNING, RunState.PAUSING, RunState.PAUSED)


@dataclass(frozen=True)
class Report:
    """The whole state of a run for users, at the moment `at` in seconds since the epoch.

    `run_report` is the content of the journal, or None before the run has started, or while the journal cannot be read;
    then `unreadable` is the reason. `live` is the live status, or None without a Redis. `alarm` is the reason for a
    stall, or None. `rates` has an entry for each proposer with at least one try. `range_faults` has an entry for each
    name of the incumbent's train.py whose range comment the optimiser cannot use. `options` holds the settings that the
    state folder remembers, by key.
    """

    run_report: RunReport | None
    live: LiveStatus | None = None
    alarm: str | None = None
    rates: tuple[Rates, ...] = ()
    range_faults: Mapping[str, str] = field(default_factory=dict)
    unreadable: str | None = None
    at: float = 0.0
    times: Times | None = None
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> RunState:
        """The state of the run, from the journal and the live status."""
        return _state_of(self.run_report, self.live)

    @property
    def goes_on(self) -> bool:
        """Whether the run runs, or is paused."""
        return self.state in GOES_ON

    @property
    def doing(self) -> str:
        """The researcher's activity as text, or the reason why there is none."""
        ended = None if self.run_report is None else self.run_report.run.ended
        return self.live.doing if self.live is not None else ended or NOT_RUNNING

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON values, as `overnight status --json` prints them."""
        return asdict(self.document())

    def document(self) -> Document:
        """Return the report as the document of `overnight status --json`."""
        found, live = self.run_report, self.live
        return Document(
            version=VERSION,
            at=self.at,
            state=self.state,
            doing=self.doing,
            headline=None if found is None else headline(found),
            run=None if found is None else _run_fields(found),
            metric=None if found is None else _metric_fields(found),
            times=self.times,
            goal=None if found is None else GoalFields(**asdict(found.run.goal)),
            progress=None if found is None else Progress(found.measured, found.seconds_each),
            cost=None if found is None else CostFields(**asdict(found.cost)),
            best=None if found is None else _best(found),
            gain=None if found is None else _gain_fields(found),
            tally={} if found is None else found.tally,
            proposers=[each.figures() for each in self.rates],
            alarm=self.alarm,
            range_faults=dict(self.range_faults),
            options=dict(self.options),
            notes={} if live is None else dict(live.notes),
            workers=[] if live is None else [asdict(worker) for worker in live.workers],
            waiting=[] if found is None else _waiting(found),
            rows=self.rows_json(),
        )

    def rows_json(self) -> list[dict[str, object]]:
        """Return a JSON object for each experiment, oldest first, as results.json holds them."""
        run_report = self.run_report
        return [] if run_report is None else [_row_json(run_report, row) for row in run_report.rows]


def snapshot(history: JournalReader, bus: RedisClient | None, profile: Profile, at: float) -> Report:
    """Return the state of a run at the time `at`. `bus` is None without a Redis.

    A Redis that does not answer is reported in `live`. Raises JournalError if the journal cannot be read.
    """
    live = _live(history, bus)
    run_report = build_report(history, profile, at if _is_at_work(live) else None)
    if run_report is None:
        return Report(None, live, at=at)
    trials = history.trials()
    return Report(
        run_report=run_report,
        live=live,
        alarm=alarm(run_report.run, trials, profile.budget, live, at),
        rates=rates_of(run_report.run, run_report.rows, history.scores()),
        range_faults=range_faults(history.source(run_report.run.incumbent or history.numbered(0).id)),
        at=at,
        times=_times(run_report, live, trials, profile, at),
    )


def _is_at_work(live: LiveStatus | None) -> bool:
    """Whether a researcher works on the run, or is paused."""
    return live is not None and live.status is not None and not live.status.is_over


def _state_of(run_report: RunReport | None, live: LiveStatus | None) -> RunState:
    status = None if live is None else live.status
    if status is not None and status.is_over:
        return RunState.REFUSED if status.kind is StatusKind.REFUSED else RunState.ENDED
    if status is not None and run_report is not None:
        return _going_state(run_report, status)
    if run_report is not None and run_report.run.ended is not None:
        return RunState.ENDED
    if live is not None and not live.answers:
        return RunState.UNKNOWN
    return RunState.STARTING if run_report is None else RunState.STOPPED


def _going_state(run_report: RunReport, status: Status) -> RunState:
    run = run_report.run
    if run.paused_by_user and run_report.measuring:
        return RunState.PAUSING
    return RunState.PAUSED if run.pause is not None or status.kind is StatusKind.HELD else RunState.RUNNING


def _times(
    run_report: RunReport, live: LiveStatus | None, trials: Sequence[Trial], profile: Profile, at: float
) -> Times:
    run, state = run_report.run, _state_of(run_report, live)
    experiments = [row.experiment for row in run_report.rows]
    standing = standing_of(experiments, trials, run_report.cost, profile.budget, at, run.prices.per_hour)
    end = ends_at(run.goal, standing) if state in (RunState.RUNNING, RunState.PAUSING) else None
    return Times(run.created_at, run_report.running_s, run.ended_at, end)


def without_journal(bus: RedisClient | None, unreadable: str | None = None) -> Report:
    """Return the state from Redis alone, before the journal exists or while it is `unreadable`."""
    silent = "the researcher starts" if unreadable is None else NOT_RUNNING
    return Report(None, _live(None, bus, silent), unreadable=unreadable)


def _live(history: JournalReader | None, bus: RedisClient | None, silent: str = NOT_RUNNING) -> LiveStatus | None:
    if bus is None:
        return None
    try:
        return replace(now(history, bus), silent=silent)
    except redis.RedisError as error:
        away = f"Redis does not answer ({error}), so the live status is unknown; all else is from the journal"
        return LiveStatus(None, silent=away, answers=False)


def _run_fields(run_report: RunReport) -> RunFields:
    run = run_report.run
    return RunFields(run.tag, run.profile, run.budget, run.branch, run.base_commit)


def _metric_fields(run_report: RunReport) -> MetricFields:
    metric = run_report.run.metric
    return MetricFields(metric.name, metric.unit, metric.direction, run_report.run.degree)


def _best(run_report: RunReport) -> Best | None:
    best, run = run_report.incumbent, run_report.run
    if best is None:
        return None
    item, scores, is_confirmed = best.experiment, run_report.incumbent_scores, run.incumbent == run.confirmed
    value = run.metric.value_of(fmean(scores))
    return Best(item.number, item.title, value, len(scores), is_confirmed, item.commit_sha)


def _gain_fields(run_report: RunReport) -> GainFields | None:
    gain = run_report.gain
    if gain is None:
        return None
    baseline = run_report.run.metric.value_of(gain.baseline)
    return GainFields(baseline, gain.confirmed, gain.provisional, run_report.heldout.confirmed)


def _waiting(run_report: RunReport) -> list[WaitingRequest]:
    found = waiting(run_report)
    return [WaitingRequest(each.kind, each.body.partition("\n")[0], each.received_at) for each in found]


def _row_json(run_report: RunReport, row: Row) -> dict[str, object]:
    heldout, item = run_report.heldout, row.experiment
    keep = heldout.keeps.get(item.id)
    return values_of(row) | {
        "heldout": None if keep is None else asdict(keep) | _gains_json(keep),
        "claims": [
            {"verdict": each.verdict, "gain": each.gain, "unseen_gain": each.unseen_gain}
            | _gains_json(heldout.claims.get(each.id))
            for each in run_report.decided_confirmations(item)
        ],
    }


def _gains_json(compared: HeldOutGain | None) -> dict[str, object]:
    return {} if compared is None else {"val_gain": compared.val_gain, "heldout_gain": compared.heldout_gain}
