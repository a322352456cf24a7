"""Questions to NVML, the library of NVIDIA's driver: one at a time, each within a time limit.

A broken GPU can make the library hang. Therefore each question runs in a daemon thread, and no caller waits for the
thread longer than the limit, not even at exit.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import TypeVar

import pynvml

Answer = TypeVar("Answer")


def ask(question: Callable[[], Answer], timeout_s: float) -> Answer:
    """Return the answer of `question`, called while the library is initialised.

    Raises pynvml.NVMLError: NVMLError_LibraryNotFound without a driver, NVMLError_Timeout past the limit.
    """
    answer = Future[Answer]()
    Thread(target=_answer, args=(question, answer), name="nvml", daemon=True).start()
    try:
        return answer.result(timeout_s)
    except TimeoutError as hangs:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT) from hangs


def _answer(question: Callable[[], Answer], answer: Future[Answer]) -> None:
    try:
        pynvml.nvmlInit()
        try:
            found = question()
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError as fault:
        answer.set_exception(fault)
    else:
        answer.set_result(found)
