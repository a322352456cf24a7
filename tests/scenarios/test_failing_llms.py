"""Runs of twenty experiments with an LLM that fails in one way throughout, asked in turn and ahead."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import closing
from typing import Any

import pytest

from researcher.journal.reader import JournalReader
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.loop.context import Goal
from researcher.loop.loop import run_until_goal
from researcher.proposers.prefetch import FixedPolicy, Prefetch
from researcher.proposers.schedule import Mix
from researcher.source.proposal import ProposerName
from tests.doubles.ollama_server import Turn, ollama_double
from tests.fixtures.loop_in_process import opened
from tests.fixtures.scripted_run import ScriptedRun
from tests.researcher.proposers.test_proposers import Rests, asking
from trainer.jobs import Outcome

EXPERIMENTS = 20
SHARES = {ProposerName.LLM: 0.5, ProposerName.ADVISER: 0.5}


class Clock(Rests):
    """A clock that each look moves by a second, so that a server rests for a while and not for ever."""

    def clock(self) -> float:
        self.now += 1.0
        return self.now


def move(name: str, value: float) -> dict[bool, Turn]:
    """Return a change of a knob, in the free form and as JSON."""
    return {
        False: Turn(f"TITLE: t\nHYPOTHESIS: h\nSET {name} = {value}\n"),
        True: Turn(json.dumps({"set": {name: value}, "hypothesis": "h"})),
    }


def always(turn: Turn) -> dict[bool, Turn]:
    return {False: turn, True: turn}


MODES = {
    "no edit": always(Turn("I would rather not.")),
    "the same edit": move("LEVEL", 1.9),
    "no such knob": move("NOWHERE", 1.0),
    "broken off": always(Turn("TITLE: t\nHYPOTHESIS: h\n", "drop_mid_stream")),
    "silent": always(Turn("", "hang")),
}
OF_SERVER = {"broken off": "broke off", "silent": "sent nothing"}


@pytest.mark.slow
@pytest.mark.parametrize("is_ahead", [False, True], ids=["in turn", "ahead"])
@pytest.mark.parametrize("model", ["small", "small:4b"])
@pytest.mark.parametrize("mode", MODES)
def test_no_answered_question_is_asked_twice_and_faults_of_the_server_are_no_rejections(
    scripted_run: ScriptedRun, mode: str, model: str, is_ahead: bool
) -> None:
    scripted_run.start_trainer()

    def script(question: dict[str, Any]) -> Turn:
        return MODES[mode]["format" in question]

    name = model if ":" in model else f"{model}:latest"
    with (
        ollama_double(script, model=name) as llm,
        opened(scripted_run, [], goal=Goal(EXPERIMENTS)) as run_context,
        closing(Prefetch(scripted_run.journal, FixedPolicy(is_ahead))) as drafting,
    ):
        client = OllamaClient(OllamaSettings(llm.url, model, first_s=0.3))
        run_until_goal(asking(run_context, Clock(0.0, list), client, Mix.HYBRID, drafting=drafting, shares=SHARES))

    with JournalReader(scripted_run.journal) as history:
        experiments = history.experiments()[1:]
    own = Counter(item.outcome for item in experiments if item.proposer in (ProposerName.LLM, ProposerName.ADVISER))
    texts = [json.dumps(question["messages"]) for question in llm.asked]
    assert sum(item.was_measured for item in experiments) == EXPERIMENTS
    if mode in OF_SERVER:
        assert own.keys() <= {Outcome.UNANSWERED}, "a server that never answered is told in the status alone"
        assert texts
        assert not any(OF_SERVER[mode] in text for text in texts)
    else:
        assert Outcome.UNANSWERED not in own
        assert own[Outcome.REJECTED] > 0
        assert len(set(texts)) == len(texts)
