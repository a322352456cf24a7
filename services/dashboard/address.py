"""The address of the page on this machine."""

from __future__ import annotations

import socket
from contextlib import closing

from researcher.errors import OvernightError

LOOPBACK = "127.0.0.1"
PORT = 8642
SERVICE = "dashboard"  # of the stack


class PortTaken(OvernightError):
    """Another program listens on the port, or the user may not."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there; port 0 is any free one. Raises PortTaken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortTaken(f"port {port} of {host} cannot be used: {error.strerror}", "choose another --port") from error
    return listener


def listen_near(wanted: int = PORT) -> socket.socket:
    """Return a socket that listens on the wanted port of the loopback interface, or on another one if a program listens
    there. Raises PortTaken."""
    try:
        return listen(LOOPBACK, wanted)
    except PortTaken:
        return listen(LOOPBACK, 0)


def port_of(listener: socket.socket) -> int:
    """Return the port on which a socket listens."""
    return int(listener.getsockname()[1])


def free_port(wanted: int = PORT) -> int:
    """Return the wanted port of the loopback interface, or another free one if a program listens there."""
    with closing(listen_near(wanted)) as listener:
        return port_of(listener)


def address(port: int) -> str:
    """Return the address of the page for a browser on this machine."""
    return f"http://{LOOPBACK}:{port}/"
