"""Watches a run in containers from outside until it has ended, through restarts of containers and of the engine.

The view is a command inside the researcher's container and stops nothing. It is started again every few minutes,
because the engine does not end a command whose terminal was lost, and it would stay for the rest of the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum

from rich.console import Console

from services.machine.compose import ENGINE_AWAY, Stack
from services.stack.results import RESEARCHER
from services.views import follow

_WATCH_S = 600
_REST_S = 2.0
_PATIENCE = 300  # rests; enough for an upgrade of the engine
_AGAIN = 124  # exit code of `timeout` when the time is over


class Ending(Enum):
    """Why watching ended: the run is over, the researcher refused it, the user left, or the stack is gone."""

    OVER = "over"
    REFUSED = "refused"
    LEFT = "left"
    GONE = "gone"


_ENDINGS = {follow.OVER: Ending.OVER, follow.WAS_REFUSED: Ending.REFUSED, follow.LEFT: Ending.LEFT}


def watch_run(
    stack: Stack, console: Console, *, terminal: bool, rest: Callable[[], None] = lambda: time.sleep(_REST_S)
) -> Ending:
    """Show the run until it is over, refused or gone, or until Ctrl-C; return which."""
    watching = ("timeout", "--foreground", str(_WATCH_S), "overnight", "status", "--follow")
    while True:
        try:
            code = stack.execute(RESEARCHER, *watching, terminal=terminal)
            if code in _ENDINGS:
                return _ENDINGS[code]
            if code != _AGAIN and not _is_back(stack, console, rest):
                return Ending.GONE
        except KeyboardInterrupt:
            return Ending.LEFT


def _is_back(stack: Stack, console: Console, rest: Callable[[], None]) -> bool:
    """Wait for a running researcher. False if the stack was taken down, or does not come back."""
    shown = None
    for _ in range(_PATIENCE):
        rest()
        try:
            found = stack.containers()
        except ENGINE_AWAY:
            message = "the engine does not answer"
        else:
            if not found:
                return False
            researcher = next((each for each in found if each.service == RESEARCHER), None)
            if researcher is not None and researcher.state == "running":
                return True
            message = f"the researcher is {'gone' if researcher is None else researcher.in_words()}"
        if message != shown:
            console.print(f"{message}; waiting for it", highlight=False)
            shown = message
    return False
