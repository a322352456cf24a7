"""An OpenAI-compatible endpoint that answers from a script; faults are named for their effect.

The shapes of chunks and errors are those of the recordings (`tests/recordings/ollama/v1-*.json`); the statuses that no
local server gives (401, 402, 429) follow the published API.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.doubles.ollama_server import listening


@dataclass(frozen=True)
class Reply:
    """The answer to one question. With `hangs` the stream stays open after its pieces."""

    status: int = 200
    pieces: Sequence[bytes] = ()
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> bytes:
    """Return one event of a stream."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    said = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return b"data: " + json.dumps(said | more).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"


def spoken(text: str, *, thoughts: str = "", finish: str = "stop", usage: tuple[int, int] | None = (100, 10)) -> Reply:
    """Return a whole answer, one line for each chunk."""
    pieces = [b": processing\n\n", chunk({"role": "assistant", "content": ""})]
    pieces += [chunk({"reasoning_content": word}) for word in thoughts.split(" ") if word]
    pieces += [chunk({"content": piece}) for piece in text.splitlines(keepends=True)]
    pieces.append(chunk({}, finish))
    if usage is not None:
        pieces.append(
            chunk(usage={"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)})
        )
    return Reply(pieces=[*pieces, DONE])


def refused(status: int, message: str, code: str | None = None, **headers: str) -> Reply:
    """Return an error as the API writes it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Reply(status, body=json.dumps({"error": error}), headers=headers)


Script = Callable[[dict[str, Any]], Reply]


class OpenAiDouble(ThreadingHTTPServer):
    """Gives each question the next reply, and the last one again and again, or the reply of a script; keeps the
    questions."""

    daemon_threads = True

    def __init__(self, replies: Sequence[Reply] | Script, *, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.replies = [] if callable(replies) else list(replies)
        self.script = replies if callable(replies) else self._next_reply
        self.models = Reply(body='{"object": "list", "data": []}')
        self.elsewhere = refused(404, "no such page")
        self.questions: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def _next_reply(self, _: object) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def openai_double(*replies: Reply) -> Iterator[OpenAiDouble]:
    """Yield a double that listens until the block ends."""
    server = OpenAiDouble(replies)
    with listening(server):
        try:
            yield server
        finally:
            server.released.set()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OpenAiDouble

    def log_message(self, *_: object) -> None:
        """Write no access log."""

    def do_GET(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        self._send(self.server.models if self.path == "/v1/models" else self.server.elsewhere)

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self._send(self.server.elsewhere)
            return
        self.server.keys.append(self.headers.get("Authorization"))
        self.server.questions.append(question)
        self._send(self.server.script(question))

    def _send(self, reply: Reply) -> None:
        self.close_connection = True
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        streams = bool(reply.pieces) or reply.hangs
        self.send_header("Content-Type", "text/event-stream" if streams else "application/json")
        if not streams:
            self.send_header("Content-Length", str(len(reply.body.encode())))
        self.end_headers()
        self.wfile.write(reply.body.encode())
        for piece in reply.pieces:
            self.wfile.write(piece)
            self.wfile.flush()
        if reply.hangs:
            self.server.released.wait()
