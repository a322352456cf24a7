"""A client of a run: it finds the run's Redis and sends requests.

In a container the address comes from the environment; in local mode from the files of the embedded server.
"""

from __future__ import annotations

import os
from pathlib import Path

import redis

from researcher.errors import OvernightError
from researcher.files import read_text
from researcher.queues.requests import cancel, send, wait_reply
from services.machine.state import State
from services.redis.acl import RESEARCHER
from services.redis.server import running_server
from trainer.jobs import RedisClient, connect

ANSWER_WITHIN_S = 15


class ClientError(OvernightError):
    """No researcher or no Redis answers."""


def open_bus(state: State, user: str = RESEARCHER.name) -> RedisClient:
    """Connect to the run's Redis, in local mode as one of its users. Raises ClientError if its address is unknown."""
    url = os.environ.get("REDIS_URL")
    if url:
        secret = os.environ.get("REDIS_PASSWORD_FILE")
        return RedisClient(connect(url, password=read_text(Path(secret)).strip() if secret else None, patient=False))
    server = running_server(state.redis)
    if server is None:
        raise ClientError(
            f"no run is going on in {state.root}",
            "start it with `overnight run` (if it runs on a server of your own, set REDIS_URL)",
        )
    own = server.password_file(user)
    password = server.password if own is None else read_text(own).strip()
    return RedisClient(connect(server.url_for(user), password=password, patient=False))


def is_running(state: State) -> bool:
    """Return True if a researcher is working on this state."""
    try:
        status = open_bus(state).doing("researcher")
    except (ClientError, redis.RedisError):
        return False
    return status is not None and not status.is_over


def ask_and_wait(state: State, kind: str, body: str) -> str:
    """Send a request and return the answer. A request that stays unserved is cancelled, so that it cannot affect a
    later run. Raises ClientError without an answer."""
    if not os.environ.get("REDIS_URL"):  # with it, the run may be on another machine
        state.require_run()
    bus = open_bus(state)
    status = bus.doing("researcher")
    if status is None:
        raise ClientError("no researcher is at work", "start the run with `overnight run`")
    if status.is_over:
        raise ClientError(
            f"no researcher is at work ({status})", "start it again: `overnight run`, in containers `scripts/up`"
        )
    text = body.encode(errors="surrogateescape").decode(errors="replace")  # a terminal may send any bytes
    try:
        request = send(bus, kind, text)
        reply = wait_reply(bus, request, ANSWER_WITHIN_S)
        if reply is not None:
            return reply
        was_cancelled = cancel(bus, request)
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise ClientError(
            f"the request was perhaps taken, but Redis stopped answering ({error})", "see `overnight status`"
        ) from error
    if was_cancelled:
        raise ClientError(f"the researcher did not answer within {ANSWER_WITHIN_S} s", "nothing was changed, try again")
    return "taken in, but not answered yet; see `overnight status`"
