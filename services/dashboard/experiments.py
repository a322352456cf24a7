"""All experiments: the table with its filters, and the chart's data. Pure functions of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from researcher.report.staircase import corners_of, place_at, scale_of
from researcher.report.view import Row, RunReport
from trainer.jobs import Outcome, share_of

PAGE_ROWS = 100
SORTS: dict[str, Callable[[Row], float]] = {
    "number": lambda row: row.experiment.number,
    "value": lambda row: float("inf") if row.experiment.score is None else row.experiment.score,
    "change": lambda row: float("inf") if row.delta is None else row.delta,
    "seconds": lambda row: row.took_s or 0.0,
}
SHOWN = {
    "all": "All",
    "keep": "Kept",
    "confirmed": "Confirmed",
    "rolled_back": "Rolled back",
    "discard": "Discarded",
    "stopped_early": "Stopped early",
    "failed": "Failed",
    "rejected": "Rejected",
    "running": "Under way",
}
LABELS = {
    "start": "the start",
    "confirmed": "kept, confirmed",
    "keep": "kept, provisional",
    "rolled_back": "kept, rolled back",
    "discard": "discarded",
    "stopped_early": "stopped early",
    "failed": "failed",
    "rejected": "rejected",
    "running": "under way",
}


def kind_of(row: Row) -> str:
    """Return the kind under which an experiment is drawn and filtered, a key of `LABELS`."""
    item = row.experiment
    if item.is_baseline:
        return "start"
    if item.outcome is not None and item.outcome.is_without_trial:
        return "rejected"
    if item.decision is None:
        return "running"
    if row.status == "keep":
        return "rolled_back" if row.rolled_back else "confirmed" if row.confirmed else "keep"
    if item.outcome == "stopped_early":
        return "stopped_early"
    return "discard" if item.outcome is Outcome.OK else "failed"


def label_of(row: Row) -> str:
    """Return the result of an experiment in two or three words."""
    kind = kind_of(row)
    return row.note if kind == "failed" and row.note else LABELS[kind]


@dataclass(frozen=True)
class Query:
    """A view of the table, as its address holds it."""

    shown: str = "all"
    sort: str = "number"
    descending: bool = True
    search: str = ""
    page: int = 1

    def address(self, **changes: Any) -> str:
        """Return the address of this view with some changes, on the first page unless they name another."""
        view = replace(self, **({"page": 1} | changes))
        order = "desc" if view.descending else "asc"
        fields = {"show": view.shown, "sort": view.sort, "order": order, "q": view.search, "page": view.page}
        return "/experiments?" + urlencode(fields)

    def sorted_by(self, column: str) -> str:
        """Return the address of this view sorted by a column; by the present column in the other direction."""
        return self.address(sort=column, descending=not self.descending if column == self.sort else column == "number")


@dataclass(frozen=True)
class Listing:
    """One page of the table. `counts` has the number of rows of each kind in `SHOWN`."""

    query: Query
    rows: tuple[Row, ...]
    found: int
    pages: int
    counts: dict[str, int]


def query_of(show: str, sort: str, order: str, search: str, page: int) -> Query:
    """Return the view that an address means; unknown words mean the usual view."""
    return Query(
        shown=show if show in SHOWN else "all",
        sort=sort if sort in SORTS else "number",
        descending=order != "asc",
        search=search.strip()[:200],
        page=max(1, page),
    )


def listing_of(rows: Sequence[Row], query: Query) -> Listing:
    """Return the page of the table that a query asks for."""
    counts = {shown: sum(_is_shown(row, shown) for row in rows) for shown in SHOWN}
    needle = query.search.casefold()
    found = [row for row in rows if _is_shown(row, query.shown) and needle in _text_of(row)]
    found.sort(key=SORTS[query.sort], reverse=query.descending)
    pages = max(1, -(-len(found) // PAGE_ROWS))
    first = (min(query.page, pages) - 1) * PAGE_ROWS
    return Listing(query, tuple(found[first : first + PAGE_ROWS]), len(found), pages, counts)


def _is_shown(row: Row, shown: str) -> bool:
    kind = kind_of(row)
    return shown in ("all", kind) or (shown == "keep" and kind in ("confirmed", "rolled_back"))


def _text_of(row: Row) -> str:
    item = row.experiment
    return f"{item.number} {item.title} {item.hypothesis} {item.proposer or ''} {item.reason or ''}".casefold()


def chart_of(found: RunReport) -> dict[str, object]:
    """Return the data of the chart as plain JSON values: an array for each experiment, to keep it small.

    A point is number, kind, value, change, title. `band` is one standard deviation of a score.
    """
    kinds = list(LABELS)
    chart: dict[str, object] = {"kinds": LABELS, "points": [], "corners": [], "claims": [], "scale": None}
    if found.gain is None:
        return chart
    metric, scale = found.run.metric, scale_of(found)
    base = found.gain.baseline
    return chart | {
        "points": [
            [
                row.experiment.number,
                kinds.index(kind_of(row)),
                _rounded(row.value),
                _rounded(row.change),
                row.experiment.title[:120],
            ]
            for row in found.rows
        ],
        "corners": [[x, _rounded(metric.value_of(y))] for x, y in corners_of(found)],
        "claims": _claims(found),
        "scale": sorted((metric.value_of(scale.low), metric.value_of(scale.high))),
        "lower": not scale.turned,
        "band": _rounded(found.sigma) or 0,
        "start": metric.value_of(base),
        "percent": share_of(1.0, base),
        "metric": metric.name,
        "unit": metric.explained(found.run.degree),
    }


def _claims(found: RunReport) -> list[list[object]]:
    """Return place, value, needed gain and verdict of each decided claim."""
    numbers = {row.experiment.id: row.experiment.number for row in found.rows}
    return [
        [
            place_at(found, each.decided_at),
            _rounded(found.run.metric.value_of(each.head_score)),
            _rounded(each.threshold),
            each.verdict,
            numbers.get(each.head),
        ]
        for each in found.confirmations
        if each.decided_at and each.head_score is not None and each.threshold is not None and each.verdict
    ]


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 6)
