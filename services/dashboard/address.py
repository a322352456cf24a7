"""The address of the page on this machine."""

from __future__ import annotations

import socket
from contextlib import closing

from researcher.errors import OvernightError

LOOPBACK = "127.0.0.1"
PORT = 8642
SERVICE = "dashboard"  # of the stack


class PortTaken(OvernightError):
    """Another program listens on the port."""


def free_port(wanted: int = PORT) -> int:
    """Return the wanted port of the loopback interface, or another free one if a program listens there."""
    for port in (wanted, 0):
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise PortTaken(f"no port of {LOOPBACK} is free", "end a program that listens there")


def address(port: int) -> str:
    """Return the address of the page for a browser on this machine."""
    return f"http://{LOOPBACK}:{port}/"
