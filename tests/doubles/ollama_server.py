"""An HTTP server that speaks Ollama's protocol: scripted answers, and faults named for their effect.

Shapes, statuses and error texts follow the recordings in `tests/recordings/ollama/`; the contract tests hold both to
the same assertions. As a script it serves benches: `python -m tests.doubles.ollama_server --port 11435 --script FILE`.
FILE is a JSON list of turns, used in order and then from the start again: a text, or an object with the fields of
`Turn` (`nudge` answers with that knob as the question shows it, multiplied by `by`).
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from tests.doubles.ollama_shapes import full_name, last_line, line, listed_model, load_answer, loaded_model, too_long

VERSION = "0.32.15"
CHARACTERS_PER_TOKEN = 4
DEFAULT_NUM_CTX = 4096
SIZE = 9 * 2**30
BUSY = "server busy, please try again.  maximum pending requests exceeded"

Fault = Literal[
    "model_missing",  # 404, as for a model that was removed
    "busy",  # 503, the queue is full
    "server_error",  # 500, the runner died before the answer began
    "hang",  # takes the question and sends nothing
    "slow_trickle",  # `latency_s` before every token
    "stall",  # half of the answer, then silence
    "drop_before_stream",  # the connection is cut before a status
    "drop_mid_stream",  # half of the answer, then the connection is cut
    "error_line",  # half of the answer, then a line with an error
    "garbage_line",  # half of the answer, then a line that is not JSON
    "no_done",  # the whole answer, and the stream ends without `done`
    "one_token_over",  # 400: the question is longer than the context by one token
    "thoughts_only",  # the whole answer is in the thoughts
]


@dataclass(frozen=True)
class Turn:
    """One answer. `length` marks it as cut at num_predict; `latency_s` passes before its first token.

    With `thoughts` before it, the answer is really cut at num_predict, which also counts the thoughts; `counts` is the
    reported number of prompt tokens, instead of the server's own estimate.
    """

    text: str = ""
    fault: Fault | None = None
    latency_s: float = 0.0
    length: bool = False
    thoughts: str = ""
    counts: int | None = None
    nudge: str | None = None
    by: float = 1.1


@dataclass(frozen=True)
class Held:
    """The model in memory: `on_gpu` of its `SIZE` bytes are on the GPU."""

    context: int
    on_gpu: int


Script = Sequence[Turn | str] | Callable[[dict[str, Any]], Turn]


class OllamaDouble(ThreadingHTTPServer):
    """Serves the turns of a script on a loopback port.

    `asked` keeps the bodies of all chat requests; `calls` keeps those of loads and unloads, too, in order. The model is
    on a GPU if the caller requests layers there, else on the CPU; `held` is None while it is not loaded. `looks` counts
    GET requests.
    """

    daemon_threads = True

    capabilities: tuple[str, ...] = ("completion",)
    family = "llama"
    parameter_size = ""
    version = VERSION

    def __init__(self, script: Script, *, model: str = "small:latest", port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.model = model
        self.asked: list[dict[str, Any]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.held: Held | None = None
        self.looks = 0
        self.hung_up = threading.Event()
        self.closing = threading.Event()
        self._script = script
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The server's base URL."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_turn(self, body: dict[str, Any]) -> Turn:
        """Return the script's next turn; after the last it begins again."""
        with self._lock:
            self.asked.append(body)
            if callable(self._script):
                return self._script(body)
            turn = self._script[(len(self.asked) - 1) % len(self._script)]
        return turn if isinstance(turn, Turn) else Turn(turn)

    def load(self, options: dict[str, Any]) -> str | None:
        """Hold the model under these options. Returns the error, or None."""
        context = int(options.get("num_ctx", DEFAULT_NUM_CTX))
        self.held = Held(context, SIZE if options.get("num_gpu") else 0)
        return None

    def unload(self) -> None:
        """Unload the model."""
        self.held = None

    def installed(self) -> list[str]:
        """Return the models on the server's disk."""
        return [self.model]

    def pulled(self, model: str) -> Iterator[dict[str, Any] | None]:
        """Yield the lines of a pull; None cuts the connection."""
        yield {"status": "pulling manifest"}
        yield {"error": "pull model manifest: file does not exist"}

    def listing(self) -> list[dict[str, Any]]:
        """Return the models in memory."""
        return [] if self.held is None else [loaded_model(self.model, SIZE, self.held.on_gpu, self.held.context)]

    def shown(self) -> dict[str, Any]:
        """Return the model as /api/show describes it."""
        model = listed_model(self.model, self.capabilities, self.family, self.parameter_size)
        shown: dict[str, Any] = {"modelfile": "", "parameters": "temperature 0.2", "template": "{{ .Messages }}"}
        shown |= {"model_info": {"general.architecture": "llama", "llama.context_length": 32768}, "tensors": []}
        return shown | {key: model[key] for key in ("details", "capabilities", "modified_at")}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Register a client that hangs up, for which some tests wait."""
        self.hung_up.set()


@contextmanager
def ollama_double(
    script: Script, *, model: str = "small:latest", kind: type[OllamaDouble] = OllamaDouble
) -> Iterator[OllamaDouble]:
    """Yield a double that listens until the block ends; hanging answers end then, too."""
    server = kind(script, model=model)
    with listening(server):
        yield server
        server.closing.set()


@contextmanager
def listening(server: ThreadingHTTPServer) -> Iterator[None]:
    """Serve in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # otherwise each token may wait 40 ms for the one before it
    server: OllamaDouble

    def do_GET(self) -> None:
        self.server.looks += 1
        match self.path:
            case "/":
                self._send(200, b"Ollama is running", "text/plain; charset=utf-8")
            case "/api/version":
                self._send_json(200, {"version": self.server.version})
            case "/api/tags":
                self._send_json(200, {"models": [listed_model(name) for name in self.server.installed()]})
            case "/api/ps":
                self._send_json(200, {"models": self.server.listing()})
            case "/api/chat" | "/api/show" | "/api/generate":
                self._send(405, b"405 method not allowed", "text/plain")
            case _:
                self._send(404, b"404 page not found", "text/plain")

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body = json.loads(raw)
        except ValueError as error:
            self._send_json(400, {"error": str(error) if raw else "missing request body"})
            return
        match self.path:
            case "/api/chat":
                self.server.calls.append((self.path, body))
                self._chat(body)
            case "/api/generate":
                self.server.calls.append((self.path, body))
                self._load_or_unload(body)
            case "/api/show":
                self._show(body)
            case "/api/pull":
                self._pull(body)
            case _:
                self._send(404, b"404 page not found", "text/plain")

    def _load_or_unload(self, body: dict[str, Any]) -> None:
        if full_name(body.get("model", "")) != full_name(self.server.model):
            self._send_json(404, {"error": f"model '{body.get('model', '')}' not found"})
        elif "prompt" in body:
            self._send_json(501, {"error": "this double answers no prompts here; use /api/chat"})
        elif body.get("keep_alive") == 0:
            self.server.unload()
            self._send_json(200, load_answer(body["model"], "unload"))
        elif (fault := self.server.load(body.get("options", {}))) is not None:
            self._send_json(500, {"error": fault})
        else:
            self._send_json(200, load_answer(body["model"], "load"))

    def _show(self, body: dict[str, Any]) -> None:
        if full_name(body.get("model", "")) != full_name(self.server.model):
            self._send_json(404, {"error": f"model '{body.get('model', '')}' not found"})
            return
        self._send_json(200, self.server.shown())

    def _pull(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for told in self.server.pulled(body["model"]):
            if told is None:
                self.close_connection = True
                return
            self._chunk(told)
        self.wfile.write(b"0\r\n\r\n")

    def _chat(self, body: dict[str, Any]) -> None:
        if body.get("think") not in (None, False) and "thinking" not in self.server.capabilities:
            self._send_json(400, {"error": f'"{body["model"]}" does not support thinking'})
            return
        turn = self.server.next_turn(body)
        asked = sum(len(message["content"]) for message in body.get("messages", [])) // CHARACTERS_PER_TOKEN
        room = int(body.get("options", {}).get("num_ctx", DEFAULT_NUM_CTX))
        if turn.fault == "model_missing" or full_name(body.get("model", "")) != full_name(self.server.model):
            self._send_json(404, {"error": f"model '{body.get('model', '')}' not found"})
        elif turn.fault == "busy":
            self._send_json(503, {"error": BUSY})
        elif turn.fault == "server_error":
            self._send_json(500, {"error": "model runner has unexpectedly stopped"})
        elif turn.fault == "one_token_over":
            self._send_json(400, {"error": json.dumps({"error": too_long(room + 1, room)})})
        elif asked > room and body.get("truncate") is False:
            self._send_json(400, {"error": json.dumps({"error": too_long(asked, room)})})
        elif turn.fault == "drop_before_stream":
            self.close_connection = True
        elif (fault := self._load_if_needed(room, body)) is not None:
            self._send_json(500, {"error": fault})
        else:
            self._stream(body, _spoken(turn, body), asked if turn.counts is None else turn.counts)
            if body.get("keep_alive") == 0:
                self.server.unload()

    def _load_if_needed(self, room: int, body: dict[str, Any]) -> str | None:
        is_held = self.server.held is not None and self.server.held.context == room
        return None if is_held else self.server.load(body.get("options", {}))

    def _stream(self, body: dict[str, Any], turn: Turn, asked: int) -> None:
        model = body["model"]
        started = time.monotonic_ns()
        if turn.fault == "hang" or self._pause(turn.latency_s):
            self._wait_for_the_end()
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        field = "thinking" if turn.fault == "thoughts_only" else "content"
        pieces = [*_pieces("thinking", turn.thoughts), *_pieces(field, turn.text)]
        longest = int(body.get("options", {}).get("num_predict", len(pieces))) if turn.thoughts else len(pieces)
        is_cut, sent = turn.length or len(pieces) > longest, min(len(pieces), longest)
        breaks_off = turn.fault in ("stall", "drop_mid_stream", "error_line", "garbage_line")
        for name, piece in pieces[: len(pieces) // 2 if breaks_off else longest]:
            self._chunk(line(model, **{name: piece}))
            if turn.fault == "slow_trickle" and self._pause(turn.latency_s):
                return
        if self._broke_off(turn):
            return
        if turn.fault != "no_done":
            self._chunk(last_line(model, time.monotonic_ns() - started, asked, sent, "length" if is_cut else "stop"))
        self.wfile.write(b"0\r\n\r\n")

    def _broke_off(self, turn: Turn) -> bool:
        """Send the end of a broken answer; True if nothing more is to be sent."""
        match turn.fault:
            case "stall":
                self._wait_for_the_end()
                return True
            case "drop_mid_stream":
                self.close_connection = True
                return True
            case "error_line":
                self._chunk({"error": "an error was encountered while running the model: unexpected EOF"})
            case "garbage_line":
                self._write_chunk(b'{"model": "half a li\n')
            case _:
                return False
        self.wfile.write(b"0\r\n\r\n")
        return True

    def _pause(self, seconds: float) -> bool:
        """Wait; True if the server closes meanwhile."""
        return self.server.closing.wait(seconds) if seconds else False

    def _wait_for_the_end(self) -> None:
        """Wait until the client hangs up or the server closes."""
        self.connection.settimeout(0.05)
        while not self.server.closing.is_set():
            with suppress(TimeoutError):
                if self.connection.recv(1) == b"":
                    self.server.hung_up.set()
                    break
        self.close_connection = True

    def _chunk(self, line: dict[str, Any]) -> None:
        self._write_chunk(json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")

    def _write_chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send_json(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, json.dumps(body, separators=(",", ":")).encode(), "application/json; charset=utf-8")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: Any) -> None:
        """Write no access log."""


def _pieces(name: str, text: str) -> list[tuple[str, str]]:
    """Return the tokens of a text, each with the name of its field."""
    return [(name, piece) for piece in re.findall(r"\s*\S+|\s+$", text)]


def _spoken(turn: Turn, body: dict[str, Any]) -> Turn:
    """Return the turn with its text. A nudge is written from the knob's line in the question: as JSON if the answer
    must follow a schema, else as an edit block."""
    if turn.nudge is None:
        return turn
    asked = "\n".join(message["content"] for message in body["messages"] if message["role"] == "user")
    found = re.search(rf"^{turn.nudge} = (\S+).*$", asked, re.MULTILINE)
    value = round(float(found.group(1)) * turn.by, 8) if found else None
    title, hypothesis = f"Nudge {turn.nudge}", f"{turn.by} times may suit it better."
    if "format" in body:
        move = {"title": title, "hypothesis": hypothesis, "set": {turn.nudge: value}}
        return replace(turn, text=json.dumps(move))
    old = found.group() if found else f"{turn.nudge} = ?"
    new = old.replace(found.group(1), repr(value), 1) if found else old
    blocks = f"<<<<<<< SEARCH\n{old}\n=======\n{new}\n>>>>>>> REPLACE\n"
    return replace(turn, text=f"TITLE: {title}\nHYPOTHESIS: {hypothesis}\n{blocks}")


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A double of Ollama for benches and tests")
    parser.add_argument("--port", type=int, default=11435)
    parser.add_argument("--model", default="small:latest")
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before the first token of every answer")
    chosen = parser.parse_args()
    turns = [turn if isinstance(turn, dict) else {"text": turn} for turn in json.loads(chosen.script.read_text())]
    script = [Turn(**{"latency_s": chosen.latency, **turn}) for turn in turns]
    server = OllamaDouble(script, model=chosen.model, port=chosen.port)
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with listening(server):
        print(server.url, flush=True)
        ended.wait()
        server.closing.set()


if __name__ == "__main__":
    main()
