"""Replays a recording of a real Ollama byte for byte: status, headers, body and chunks, without the waiting.

A request gets the recording's next exchange for its path. `path` replays all exchanges at another path than the
recorded one, for recordings of /api/generate whose statuses and error lines are those of /api/chat. Exchanges in
`beside` keep their own path.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests import TESTS
from tests.doubles.ollama_server import listening

RECORDINGS = TESTS / "recordings" / "ollama"

Recorded = Sequence[dict[str, Any]]


def exchanges(case: str) -> list[dict[str, Any]]:
    """Return the exchanges of a recording, in order."""
    recording = json.loads((RECORDINGS / f"{case}.json").read_text())
    return list(recording["exchanges"])


def known() -> list[dict[str, Any]]:
    """Return the exchanges that precede the first question: the model's capabilities, and the version."""
    return exchanges("show")[:1] + exchanges("version")[:1]


class OllamaReplay(ThreadingHTTPServer):
    """Answers from `recorded`; a path without a further exchange gets 501."""

    daemon_threads = True

    def __init__(self, recorded: Recorded, *, path: str | None = None, beside: Recorded = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.left = [(path or exchange["request"]["path"], exchange["response"]) for exchange in recorded]
        self.left += [(exchange["request"]["path"], exchange["response"]) for exchange in beside]

    @property
    def url(self) -> str:
        """The server's base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def ollama_replay(recorded: Recorded, *, path: str | None = None, beside: Recorded = ()) -> Iterator[OllamaReplay]:
    """Yield a replay that listens until the block ends."""
    server = OllamaReplay(recorded, path=path, beside=beside)
    with listening(server):
        yield server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OllamaReplay

    def do_GET(self) -> None:
        self._replay()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._replay()

    def _replay(self) -> None:
        for place, (path, response) in enumerate(self.server.left):
            if path == self.path:
                del self.server.left[place]
                self._send(response)
                return
        self.send_error(501, "not recorded")

    def _send(self, response: dict[str, Any]) -> None:
        self.send_response_only(response["status"], response["reason"])
        for name, value in response["headers"]:
            self.send_header(name, value)
        self.end_headers()
        if not response.get("chunks"):
            self.wfile.write((response["body"] or "").encode())
            return
        for chunk in response["chunks"]:
            data = chunk["data"].encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        if response["body_complete"]:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *values: Any) -> None:
        """Write no access log."""
