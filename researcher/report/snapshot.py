"""The state of a run at one moment, for all views: a terminal, a file, a page.

`snapshot` reads the journal and Redis once. Views draw the report, or send it as JSON with `Report.to_json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import redis

from researcher.decision.heldout import HeldOutGain
from researcher.journal.reader import JournalReader
from researcher.report.proposer_stats import Rates, rates_of
from researcher.report.results_table import values_of
from researcher.report.stall_alarm import alarm
from researcher.report.view import NOT_RUNNING, LiveStatus, Row, RunReport, build_report, now
from researcher.source.knobs import range_faults
from trainer.jobs import Profile, RedisClient


@dataclass(frozen=True)
class Report:
    """The whole state of a run for users.

    `run_report` is the content of the journal, or None before the run has started, or while the journal cannot be read;
    then `unreadable` is the reason. `live` is the live status, or None without a Redis. `alarm` is the reason for a
    stall, or None. `rates` has an entry for each proposer with at least one try. `range_faults` has an entry for each
    name of the incumbent's train.py whose range comment the optimiser cannot use.
    """

    run_report: RunReport | None
    live: LiveStatus | None = None
    alarm: str | None = None
    rates: tuple[Rates, ...] = ()
    range_faults: Mapping[str, str] = field(default_factory=dict)
    unreadable: str | None = None

    def to_json(self) -> dict[str, object]:
        """Return the report as plain JSON values, as `overnight status --json` prints them."""
        run_report = self.run_report
        return {
            "gain": None if run_report is None else _gain_json(run_report),
            "tally": {} if run_report is None else run_report.tally,
            "proposers": [each.figures() for each in self.rates],
            "alarm": self.alarm,
            "range_faults": dict(self.range_faults),
            "notes": {} if self.live is None else dict(self.live.notes),
            "workers": [] if self.live is None else [asdict(worker) for worker in self.live.workers],
            "rows": self.rows_json(),
        }

    def rows_json(self) -> list[dict[str, object]]:
        """Return a JSON object for each experiment, oldest first, as results.json holds them."""
        run_report = self.run_report
        return [] if run_report is None else [_row_json(run_report, row) for row in run_report.rows]


def snapshot(history: JournalReader, bus: RedisClient | None, profile: Profile, at: float) -> Report:
    """Return the state of a run at the time `at`. `bus` is None without a Redis.

    A Redis that does not answer is reported in `live`. Raises JournalError if the journal cannot be read.
    """
    live = _live(history, bus)
    run_report = build_report(history, profile)
    if run_report is None:
        return Report(None, live)
    return Report(
        run_report=run_report,
        live=live,
        alarm=alarm(run_report.run, history.trials(), profile.budget, live, at),
        rates=rates_of(run_report.run, run_report.rows, history.scores()),
        range_faults=range_faults(history.source(run_report.run.incumbent or history.numbered(0).id)),
    )


def without_journal(bus: RedisClient, unreadable: str | None = None) -> Report:
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
        return LiveStatus(None, silent=away)


def _gain_json(run_report: RunReport) -> dict[str, object] | None:
    gain = run_report.gain
    return None if gain is None else asdict(gain) | {"confirmed_heldout": run_report.heldout.confirmed}


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
