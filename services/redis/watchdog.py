"""Ends whatever blocks the embedded server: an endless script, or a command that keeps the server silent for minutes.

No Redis user may run a script, so this is a second line of defence. A script that has written cannot be ended alone.
Then the watchdog kills the server, and the server starts again from its append-only file, which contains nothing of the
script. The watchdog has a thread of its own, because a caller of a blocked server waits with it. In the container,
`watch.sh` does the same.
"""

from __future__ import annotations

import logging
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.redis.acl import HEALTH

log = logging.getLogger(__name__)

_EVERY_S = 5.0
_ANSWER_WITHIN_S = 3.0
SILENT_S = 120.0  # long enough for a machine that swaps; a server that is silent for longer does not recover by itself


@dataclass
class Watchdog:
    """Inspects the server on `port` every few seconds; `process` returns the server's present process."""

    port: int
    process: Callable[[], subprocess.Popen[bytes]]
    clock: Callable[[], float] = time.monotonic
    answer_within_s: float = _ANSWER_WITHIN_S
    _answered_s: float | None = None
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Start the thread, which inspects the server until `stop`."""
        threading.Thread(target=self._scan_again, name="redis-watchdog", daemon=True).start()

    def stop(self) -> None:
        """Start no further inspection."""
        self._over.set()

    def _scan_again(self) -> None:
        while not self._over.wait(_EVERY_S):
            self.scan()

    def scan(self) -> None:
        """Inspect the server once, and end an endless script or a silent server. `RedisServer.revive` restarts a killed
        server."""
        if self._answered_s is None:
            self._answered_s = self.clock()
        try:
            self._ask("PING")
        except redis.TimeoutError:
            silent_s = self.clock() - self._answered_s
            if silent_s >= SILENT_S:
                self._kill(f"it has not answered for {silent_s:.0f} s")
            return
        except redis.ResponseError as refusal:
            if _begins(refusal, "BUSY"):
                self._end_script()
        except redis.ConnectionError:
            pass  # the server ended or has no free connection: in both cases no command keeps it silent
        self._answered_s = self.clock()

    def _end_script(self) -> None:
        for command in ("SCRIPT KILL", "FUNCTION KILL"):
            try:
                self._ask(command)
            except redis.ResponseError as refusal:
                if _begins(refusal, "UNKILLABLE"):
                    self._kill("a script that does not end has written, and cannot be ended alone")
                    return
            except (redis.TimeoutError, redis.ConnectionError) as gone:
                log.warning("a script does not end, and %s got no answer (%s); the next look asks again", command, gone)
                return
            else:
                log.error("a script on the server did not end and was ended by %s; find who may run one", command)
                return

    def _kill(self, why: str) -> None:
        log.error("the server is killed and started again from its file: %s", why)
        self._answered_s = None
        self.process().kill()

    def _ask(self, command: str) -> None:
        asking = redis.Redis(
            port=self.port,
            username=HEALTH.name,
            password="any",
            socket_timeout=self.answer_within_s,
            socket_connect_timeout=self.answer_within_s,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            asking.execute_command(*command.split())  # type: ignore[no-untyped-call]
        finally:
            asking.close()


def _begins(refusal: redis.ResponseError, code: str) -> bool:
    """Whether a refusal has the code. Some versions of the client library cut the code off the message, some do not."""
    return str(refusal).upper().startswith(code) or type(refusal).__name__.upper().startswith(code)
