"""When an LLM that was away is asked again: told by a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researcher.errors import LlmTimeout, LlmUnavailable, ModelDoesNotFit, ModelNotUnloaded
from researcher.proposers.availability import LOOKS_SHARE, CircuitBreaker

RECOVERED_S = 5.0


@dataclass
class Server:
    """`gone` are the seconds in which nobody is there, and a look finds that out in `look_s`."""

    gone: Callable[[float], bool]
    look_s: float = 0.001
    now: float = 0.0
    looks: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def check_available(self) -> None:
        self.looks.append(self.now)
        self.now += self.look_s
        if self.gone(self.now):
            raise LlmUnavailable("connection refused")

    def asked_at(self, breaker: CircuitBreaker, until: float, step_s: float = 0.2) -> float | None:
        """When it would be asked, if it is before `until`."""
        while self.now < until:
            if breaker.allows_question(self.check_available):
                return self.now
            self.now += step_s
        return None


@settings(max_examples=30)
@given(st.floats(0, 300), st.floats(0.1, 1))
def test_one_that_was_gone_is_asked_within_five_seconds_of_being_back(back: float, step_s: float) -> None:
    server = Server(lambda now: now < back)
    breaker = CircuitBreaker(server.clock)
    breaker.record_failure(LlmUnavailable("connection refused"))

    asked = server.asked_at(breaker, back + 100, step_s)

    assert asked is not None
    assert asked <= back + RECOVERED_S


@pytest.mark.parametrize(
    ("error", "questions"),
    [
        (LlmUnavailable, [2, 10, 42, 170, 350]),
        (LlmTimeout, [2, 10, 42, 170, 682, 2482]),
        (ModelDoesNotFit, [180, 360, 540]),
        (ModelNotUnloaded, [180, 360, 540]),
    ],
)
def test_what_no_look_sees_waits_longer_each_time(error: type[LlmUnavailable], questions: list[float]) -> None:
    server = Server(lambda _: False, look_s=0.0)
    breaker = CircuitBreaker(server.clock)
    breaker.record_failure(error("as ever"))
    asked = []

    while (at := server.asked_at(breaker, questions[-1] + 4, step_s=1.0)) is not None:
        asked.append(at)
        breaker.record_failure(error("as ever"))

    assert asked == pytest.approx(questions, abs=4)


def test_one_that_hung_and_was_started_anew_is_asked_at_once() -> None:
    server = Server(lambda now: 20 <= now < 30)
    breaker = CircuitBreaker(server.clock)
    for _ in range(6):
        breaker.record_failure(LlmTimeout("it took the question"))

    asked = server.asked_at(breaker, 100)

    assert asked is not None
    assert 30 <= asked <= 30 + RECOVERED_S


def test_after_an_answer_the_first_wait_is_short_again() -> None:
    server = Server(lambda _: False)
    breaker = CircuitBreaker(server.clock)
    for _ in range(4):
        breaker.record_failure(LlmUnavailable("503"))
    breaker.record_answer()
    assert breaker.away is None
    breaker.record_failure(LlmUnavailable("503"))

    assert server.asked_at(breaker, 100) == pytest.approx(2, abs=1)


def test_a_look_that_takes_seconds_takes_a_small_share_of_the_time() -> None:
    server = Server(lambda _: True, look_s=2.0)
    breaker = CircuitBreaker(server.clock)
    breaker.record_failure(LlmUnavailable("no answer"))

    assert server.asked_at(breaker, 1000) is None

    assert len(server.looks) * server.look_s <= 1000 * LOOKS_SHARE + server.look_s


def test_where_nothing_else_is_to_be_done_a_slow_look_delays_nobody() -> None:
    server = Server(lambda now: now < 300, look_s=2.0)
    breaker = CircuitBreaker(server.clock, looks_share=1.0)
    breaker.record_failure(LlmUnavailable("no answer"))

    asked = server.asked_at(breaker, 400)

    assert asked is not None
    assert asked <= 300 + RECOVERED_S
