"""Runs of twenty experiments with an LLM that fails in one way throughout, asked in turn and ahead."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import Any

import pytest

from researcher.journal.reader import JournalReader
from researcher.journal.records import Goal
from researcher.llm.openai import OpenAiClient, OpenAiSettings
from researcher.loop.loop import run_until_goal
from researcher.prompting.transcripts import EXCHANGES_FILE, Exchange, stored_exchanges
from researcher.proposers.prefetch import FixedPolicy, Prefetch
from researcher.proposers.schedule import Mix
from researcher.report.proposer_stats import Rates, rates_of
from researcher.report.view import build_report
from researcher.source.proposal import ProposerName
from tests.doubles.ollama_server import listening
from tests.doubles.openai_server import OpenAiDouble, Reply, chunk, spoken
from tests.fixtures.journal_story import PROFILE
from tests.fixtures.loop_in_process import opened
from tests.fixtures.scripted_run import ScriptedRun
from tests.researcher.proposers.test_proposers import Rests, asking
from trainer.jobs import Outcome

EXPERIMENTS = 20
SHARES = {ProposerName.LLM: 0.5, ProposerName.ADVISER: 0.5}
OWN = (ProposerName.LLM, ProposerName.ADVISER)
AWAY_S = (20.0, 60.0)  # on the run's clock
WHOLE_FILE = "TITLE: t\nHYPOTHESIS: h\n```python\nLEVEL = 1.2\n```\n"


def moved(name: str, value: object) -> Callable[[bool], Reply]:
    """Return an answer that sets a knob, as JSON or in the free form."""
    as_json = json.dumps({"set": {name: value}, "hypothesis": "h"})
    return lambda in_json: uncounted(as_json if in_json else f"TITLE: t\nHYPOTHESIS: h\nSET {name} = {value}\n")


def uncounted(text: str) -> Reply:
    """Return an answer of a server that counts no tokens."""
    return spoken(text, usage=None)


def always(reply: Reply) -> Callable[[bool], Reply]:
    return lambda _: reply


READING = always(Reply(pieces=[b": processing\n\n"], hangs=True))
BROKEN_OFF = always(Reply(pieces=[chunk({"content": "TITLE: t\n"}), chunk({"content": "HYPOTHESIS: h\n"})]))
PROSE = ("I would rather not.", '{"set": {"LEVEL": ', "TITLE: t\nHYPOTHESIS: h\n", "```python\nprint(")


@dataclass(frozen=True)
class Mode:
    """The answers of an LLM, again and again, and for a failing server the words of its fault."""

    answers: Sequence[Callable[[bool], Reply]] = ()
    server_fault: str = ""
    settings: dict[str, float] = field(default_factory=dict)


MODES = {
    "deadline while it reads": Mode([READING], "was still reading the question", {"deadline_s": 0.05}),
    "disconnected": Mode([BROKEN_OFF, BROKEN_OFF, moved("WIDTH", 128)], "without a reason"),
    # A question that the server has not taken yet when it goes is reset.
    "refused for a while": Mode(
        [moved("WIDTH", 32), moved("WIDTH", 128)], r"nothing usable answers|broke off: ReadError"
    ),
    "no edit": Mode([always(uncounted(text)) for text in PROSE]),
    "rejected": Mode([moved("LEVEL", 9.0), moved("NOWHERE", 1.0), moved("LEVEL", "x"), always(uncounted(WHOLE_FILE))]),
}


class Llm:
    """A server on one port that answers by a mode. It is down while `is_away` says so."""

    def __init__(self, mode: Mode, stack: ExitStack) -> None:
        self.asked: list[tuple[str, bool]] = []  # each question, and whether it was answered
        self._mode = mode
        self._stack = stack
        with closing(socket.socket()) as bound:
            bound.bind(("127.0.0.1", 0))
            self._port = int(bound.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._server: OpenAiDouble | None = None

    def switch(self, now: float) -> None:
        """Start or stop the server as the run's clock wants it."""
        is_away = self._mode is MODES["refused for a while"] and AWAY_S[0] <= now < AWAY_S[1]
        if self._server is None and not is_away:
            self._server = OpenAiDouble(self._answer, port=self._port)
            self._stack.enter_context(listening(self._server))
            self._stack.callback(self._server.released.set)
        elif self._server is not None and is_away:
            self._server = None
            self._stack.close()

    def _answer(self, question: dict[str, Any]) -> Reply:
        answers = self._mode.answers
        reply = answers[len(self.asked) % len(answers)]("response_format" in question)
        self.asked.append((json.dumps(question["messages"]), reply.pieces[-1].endswith(b"[DONE]\n\n")))
        return reply

    @property
    def repeats(self) -> list[str]:
        """The questions that came again although they were answered."""
        answered = [(number, text) for number, (text, is_answered) in enumerate(self.asked) if is_answered]
        return [text for number, text in answered if text in [later for later, _ in self.asked[number + 1 :]]]


