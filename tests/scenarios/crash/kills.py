"""Death at a step, in the product as it is: a call is wrapped so that its process dies right before or after it.

For processes of tests that were forked a moment ago: what is wrapped stays wrapped.
"""

from __future__ import annotations

import itertools
import os
import pkgutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

GIT = "git "


class Moment(StrEnum):
    """When a step kills."""

    BEFORE = "before"
    AFTER = "after"


class Victim(StrEnum):
    """Whom it kills."""

    ITSELF = "itself"
    PARENT = "parent"


@dataclass(frozen=True)
class Kill:
    """SIGKILL at the first of `steps` (`module.Class.method`, or `git WORD`) that comes after `skip` others.

    The file `armed` holds a byte for each kill that is left, so that forks know of each other's.
    """

    steps: tuple[str, ...]
    moment: Moment
    armed: Path
    skip: int = 0
    victim: Victim = Victim.ITSELF

    def arm(self, times: int = 1) -> None:
        """So many die from now on."""
        self.armed.write_bytes(b"x" * times)

    def left(self) -> int:
        """How many did not yet."""
        return self.armed.stat().st_size


def prepare(kill: Kill) -> None:
    """Wrap every step in this process."""
    passed = itertools.count()

    def pass_by(moment: Moment) -> None:
        if moment is kill.moment and next(passed) >= kill.skip and (left := kill.left()):
            os.truncate(kill.armed, left - 1)
            os.kill(os.getpid() if kill.victim is Victim.ITSELF else os.getppid(), signal.SIGKILL)

    for step in kill.steps:
        if step.startswith(GIT):
            _wrap("git.cmd.Git.execute", pass_by, lambda _, command, *__: command[1] == step.removeprefix(GIT))  # noqa: B023
        else:
            _wrap(step, pass_by, lambda *_: True)


def _wrap(step: str, pass_by: Callable[[Moment], None], concerns: Callable[..., bool]) -> None:
    place, _, name = step.rpartition(".")
    owner = pkgutil.resolve_name(place)
    wrapped = getattr(owner, name)

    def call(*arguments: Any, **named: Any) -> Any:
        if not concerns(*arguments):
            return wrapped(*arguments, **named)
        pass_by(Moment.BEFORE)
        answer = wrapped(*arguments, **named)
        pass_by(Moment.AFTER)
        return answer

    setattr(owner, name, call)
