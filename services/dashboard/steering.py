"""Requests from the page: who may send one, how it is sent, and what became of it.

Each form carries an id of its own, so that a form that is sent twice is one request.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

import redis
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from researcher.journal.records import Request as UserRequest
from researcher.queues.requests import BODY_LIMIT_CHARACTERS, KINDS, send
from researcher.report.snapshot import Report
from services.dashboard.access import COOKIE, Access, is_from_this_page
from services.dashboard.pages import render
from services.dashboard.run_data import RunData

FORM_BYTES = 4 * BODY_LIMIT_CHARACTERS
FIELDS = 8
SHOWN = 30
_ID = re.compile(r"[0-9a-f]{12}")


class RequestRefused(Exception):
    """A form cannot be taken; the message is for the user, and `status` is the answer's."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class SentRequest:
    """A request as the page lists it. `state` is waiting, done or refused."""

    kind: str
    line: str
    state: str
    answer: str
    at: float


def add_steering(app: FastAPI, data: RunData, access: Access) -> None:
    """Add the page with the controls, and the addresses of its forms."""

    @app.exception_handler(RequestRefused)
    async def refused(_: Request, error: RequestRefused) -> HTMLResponse:
        return HTMLResponse(render("error.html", title="Not done", text=str(error), here="steer"), error.status)

    @app.get("/steer", response_class=HTMLResponse)
    def steer(request: Request) -> str:
        report = data.snapshot().report
        return render(
            "steer.html",
            here="steer",
            report=report,
            may_send=access.knows(request.cookies),
            token_file=access.source,
            llm="" if report.live is None else report.live.notes.get("llm", ""),
            requests=sent_requests(report),
            new_id=new_id,
        )

    @app.get("/steer/requests", response_class=HTMLResponse)
    def requests() -> str:
        return render("requests.html", requests=sent_requests(data.snapshot().report))

    @app.post("/login")
    async def login(request: Request) -> Response:
        form = await _form(request)
        if not access.accepts(form.get("token", "")):
            why = "too many wrong tokens came; wait a minute" if access.is_blocked else "this is not the token"
            raise RequestRefused(f"You are not signed in: {why}.", 429 if access.is_blocked else 401)
        answer = RedirectResponse("/steer", 303)
        answer.set_cookie(COOKIE, access.cookie, httponly=True, samesite="strict", max_age=30 * 24 * 3600)
        return answer

    @app.post("/requests")
    async def ask(request: Request) -> Response:
        if not access.knows(request.cookies):
            raise RequestRefused("Sign in on the page Steer first.", 401)
        form = await _form(request)
        await run_in_threadpool(send_form, data, form)
        return RedirectResponse("/steer#requests", 303)


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form of this page. Raises RequestRefused for one of another page, and for a large one."""
    if not is_from_this_page(request.headers):
        raise RequestRefused("The form is not from this page.", 403)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > FORM_BYTES:
            raise RequestRefused(f"A form carries at most {FORM_BYTES:,} bytes.", 413)
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=FIELDS)
    except ValueError as error:
        raise RequestRefused(f"The form cannot be read: {error}.", 400) from error
    return {name: values[-1] for name, values in fields.items()}


def send_form(data: RunData, form: Mapping[str, str]) -> str:
    """Send the request of a form to the researcher, and return its id. Raises RequestRefused."""
    kind, number = form.get("kind", ""), form.get("id", "")
    if kind not in KINDS or not _ID.fullmatch(number):
        raise RequestRefused("The form names no request.", 400)
    body = _body_of(data, kind, form)
    bus = data.bus()
    try:
        status = None if bus is None else bus.doing("researcher")
        if bus is None or status is None or status.is_over:
            raise RequestRefused("No researcher is at work. Start the run again, then send it once more.", 409)
        return send(bus, kind, body, request=f"{kind}-{number}")
    except ValueError as error:
        raise RequestRefused(f"{error}", 413) from error
    except redis.RedisError as error:
        raise RequestRefused(f"Redis does not answer ({error}). Send it again later.", 503) from error


def _body_of(data: RunData, kind: str, form: Mapping[str, str]) -> str:
    text = form.get("body", "").replace("\r\n", "\n")
    if kind not in ("idea", "submit"):
        return ""
    if kind == "submit" and form.get("again", "").isdecimal():
        again = int(form["again"])
        return f"experiment {again} again\n{data.source(again)}"
    if not text.strip():
        raise RequestRefused("The text is empty.", 400)
    if kind == "idea":
        return text.strip()
    name = form.get("name", "").strip().replace("\n", " ") or "from the page"
    return f"{name[:100]}\n{text}"


def new_id() -> str:
    """Return the id of a form."""
    return uuid.uuid4().hex[:12]


def sent_requests(report: Report) -> list[SentRequest]:
    """Return the latest requests of the run, the newest first, also those of other clients."""
    requests: Sequence[UserRequest] = () if report.run_report is None else report.run_report.requests
    return [
        SentRequest(
            each.kind,
            each.body.partition("\n")[0][:200],
            each.state.value,
            each.answer,
            each.done_at or each.received_at,
        )
        for each in reversed(requests[-SHOWN:])
    ]
