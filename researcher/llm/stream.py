"""The common parts of reading a streamed answer: deadlines, complete lines of bounded length, valid UTF-8, counts.

Each client interprets the lines itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cache
from typing import Any, TypeVar

import httpx

from researcher.errors import LlmServerFault, LlmTimeout, LlmUnavailable, PromptTooLong
from researcher.llm.client import Answer

TICK_S = 0.25
READING_DEADLINES = 6
TOO_LONG = re.compile(r"context.{0,20}(?:length|size|window)|prompt is too long|too many tokens", re.IGNORECASE)
LONGEST_ANSWER_BYTES = 8 * 2**20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """Limits in seconds.

    `first_s` limits the wait for the first line (a cold load, reading the prompt), `stall_s` the wait for each later
    line, and `connect_s` the connection to the server. `deadline_s` limits the answer from its first word on. A server
    that shows signs of life may read the prompt for `READING_DEADLINES` times as long.
    """

    connect_s: float = 5.0
    first_s: float = 300.0
    stall_s: float = 60.0
    deadline_s: float = 600.0


@dataclass
class Stream:
    """The received part of an answer of `model` at `url`."""

    url: str
    model: str
    started: float = field(default_factory=time.monotonic)
    heard: float = 0.0
    lines: int = 0
    size: int = 0
    text: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    speaks_since: float | None = None
    read: str = ""  # how much of the question the server has read, if it tells

    def add(self, text: object, thoughts: object) -> None:
        """Add a piece of the answer, either part of which may be missing."""
        if self.speaks_since is None and (text or thoughts):
            self.speaks_since = time.monotonic()
        self.text.append(str(text or ""))
        self.thoughts.append(str(thoughts or ""))

    def progress(self) -> str:
        """Describe how long the server has read, or answered, and how much of it is done."""
        if self.speaks_since is None:
            return f"reading the question for {time.monotonic() - self.started:.0f} s{self.read}"
        pieces = sum(map(bool, (*self.text, *self.thoughts)))
        return f"answering for {time.monotonic() - self.speaks_since:.0f} s, {pieces} pieces came"

    def hear(self, line: bytes) -> None:
        """Count a received line. Raises LlmServerFault if the answer is too long."""
        self.heard = time.monotonic()
        self.lines += 1
        self.size += len(line)
        if self.size > LONGEST_ANSWER_BYTES:
            raise LlmServerFault(f"the answer is longer than {LONGEST_ANSWER_BYTES} bytes")

    def parsed(self, line: bytes) -> dict[str, Any]:
        """Parse a line as a JSON object. Raises LlmServerFault for anything else, and for an object with an error."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise LlmServerFault(f"line {self.lines} of the answer is not JSON: {line[:200]!r}") from error
        if not isinstance(found, dict):
            raise LlmServerFault(f"line {self.lines} of the answer is not an object: {line[:200]!r}")
        self.raise_error(found)
        return found

    def raise_error(self, found: dict[str, Any]) -> None:
        """Raise LlmServerFault for an object that is, or contains, a server's error; PromptTooLong if that says so."""
        is_error = "error" in (found.get("object"), found.get("type")) or ("message" in found and "code" in found)
        if is_error or found.get("error") is not None:
            kind = PromptTooLong if TOO_LONG.search(error_message(found)) else LlmServerFault
            raise kind(f"the server broke off with: {error_message(found)}")

    def whole(self, done_reason: object, prompt_tokens: object, answer_tokens: object) -> Answer:
        """Build the complete answer, with the server's reason for its end and its token counts."""
        return Answer(
            text=unicode("".join(self.text)),
            thoughts=unicode("".join(self.thoughts)),
            done_reason="length" if done_reason == "length" else "stop",
            prompt_tokens=_count(prompt_tokens),
            answer_tokens=_count(answer_tokens),
            seconds=time.monotonic() - self.started,
        )

    def keep(self, deadlines: Deadlines) -> None:
        """Raise LlmTimeout or LlmServerFault if a deadline has passed."""
        now = time.monotonic()
        if self.speaks_since is not None and now - self.speaks_since > deadlines.deadline_s:
            raise LlmServerFault(
                f"{self.model} had not finished {deadlines.deadline_s:.0f} s after its first word "
                f"({self.lines} lines came); raise LLM_DEADLINE_S, or lower NUM_PREDICT"
            )
        reading_s = READING_DEADLINES * deadlines.deadline_s
        if self.speaks_since is None and now - self.started > reading_s:
            raise LlmServerFault(
                f"{self.model} was still reading the question after {reading_s:.0f} s; raise LLM_DEADLINE_S"
            )
        if self.lines == 0 and now - self.started > deadlines.first_s:
            raise LlmTimeout(
                f"{self.url} took the question and sent nothing for {deadlines.first_s:.0f} s; "
                "raise LLM_DEADLINE_S if it is only slow"
            )
        if self.lines and now - self.heard > deadlines.stall_s:
            raise LlmServerFault(f"{self.model} stopped in the middle: silent for {deadlines.stall_s:.0f} s")


