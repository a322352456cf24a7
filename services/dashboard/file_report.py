"""The report of a run: one HTML file to send to others, drawn by the templates of the page.

It needs no server, network or other file. Its policy allows only the script and the style that it holds, so that no
text of a candidate or of a model can run.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from researcher.report.view import Row, RunReport, tally_text
from services.dashboard.experiment import ExperimentView, experiment_view
from services.dashboard.experiments import chart_of, kind_of, label_of
from services.dashboard.facts import facts_of
from services.dashboard.learned import failures_of
from services.dashboard.pages import render
from services.dashboard.run_data import RunData
from services.machine.installation import version
from services.machine.state import State
from services.views.render import clock_text, heldout_text
from services.views.show import NothingToShow

STATIC = Path(__file__).with_name("static")
MOST_CHANGES = 20  # with their differences, of each kind


def report_of(state: State) -> str:
    """Return the report of the run in a state folder as HTML. Raises NothingToShow before the run's first start."""
    with closing(RunData(state)) as data:
        report = data.snapshot().report
        found = report.run_report
        if found is None:
            raise NothingToShow(report.unreadable or "no run has started yet")
        facts = facts_of(report)
        script, style = ((STATIC / name).read_text(encoding="utf-8") for name in ("chart.js", "page.css"))
        return render(
            "report.html",
            report=report,
            found=found,
            better=facts.better,
            tally=facts.tally,
            counts=tally_text(found),
            costs=tuple(_costs(found)),
            held_out=heldout_text(found),
            has_chart=found.gain is not None,
            confirmed=_changes(data, [row for row in found.rows if kind_of(row) == "confirmed"]),
            provisional=_changes(data, [row for row in found.rows if kind_of(row) == "keep"]),
            knobs=data.knobs(),
            failures=failures_of(found.rows),
            best_commit=None if found.incumbent is None else found.incumbent.experiment.commit_sha,
            version=version(),
            kind_of=kind_of,
            label_of=label_of,
            chart=json.dumps(chart_of(found), separators=(",", ":")).replace("<", "\\u003c"),
            script=script,
            script_hash=_hash(script),
            style=style,
            style_hash=_hash(style),
        )


def _changes(data: RunData, rows: list[Row]) -> list[ExperimentView]:
    """Return the views of those with the largest gains."""
    best = sorted(rows, key=lambda row: row.delta or 0.0)[:MOST_CHANGES]
    return [experiment_view(data.detail(row.experiment.number)) for row in best]


def _costs(found: RunReport) -> Iterator[tuple[str, str]]:
    """Yield the cost of a measured experiment and of a confirmed gain, in money, or in time of trials without a
    price."""
    counts = {"an experiment": found.measured, "a confirmed gain": len(found.standing_claims)}
    for name, count in counts.items():
        if count:
            money = found.cost.money
            yield name, clock_text(found.cost.trial_s / count) if money is None else f"{money / count:.2f}"


def _hash(text: str) -> str:
    """Return the name of a text in a Content-Security-Policy."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
