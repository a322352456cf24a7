"""`python -m services.dashboard`: the process of the page, beside a run on this machine or in its container."""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from researcher.errors import OvernightError
from services.dashboard.address import LOOPBACK, PORT, listen
from services.dashboard.server import serve
from services.machine.state import State

REFUSED = 2


def main(arguments: list[str] | None = None) -> int:
    """Serve the page; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.dashboard", description="Serves the page of a run.")
    parser.add_argument("--state", type=Path, required=True, help="the folder of the run")
    parser.add_argument("--host", default=LOOPBACK, help="the address to listen on")
    parser.add_argument("--port", type=int, default=PORT, help="the port to listen on")
    parser.add_argument("--descriptor", type=int, help="a socket that listens already, in place of host and port")
    options = parser.parse_args(arguments)
    try:
        given = options.descriptor
        listener = listen(options.host, options.port) if given is None else socket.socket(fileno=given)
        serve(State(options.state), listener)
    except OvernightError as error:
        print(f"the page: {error}", file=sys.stderr)
        return REFUSED
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
