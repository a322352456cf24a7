"""Downloads one file from an http(s) address or a local folder. The file gets its name when it is whole.

If the server supports ranges, an interrupted download continues where it stopped, also in the next process. Does not
notice a change of the server's file in between; the caller must verify the content.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from trainer.data.durable import BLOCK_BYTES, beside, commit_file
from trainer.data.errors import SourceAway

TRIES = 5
FIRST_WAIT_S = 2.0
TIMEOUT_S = 60.0
_AGAIN = (408, 425, 429, 500, 502, 503, 504)

Arrived = Callable[[int, int | None], None]


class _Interrupted(Exception):
    """Raised when a try fails but another try may succeed."""


def download(address: str, target: Path, arrived: Arrived, sleep: Callable[[float], None] = time.sleep) -> None:
    """Download `address` to `target` unless the file exists. `arrived` gets the bytes so far and in total.

    There are five tries with doubling waits. Permanent errors, such as a missing file, fail at once. Raise SourceAway.
    """
    if target.exists():
        return
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        source = Path(unquote(parts.path)) if parts.scheme == "file" else Path(address)
        _copy(source, target, arrived)
    else:
        _fetch(address, target, arrived, sleep)
    commit_file(target)


def _fetch(url: str, target: Path, arrived: Arrived, sleep: Callable[[float], None]) -> None:
    reason = ""
    for attempt in range(TRIES):
        if attempt:
            sleep(FIRST_WAIT_S * 2 ** (attempt - 1))
        try:
            with _client(url) as client:
                _go_on(client, url, beside(target), arrived)
        except (_Interrupted, httpx.TransportError) as error:
            reason = f"{type(error).__name__.lstrip('_')}: {error}"
        else:
            return
    raise SourceAway(
        f"{url} cannot be fetched, {TRIES} tries ({reason}); check the network or set another base URL; "
        "what has arrived is kept and the next `overnight prepare` goes on from there"
    )


def _client(url: str) -> httpx.Client:
    try:
        return httpx.Client(follow_redirects=True, timeout=TIMEOUT_S)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        raise SourceAway(
            f"{url} cannot be fetched because of a setting of the environment ({error}); fix or unset the proxy "
            "(ALL_PROXY, HTTPS_PROXY, HTTP_PROXY, NO_PROXY) or SSL_CERT_FILE, SSL_CERT_DIR"
        ) from error


def _go_on(client: httpx.Client, url: str, partial: Path, arrived: Arrived) -> None:
    start = partial.stat().st_size if partial.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416:
            _resolve_range(response, partial, start)
            return
        _check_status(response)
        resumed = response.status_code == 206
        total = _range_total(response, start) if resumed else _length(response)
        done = start if resumed else 0
        with partial.open("ab" if resumed else "wb") as file:
            for block in response.iter_raw():  # blocks as received: an interruption loses less
                file.write(block)
                done += len(block)
                arrived(done, total)
    if total is not None and done != total:
        raise _Interrupted(f"{done} of {total} bytes arrived")


def _resolve_range(response: httpx.Response, partial: Path, start: int) -> None:
    """Handle a server without bytes after `start`: the partial file is whole, or it is of another file."""
    if response.headers.get("Content-Range") != f"bytes */{start}":
        partial.unlink()
        raise _Interrupted("the server's file is shorter than what had arrived; starting it again")


def _check_status(response: httpx.Response) -> None:
    if response.status_code in _AGAIN:
        raise _Interrupted(f"the server answered {response.status_code} {response.reason_phrase}")
    if response.status_code not in (200, 206):
        raise SourceAway(f"{response.url} answered {response.status_code} {response.reason_phrase}; check the base URL")


def _range_total(response: httpx.Response, start: int) -> int | None:
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise SourceAway(f"{response.url} answered another range than asked for; set another base URL")
    return None if match[2] == "*" else int(match[2])


def _length(response: httpx.Response) -> int | None:
    length = response.headers.get("Content-Length")
    return int(length) if length else None


def _copy(source: Path, target: Path, arrived: Arrived) -> None:
    try:
        total = source.stat().st_size
        with source.open("rb") as reading, beside(target).open("wb") as writing:
            while block := reading.read(BLOCK_BYTES):
                writing.write(block)
                arrived(writing.tell(), total)
    except FileNotFoundError as error:
        raise SourceAway(f"{source} does not exist; check the base URL") from error
