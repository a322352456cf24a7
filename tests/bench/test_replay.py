"""The replay reads stored answers again with the present code, and shows their results from the journal beside them."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

from rich.console import Console

from researcher.journal.records import Decision
from researcher.prompting.transcripts import EXCHANGES_FILE
from researcher.source.proposal import LlmCost, Proposal, ProposerName
from services.machine.state import State
from tests.bench.replay import replay_proposals
from tests.fixtures.journal_story import Story

HEAD = "TITLE: t\nHYPOTHESIS: h\n"


def store(state: State, number: int, text: str) -> None:
    folder = state.journal / "experiments" / str(number)
    folder.mkdir(parents=True)
    (folder / EXCHANGES_FILE).write_bytes(gzip.compress(text.encode()))


def test_rates_are_those_of_todays_code_by_model_and_edit_format(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.resolve(profile="cpu", detect=str)
    story = Story(state.journal)
    story.baseline(1.80, 1.82)
    story.try_out("two", 1.75, Decision.DISCARD)
    story.try_out("three", None, Decision.CRASH)
    cost = LlmCost("u", "other", 1, 1, 1, 1.0)
    for _ in range(2):
        proposal = Proposal(ProposerName.LLM, "nothing", "h", (), cost=cost)
        story.journal.reject(story.run, proposal, "refused", story.tick())
    story.journal.close()
    replies = [HEAD + "SET A = 2", HEAD + "SET B = 2", HEAD + "SET A = two", "<think>SET A = 2</think>no idea", ""]
    store(state, 1, json.dumps([{"prompt": "", "reply": reply, "fault": None} for reply in replies]))
    store(state, 2, json.dumps([{"prompt": "", "reply": HEAD + "SET A = 1", "fault": None, "cut": False}]))
    store(state, 3, json.dumps([{"prompt": "", "reply": HEAD + "SET A = 1", "fault": None, "cut": True}]))
    store(state, 4, "[{")

    shown = io.StringIO()
    replay_proposals(state, Console(file=shown, width=200))

    lines = [" ".join(line.split()) for line in shown.getvalue().splitlines()]
    assert "the answers of experiment 4 cannot be read: JSONDecodeError" in shown.getvalue()
    assert lines[1:] == [
        "model edit format answers parse apply validate ran crashed",
        "m set 4 75% 50% 25% 1 1",
        "m none 1 0% 0% 0% 0 0",
        "other set 1 0% 0% 0% 0 0",
    ]