class Clock(Rests):
    """A clock that each look moves by a second, so that a server rests for a while and not for ever."""

    def __init__(self, switch: Callable[[float], None]) -> None:
        super().__init__(0.0, list)
        self._switch = switch

    def clock(self) -> float:
        self.now += 1.0
        self._switch(self.now)
        return self.now


@pytest.mark.slow
@pytest.mark.parametrize("is_ahead", [False, True], ids=["in turn", "ahead"])
@pytest.mark.parametrize("model", ["small", "small-4b"])
@pytest.mark.parametrize("name", MODES)
def test_no_answered_question_is_asked_twice_and_faults_of_the_server_are_no_rejections(
    scripted_run: ScriptedRun, name: str, model: str, is_ahead: bool
) -> None:
    scripted_run.start_trainer()
    mode = MODES[name]
    with (
        ExitStack() as stack,
        opened(scripted_run, [], goal=Goal(EXPERIMENTS)) as run_context,
        closing(Prefetch(scripted_run.journal, FixedPolicy(is_ahead))) as drafting,
    ):
        llm = Llm(mode, stack)
        llm.switch(0.0)
        client = OpenAiClient(OpenAiSettings(base_url=llm.url, model=model, **mode.settings))
        run_until_goal(asking(run_context, Clock(llm.switch), client, Mix.HYBRID, drafting=drafting, shares=SHARES))

    with JournalReader(scripted_run.journal) as history:
        experiments = history.experiments()[1:]
        report = build_report(history, PROFILE)
        assert report is not None
        rates = [each for each in rates_of(report.run, report.rows, history.scores()) if each.proposer in OWN]
    own = [item for item in experiments if item.proposer in OWN]
    rejected = [item.reason or "" for item in own if item.outcome is Outcome.REJECTED]
    unanswered = [item.reason or "" for item in own if item.outcome is Outcome.UNANSWERED]
    exchanges = [each for item in own for each in _stored(scripted_run, item.number)]
    answered = [each.prompt for each in exchanges if each.reply]

    assert sum(item.was_measured for item in experiments) == EXPERIMENTS
    assert llm.asked
    assert not llm.repeats
    assert len(set(answered)) == len(answered), "the journal holds no answered question twice"
    assert _counts(rates) == (len(own) - len(unanswered), len(rejected), len(unanswered))
    if mode.server_fault:
        assert unanswered
        assert all(re.search(mode.server_fault, reason) for reason in unanswered), unanswered
        assert not any(mode.server_fault in text for text in [*rejected, *(text for text, _ in llm.asked)])
    else:
        assert not unanswered
        assert rejected


def _stored(scripted_run: ScriptedRun, number: int) -> list[Exchange]:
    folder = scripted_run.journal / "experiments" / str(number)
    return stored_exchanges(folder) if (folder / EXCHANGES_FILE).exists() else []


def _counts(rates: Sequence[Rates]) -> tuple[int, int, int]:
    return (
        sum(each.tries for each in rates),
        sum(each.rejected for each in rates),
        sum(each.unanswered for each in rates),
    )
