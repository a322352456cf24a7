"""Decides who may send a request, and what a browser may do with the page.

Reading needs no token, because the server listens on the loopback interface only. A request to the run needs a cookie,
which a browser gets for the token. A page of another origin can neither read an answer nor send a request: the host
name must be one of the loopback interface, so that no name of another site leads here, and a form must come from this
page.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from researcher.files import read_text

COOKIE = "overnight_session"
HOSTS = ["127.0.0.1", "localhost"]
FAILURES, WITHIN_S = 10, 60.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def token_in(path: Path) -> str:
    """Return the token in a file, which only its owner may read; it is made if there is none."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(24))
        draft.replace(path)
    return read_text(path).strip()


class Access:
    """Checks tokens, in constant time, and at most `FAILURES` wrong ones in `WITHIN_S` seconds. `source` says to users
    where the token is."""

    def __init__(self, token: str, source: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self.source = source
        self._clock = clock
        self._failed_at: deque[float] = deque(maxlen=FAILURES)
        self.cookie = hmac.new(token.encode(), b"a session of the page", hashlib.sha256).hexdigest()

    @property
    def is_blocked(self) -> bool:
        """Whether so many wrong tokens came lately that no other one is looked at."""
        return len(self._failed_at) == FAILURES and self._clock() - self._failed_at[0] < WITHIN_S

    def accepts(self, token: str) -> bool:
        """Return whether this is the token, and count it if it is not."""
        if self.is_blocked:
            return False
        if hmac.compare_digest(token.strip().encode(), self._token.encode()):
            return True
        self._failed_at.append(self._clock())
        return False

    def knows(self, cookies: Mapping[str, str]) -> bool:
        """Return whether a browser has entered the token before."""
        return hmac.compare_digest(cookies.get(COOKIE, "").encode(), self.cookie.encode())


def is_from_this_page(headers: Mapping[str, str]) -> bool:
    """Return whether a form was sent by a page of this server, as browsers say in the header Origin."""
    origin = urlsplit(headers.get("origin", ""))
    return origin.scheme in ("http", "https") and origin.netloc == headers.get("host", "")


class SecurityHeaders:
    """Adds `HEADERS` to every answer that does not have them; an answer stays a stream."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)
