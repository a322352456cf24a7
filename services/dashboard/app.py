"""The addresses of the page, as a FastAPI application."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import disk_usage

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from researcher.errors import JournalError, OvernightError
from researcher.report.view import tally_text
from services.dashboard.access import HOSTS, Access, SecurityHeaders
from services.dashboard.curves import curves_of
from services.dashboard.diff import diff_of
from services.dashboard.experiment import experiment_view
from services.dashboard.experiments import SHOWN, chart_of, kind_of, label_of, listing_of, query_of
from services.dashboard.facts import facts_of, useful_share
from services.dashboard.pages import render
from services.dashboard.run_data import NoSuchExperiment, RunData, Snapshot
from services.dashboard.steering import add_steering, new_id

STATIC = Path(__file__).with_name("static")
EVENT_EVERY_S = 1.0
BREATH_EVERY = 15  # a comment keeps the connection open, and shows a browser that left
STREAMS = 64
LATEST = 8


def create_app(data: RunData, access: Access) -> FastAPI:
    """Return the application that shows the run which `data` reads, and sends the requests that `access` lets pass."""

    @asynccontextmanager
    async def closes_the_journal(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(data.close)

    app = FastAPI(title="Overnight", docs_url=None, redoc_url=None, lifespan=closes_the_journal)
    app.add_middleware(GZipMiddleware, minimum_size=1_000)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)
    app.add_middleware(SecurityHeaders)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    _add_errors(app)
    _add_pages(app, data, access)
    _add_data(app, data)
    _add_events(app, data)
    add_steering(app, data, access)
    return app


def _add_errors(app: FastAPI) -> None:
    def page(title: str, text: str, status: int) -> HTMLResponse:
        return HTMLResponse(render("error.html", title=title, text=text, here=""), status)

    @app.exception_handler(NoSuchExperiment)
    async def no_experiment(_: Request, error: NoSuchExperiment) -> HTMLResponse:
        return page("Not found", str(error), 404)

    @app.exception_handler(404)
    async def not_found(_: Request, __: Exception) -> HTMLResponse:
        return page("Not found", "There is no such page.", 404)

    @app.exception_handler(JournalError)
    @app.exception_handler(OvernightError)
    async def unreadable(_: Request, error: Exception) -> HTMLResponse:
        return page("The run cannot be read now", str(error), 503)


def _add_pages(app: FastAPI, data: RunData, access: Access) -> None:
    @app.get("/", response_class=HTMLResponse)
    def overview() -> str:
        snapshot = data.snapshot()
        found = snapshot.report.run_report
        rows = [] if found is None else list(found.rows)
        return render(
            "overview.html",
            here="overview",
            report=snapshot.report,
            live=live_part(snapshot),
            has_chart=found is not None and found.gain is not None,
            tally="" if found is None else tally_text(found),
            latest=list(reversed(rows))[:LATEST],
            kind_of=kind_of,
            label_of=label_of,
        )

    @app.get("/experiments", response_class=HTMLResponse)
    def experiments(show: str = "all", sort: str = "number", order: str = "desc", q: str = "", page: int = 1) -> str:
        report = data.snapshot().report
        rows = () if report.run_report is None else report.run_report.rows
        listing = listing_of(rows, query_of(show, sort, order, q, page))
        metric = None if report.run_report is None else report.run_report.run.metric
        return render(
            "experiments.html",
            here="experiments",
            report=report,
            listing=listing,
            metric=metric,
            shown=SHOWN,
            kind_of=kind_of,
            label_of=label_of,
        )

    @app.get("/experiments/{number}", response_class=HTMLResponse)
    def experiment(request: Request, number: int) -> str:
        view, may_send = experiment_view(data.detail(number)), access.knows(request.cookies)
        return render("experiment.html", here="experiments", view=view, may_send=may_send, new_id=new_id)

    @app.get("/compare", response_class=HTMLResponse)
    def compare(a: int, b: int) -> str:
        first, second = (experiment_view(data.detail(number)) for number in (a, b))
        sources = first.detail.source, second.detail.source
        return render(
            "compare.html",
            here="experiments",
            first=first,
            second=second,
            diff=None if sources[0] is None or sources[1] is None else diff_of(sources[0], sources[1]),
            curves=curves_of(second.detail.curve, first.detail.curve),
        )

    @app.get("/health", response_class=HTMLResponse)
    def health() -> str:
        report = data.snapshot().report
        useful = None if report.run_report is None else useful_share(report.run_report)
        return render("health.html", here="health", report=report, useful=useful, disk=disk_usage(data.state.root))

    @app.get("/learned", response_class=HTMLResponse)
    def learned() -> str:
        from services.dashboard.learned import failures_of, fruitless  # noqa: PLC0415 - imports Optuna

        report = data.snapshot().report
        found = report.run_report
        return render(
            "learned.html",
            here="learned",
            report=report,
            knobs=data.knobs(),
            failures=() if found is None else failures_of(found.rows),
            fruitless=0 if found is None else fruitless(found),
        )


def _add_data(app: FastAPI, data: RunData) -> None:
    @app.get("/experiments/{number}/train.py", response_class=PlainTextResponse)
    def source(number: int) -> Response:
        name = f'attachment; filename="train-{number}.py"'
        text = data.source(number).encode(errors="surrogateescape")
        return Response(text, media_type="text/plain; charset=utf-8", headers={"Content-Disposition": name})

    @app.get("/status.json")
    def status() -> dict[str, object]:
        return data.snapshot().report.to_json()

    @app.get("/chart.json")
    def chart(request: Request) -> Response:
        found = data.snapshot().report.run_report
        text = json.dumps({} if found is None else chart_of(found), separators=(",", ":"))
        tag = f'"{hashlib.sha256(text.encode()).hexdigest()[:16]}"'
        if request.headers.get("if-none-match", "").removeprefix("W/") == tag:
            return Response(status_code=304, headers={"ETag": tag})
        return Response(text, media_type="application/json", headers={"ETag": tag})

    @app.get("/alive", response_class=PlainTextResponse)
    def alive() -> str:
        return "the page is served"


def _add_events(app: FastAPI, data: RunData) -> None:
    streams = anyio.CapacityLimiter(STREAMS)

    @app.get("/events")
    async def events(request: Request) -> Response:
        if streams.available_tokens < 1:
            return PlainTextResponse("too many pages are open", 503)
        return StreamingResponse(_stream(request, data, streams), media_type="text/event-stream")


async def _stream(request: Request, data: RunData, streams: anyio.CapacityLimiter) -> AsyncIterator[str]:
    """Yield the live part whenever it changes, and a mark of the experiments, at which a browser asks for the chart."""
    async with streams:
        sent, quiet = "", 0
        while not await request.is_disconnected():
            snapshot = await run_in_threadpool(data.snapshot)
            live = json.dumps({"html": live_part(snapshot), "mark": mark_of(snapshot)})
            if live != sent:
                sent, quiet = live, 0
                yield f"event: live\ndata: {live}\n\n"
            elif (quiet := quiet + 1) % BREATH_EVERY == 0:
                yield ": still here\n\n"
            await anyio.sleep(EVENT_EVERY_S)


def live_part(snapshot: Snapshot) -> str:
    """Return the first screen as HTML, which a browser replaces while the run goes on."""
    curves = curves_of(snapshot.live_curve, snapshot.incumbent_curve) if snapshot.live_curve else None
    return render("live.html", report=snapshot.report, facts=facts_of(snapshot.report), curves=curves)


def mark_of(snapshot: Snapshot) -> str:
    """Return a text that changes with each new experiment, decision and confirmation."""
    found = snapshot.report.run_report
    if found is None:
        return ""
    decided = sum(row.experiment.decision is not None for row in found.rows)
    return f"{len(found.rows)}-{decided}-{len(found.confirmations)}-{found.run.confirmed}"
