"""The exception of a signal that stops a process, for handlers."""

from __future__ import annotations

from types import FrameType
from typing import NoReturn


class StopRequested(KeyboardInterrupt):
    """Raised by the handler of a signal, in place of KeyboardInterrupt.

    CPython ends a process that was started with `-m` as if SIGINT had killed it, whatever its exit code, once a
    KeyboardInterrupt has left code that runs from a text, such as the methods of a new dataclass. It compares the type
    itself (`_Py_UnhandledKeyboardInterrupt` in Python/pythonrun.c), so that a subclass keeps the exit code.
    """


def request_stop(signum: int, frame: FrameType | None) -> NoReturn:
    """Raise StopRequested: the handler of a signal."""
    raise StopRequested
