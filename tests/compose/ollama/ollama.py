#!/usr/bin/env python3
"""`ollama serve | list | show NAME | pull NAME`, as far as the stack uses it: the double of Ollama's server with models
that are files of the models volume.

A pull succeeds only where the machine's package mirror can be reached, so that tests see who has a way out. An answer
moves one knob of the train.py in the question by a factor of chance, so the double never runs out of new edits.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.doubles.ollama_server import OllamaDouble, Turn, _Handler, listening
from tests.doubles.ollama_shapes import full_name, listed_model

KNOBS = ("MATRIX_LR", "SCALAR_LR", "EMBEDDING_LR", "UNEMBEDDING_LR", "WEIGHT_DECAY")
PORT = 11434


class ModelsOnDisk(OllamaDouble):
    """The double, reachable from other containers, with the models that were pulled."""

    def server_bind(self) -> None:
        self.server_address = (os.environ["OLLAMA_HOST"].partition(":")[0], PORT)
        super().server_bind()

    @property
    def model(self) -> str:
        """The one in the volume; tests pull one."""
        return next(iter(pulled()), "none")

    @model.setter
    def model(self, name: str) -> None:
        """Only a pull brings a model."""


class Handler(_Handler):
    """What the double does not know: pulling, and having no model yet."""

    def do_GET(self) -> None:  # noqa: N802 - the base class's name
        if self.path == "/api/tags":
            self._send_json(200, {"models": [listed_model(name) for name in pulled()]})
        else:
            super().do_GET()

    def do_POST(self) -> None:  # noqa: N802
        if self.path != "/api/pull":
            super().do_POST()
            return
        name = full_name(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"])
        if name.startswith("unknown"):
            self._send_json(200, {"error": "pull model manifest: file does not exist"})
        elif has_way_out():
            models().joinpath(name).touch()
            self._send_json(200, {"status": "success"})
        else:
            self._send_json(200, {"error": "pull model manifest: dial tcp: lookup: no such host"})


def models() -> Path:
    return Path(os.environ["OLLAMA_MODELS"])


def pulled() -> list[str]:
    return sorted(path.name for path in models().glob("*:*"))


def has_way_out() -> bool:
    mirror = urlsplit(Path("/etc/apt/sources.list").read_text().split()[1])
    try:
        socket.create_connection(
            (mirror.hostname, mirror.port or {"http": 80, "https": 443}[mirror.scheme]), timeout=5
        ).close()
    except OSError:
        return False
    return True


def nudge(_: dict[str, Any]) -> Turn:
    return Turn(nudge=random.choice(KNOBS), by=random.uniform(0.8, 1.3))


def serve() -> int:
    server = ModelsOnDisk(nudge, port=PORT)
    server.RequestHandlerClass = Handler
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with listening(server):
        print(f"Listening on {server.server_address}")
        ended.wait()
        server.closing.set()
    return 0


def ask(path: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    """The server's answer. Raises SystemExit, as the client does, for an error and for no answer."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", data, timeout=60) as reply:
            answer: dict[str, Any] = json.loads(reply.read())
    except urllib.error.HTTPError as error:
        answer = json.loads(error.read())
    except OSError as error:
        raise SystemExit(
            f"Error: could not connect to ollama server, run 'ollama serve' to start it: {error}"
        ) from error
    if "error" in answer:
        raise SystemExit(f"Error: {answer['error']}")
    return answer


def main(verb: str, *names: str) -> int:
    match verb, names:
        case "serve", ():
            return serve()
        case "list", ():
            print("NAME", *(model["name"] for model in ask("/api/tags")["models"]), sep="\n")
        case "show", (name,):
            print(ask("/api/show", {"model": name})["details"])
        case "pull", (name,):
            print(ask("/api/pull", {"model": name})["status"])
        case _:
            raise SystemExit(f"Error: unknown command {verb!r} of this double")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
