"""Serves the page: for a user's command, beside a run on this machine, and in a container."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing, suppress
from pathlib import Path

import uvicorn

from services.dashboard.access import Access, token_in
from services.dashboard.app import create_app
from services.dashboard.run_data import RunData
from services.machine.state import State
from trainer.stop import StopRequested, request_stop

TOKEN_FILE = "page.token"
TOKEN_KEY = "PAGE_TOKEN_FILE"  # in a container, the file is in a volume of its own
CONNECTIONS = 256
GRACE_S = 2


def serve(state: State, listener: socket.socket) -> None:
    """Serve the page at a socket that listens, until SIGTERM or SIGINT; the socket is closed then."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, request_stop)  # uvicorn sends itself the signal again at its end
    with closing(listener), suppress(StopRequested):
        config = uvicorn.Config(
            create_app(RunData(state), access_of(state)),
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=GRACE_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


def access_of(state: State) -> Access:
    """Return the checks of requests to the run in a state folder; its token is made at the first start."""
    given = os.environ.get(TOKEN_KEY)
    path = Path(given) if given else state.root / TOKEN_FILE
    return Access(token_in(path), f"It is in {path}.")