async def watched(work: Coroutine[Any, Any, T], stream: Stream, deadlines: Deadlines, tick: Callable[[], None]) -> T:
    """Await `work` and return its result.

    `tick` is called every quarter of a second meanwhile, and may raise to cancel.
    """
    working = asyncio.create_task(work)
    try:
        while not (await asyncio.wait({working}, timeout=TICK_S))[0]:
            stream.keep(deadlines)
            tick()
        return await working
    finally:
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError, LlmUnavailable, LlmServerFault):
            await working


def tls_context(url: str) -> ssl.SSLContext:
    """Return the TLS context for a server. Raises LlmUnavailable if an https server's authorities cannot be read.

    A plain http server needs no authority, so its context trusts none.
    """
    return authorities() if httpx.URL(url).scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@cache
def authorities() -> ssl.SSLContext:
    """Return the TLS context with the authorities that SSL_CERT_FILE or SSL_CERT_DIR name.

    It is created once, because creating it takes longer than a poll of the server. Raises LlmUnavailable if the
    authorities cannot be read.
    """
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise LlmUnavailable(
            f"the file that SSL_CERT_FILE names cannot be used ({error}); correct or unset it"
        ) from error


def connection_fault(error: httpx.HTTPError) -> str:
    """Return the reason of a failed connection, with the next step for an authority that is not trusted."""
    reason = str(error) or type(error).__name__
    is_untrusted = "CERTIFICATE_VERIFY_FAILED" in reason
    return reason + ("; name the file of its authority in SSL_CERT_FILE" if is_untrusted else "")


def usable(build: Callable[[], T], url: str) -> T:
    """Build an HTTP client. Raises LlmUnavailable if it cannot use a proxy or certificates that a setting names."""
    try:
        return build()
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        raise LlmUnavailable(
            f"{url} cannot be reached because of a setting of the environment ({error}). "
            "Next: fix or unset the proxy (ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, NO_PROXY) or SSL_CERT_FILE, SSL_CERT_DIR"
        ) from error


def error_text(response: httpx.Response) -> str:
    """Return the server's error message."""
    try:
        return error_message(response.json())
    except ValueError:
        return response.text.strip()[:500]  # not the server's own format: a proxy's page or a router's plain text


def error_message(body: object) -> str:
    """Return the message in the body of an error, in either protocol's format."""
    inner = (body.get("error") or body) if isinstance(body, dict) else body
    return str(inner.get("message", inner) if isinstance(inner, dict) else inner)[:500]


async def whole_lines(response: httpx.Response) -> AsyncIterator[bytes]:
    """Yield lines that end with LF only. httpx would also split at characters that may be part of a JSON string."""
    pieces: list[bytes] = []  # the parts of an incomplete line, joined once
    size = 0
    async for chunk in response.aiter_bytes():
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        complete = [b"".join(pieces), *others[:-1]] if others else []
        pieces = others[-1:] if others else pieces
        size = len(others[-1]) if others else size + len(first)
        if size > LONGEST_ANSWER_BYTES:
            raise LlmServerFault(f"the answer holds a line longer than {LONGEST_ANSWER_BYTES} bytes")
        for line in complete:
            if line.strip():
                yield line
    if (rest := b"".join(pieces)).strip():
        yield rest


def unquoted(address: str) -> str:
    """Return an address without blanks and quotes around it, which some readers of environment files keep."""
    return address.strip().strip("\"'").strip()


def unicode(text: str) -> str:
    """Replace lone surrogates, which JSON can contain and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _count(value: object) -> int | None:
    """Return a whole number, or None for any other value."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def retry_after_s(response: httpx.Response, now: float) -> float | None:
    """Return the seconds that the header Retry-After asks to wait, from `now` in seconds since the epoch, or None."""
    text = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None
