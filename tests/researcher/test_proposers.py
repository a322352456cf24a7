"""Whose turn it is, in a laboratory night: real loop and journal, an LLM over HTTP, and a clock that rests move."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import count

import pytest

from researcher import escalation
from researcher.checker import Checker
from researcher.drafting import Drafting
from researcher.experiment import RequestState
from researcher.history import History
from researcher.lab import Goal, Lab
from researcher.llm import LlmProposer
from researcher.loop import work
from researcher.meter import Meter
from researcher.ollama import OllamaClient, OllamaSettings
from researcher.optimizer import Optimizer
from researcher.proposal import Proposer
from researcher.proposers import Proposers, Stronger
from researcher.settings import Mix
from researcher.speaker import Asking
from tests.doubles.ollama_server import OllamaDouble, Turn, listening, ollama_double
from tests.researcher.conftest import ScriptedNight
from tests.researcher.laboratory import opened
from trainer.jobs import profile_named

REST_S = 0.2
RECOVERED_S = 5.0
LONGEST_ANSWER = 1000  # tokens


@dataclass
class Rests:
    """A clock that only a rest moves; `then` is done at `at_s`."""

    at_s: float
    then: Callable[[], object]
    now: float = 0.0
    done: bool = False

    def clock(self) -> float:
        return self.now

    def rest(self) -> None:
        self.now += REST_S
        if self.now >= self.at_s and not self.done:
            self.done = True
            self.then()


@pytest.fixture
def port() -> int:
    """Nobody listens there, until somebody does."""
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture
def services() -> Iterator[ExitStack]:
    """Ended after the test."""
    with ExitStack() as stack:
        yield stack


def asking(
    lab: Lab,
    rests: Rests,
    client: OllamaClient,
    mix: Mix,
    stronger: Stronger | None = None,
    drafting: Drafting | None = None,
    checker: Checker | None = None,
) -> Lab:
    """The lab with an LLM that is asked for its proposals, maybe ahead, and one for plateaus."""
    proposers = Proposers(
        mix=mix,
        asking=Asking(profile_named("cpu"), lambda: "Go down.", checker),
        optimizer=Optimizer(seed=7, context=256),
        llm=LlmProposer(client),
        stronger=stronger,
        drafting=drafting,
        folder=lab.journal.folder / "experiments",
        say=lambda _: None,
        clock=rests.clock,
    )
    return replace(lab, proposers=proposers, rest=rests.rest)


def test_a_server_that_was_down_for_a_minute_is_asked_within_five_seconds_and_takes_up_what_waits(
    night: ScriptedNight, port: int, services: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    night.start_trainer()
    asked: list[float] = []
    factors = count(1)

    def script(_: object) -> Turn:
        asked.append(rests.now)
        return Turn(nudge="LEVEL", by=1 - next(factors) / 1000)

    rests = Rests(60.0, lambda: services.enter_context(listening(OllamaDouble(script, port=port))))
    client = OllamaClient(OllamaSettings(f"http://127.0.0.1:{port}", "small"))
    with opened(night, [], goal=Goal(2)) as lab, caplog.at_level(logging.WARNING):
        lab.journal.receive("r1", "idea", "a lower level", "waits", waiting=True, at=2.0)
        work(asking(lab, rests, client, Mix.LLM))

    with History(night.journal) as history:
        experiments, (idea,) = history.experiments()[1:], history.requests()
    assert 60 <= asked[0] <= 60 + RECOVERED_S
    assert [item.proposer for item in experiments] == [Proposer.LLM, Proposer.LLM]
    assert (idea.state, experiments[0].request) == (RequestState.DONE, "r1")
    assert sum("no LLM" in record.message for record in caplog.records) == 1, "said once, looked for often"


def test_a_plateau_has_the_stronger_model_asked_once_and_a_restart_keeps_what_was_spent(
    night: ScriptedNight, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(escalation, "PLATEAU", 3)
    night.start_trainer()
    factors = count(1)

    def worse(_: object) -> Turn:
        return Turn(nudge="LEVEL", by=1 + next(factors) / 100)

    def tell(measured: int) -> None:
        """Until so many experiments are measured; each answer may cost 1, and what is left after one is less."""
        with opened(night, [], goal=Goal(measured)) as lab, caplog.at_level(logging.INFO):
            settings = OllamaSettings(strong.url, "strong", num_predict=LONGEST_ANSWER)
            meter = Meter(OllamaClient(settings), lambda _, answer: (answer or 0) / LONGEST_ANSWER, 1.01, lab.journal)
            client = OllamaClient(OllamaSettings(usual.url, "small"))
            work(asking(lab, Rests(0, list), client, Mix.LLM, Stronger(LlmProposer(meter), meter)))

    with ollama_double(worse) as usual, ollama_double(worse, model="strong:latest") as strong:
        tell(5)
        assert len(strong.asked) == 1
        tell(9)

    with History(night.journal) as history:
        models = [item.cost.model for item in history.experiments() if item.cost is not None]
        (call,) = history.paid_calls()
    assert models == [*["small"] * 3, "strong", *["small"] * 5]
    assert len(strong.asked) == 1, "what is left does not pay for another"
    assert (call.why, call.after) == ("3 experiments in a row without a keep", 4)
    assert call.money == pytest.approx((call.answer_tokens or 0) / LONGEST_ANSWER)
    assert 0.01 < call.counted < 1
    told = [record.getMessage() for record in caplog.records if "strong" in record.getMessage()]
    asked, refused = (words for words in told if words.startswith("strong "))
    assert asked.startswith("strong was asked: 3 experiments in a row without a keep; 0.0")
    assert refused.startswith("strong is not asked any more: an answer of strong may cost 1.0000, and 0.9")
