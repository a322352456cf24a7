"""Whose turn it is, in a laboratory run: real loop and journal, an LLM over HTTP, and a clock that rests move."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Goal, RequestState
from researcher.llm.client import ChatClient
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.loop.context import RunContext
from researcher.loop.loop import run_until_goal
from researcher.optimizer.optimizer import Optimizer
from researcher.proposers import escalation, proposers
from researcher.proposers.draft import ProposalRequest
from researcher.proposers.escalation import MeteredClient
from researcher.proposers.llm_conversation import Conversation
from researcher.proposers.llm_proposer import LlmProposer, Vetting
from researcher.proposers.prefetch import Prefetch
from researcher.proposers.prompt_context import Briefing
from researcher.proposers.proposers import Proposers
from researcher.proposers.schedule import Mix, Schedule
from researcher.proposers.stronger_llm import Stronger
from researcher.queues.dry_runs import DryRuns
from researcher.source.edits import apply_edits
from researcher.source.proposal import ProposerName, SetKnobs
from tests.doubles.ollama_server import OllamaDouble, Turn, listening, ollama_double
from tests.fixtures.journal_story import Story
from tests.fixtures.loop_in_process import opened
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs import Outcome, profile_named

REST_S = 0.2
RECOVERED_S = 5.0
LONGEST_ANSWER = 1000  # tokens
IN_TURN: Schedule = {ProposerName.LLM: 0.5, ProposerName.ADVISER: 0.0}


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
    run_context: RunContext,
    rests: Rests,
    client: ChatClient,
    mix: Mix,
    stronger: Stronger | None = None,
    drafting: Prefetch | None = None,
    dry_runs: DryRuns | None = None,
    shares: Schedule = IN_TURN,
    publish: Callable[[str], None] = lambda _: None,
) -> RunContext:
    """The context with an LLM that is asked for its proposals, maybe ahead, and one for plateaus."""
    who = Proposers(
        mix=mix,
        vetting=Vetting(profile_named("cpu"), lambda: "Go down.", dry_runs),
        optimizer=Optimizer(seed=7, context=256),
        llm=Conversation(client),
        stronger=stronger,
        drafting=drafting,
        shares=shares,
        folder=run_context.journal.folder / "experiments",
        publish_status=publish,
        clock=rests.clock,
    )
    return replace(run_context, proposers=who, rest=rests.rest)


def test_a_server_that_was_down_for_a_minute_is_asked_within_five_seconds_and_takes_up_what_waits(
    scripted_run: ScriptedRun, port: int, services: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_run.start_trainer()
    asked: list[float] = []
    factors = count(1)

    def script(_: object) -> Turn:
        asked.append(rests.now)
        return Turn(nudge="LEVEL", by=1 - next(factors) / 1000)

    rests = Rests(60.0, lambda: services.enter_context(listening(OllamaDouble(script, port=port))))
    client = OllamaClient(OllamaSettings(f"http://127.0.0.1:{port}", "small"))
    with opened(scripted_run, [], goal=Goal(2)) as run_context, caplog.at_level(logging.WARNING):
        run_context.journal.receive("r1", "idea", "a lower level", "waits", waiting=True, at=2.0)
        run_until_goal(asking(run_context, rests, client, Mix.LLM))

    with JournalReader(scripted_run.journal) as history:
        experiments, (idea,) = history.experiments()[1:], history.requests()
    assert 60 <= asked[0] <= 60 + RECOVERED_S
    assert [item.proposer for item in experiments] == [ProposerName.LLM, ProposerName.LLM]
    assert (idea.state, experiments[0].request) == (RequestState.DONE, "r1")
    assert sum("no LLM" in record.message for record in caplog.records) == 1, "said once, looked for often"


def test_faults_of_the_server_are_no_rejections_and_the_idea_they_interrupt_goes_on_waiting(
    scripted_run: ScriptedRun, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_run.start_trainer()
    faults = iter(("drop_mid_stream", "error_line", "no_done", "garbage_line"))
    asked: list[str] = []

    def script(body: dict[str, Any]) -> Turn:
        asked.append(json.dumps(body["messages"]))
        fault = next(faults, None)
        return Turn("TITLE: t\nHYPOTHESIS: h\n", fault) if fault else Turn(nudge="LEVEL", by=0.99)  # type: ignore[arg-type]

    rests = Rests(0.0, list)
    with (
        ollama_double(script) as llm,
        opened(scripted_run, [], goal=Goal(1)) as run_context,
        caplog.at_level(logging.WARNING),
    ):
        run_context.journal.receive("r1", "idea", "a lower level", "waits", waiting=True, at=2.0)
        client = OllamaClient(OllamaSettings(llm.url, "small"))
        run_until_goal(asking(run_context, rests, client, Mix.LLM))

    with JournalReader(scripted_run.journal) as history:
        experiments, (idea,) = history.experiments()[1:], history.requests()
    assert [item.outcome for item in experiments] == [*[Outcome.UNANSWERED] * 4, Outcome.OK]
    assert (idea.state, experiments[-1].request) == (RequestState.DONE, "r1")
    assert len(set(asked)) == 1, "an answer did not come, so it is the same question"
    assert not any("were refused" in record.message for record in caplog.records)
    assert rests.now > 2 + 8 + 32, "the server rests longer each time"


def test_the_status_says_why_there_is_no_llm_as_the_last_look_has_it_each_once(
    scripted_run: ScriptedRun, port: int, services: ExitStack
) -> None:
    scripted_run.start_trainer()
    said: list[str] = []

    def start() -> None:
        server = OllamaDouble([Turn(nudge="LEVEL", by=0.99)], port=port, model="another")
        services.enter_context(listening(server))
        rests.at_s, rests.then, rests.done = 40.0, lambda: setattr(server, "model", "small"), False

    rests = Rests(20.0, start)
    client = OllamaClient(OllamaSettings(f"http://127.0.0.1:{port}", "small"))
    with opened(scripted_run, [], goal=Goal(1)) as run_context:
        run_until_goal(asking(run_context, rests, client, Mix.LLM, publish=said.append))

    assert len(said) == len(set(said)), "each is said once"
    assert list(dict.fromkeys(words.partition(" at ")[0].partition(" the model")[0] for words in said)) == [
        "none: nothing usable answers",
        f"none: http://127.0.0.1:{port} does not have",
        "",
    ]


def test_a_plateau_has_the_stronger_model_asked_once_and_a_restart_keeps_what_was_spent(
    scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(escalation, "PLATEAU_ESCALATION", 3)
    scripted_run.start_trainer()
    factors = count(1)

    def worse(_: object) -> Turn:
        return Turn(nudge="LEVEL", by=1 + next(factors) / 100)

    def tell(measured: int) -> None:
        """Until so many experiments are measured; each answer may cost 1, and what is left after one is less."""
        with opened(scripted_run, [], goal=Goal(measured)) as run_context, caplog.at_level(logging.INFO):
            settings = OllamaSettings(strong.url, "strong", num_predict=LONGEST_ANSWER)
            metered = MeteredClient(
                OllamaClient(settings), lambda _, answer: (answer or 0) / LONGEST_ANSWER, 1.01, run_context.journal
            )
            client = OllamaClient(OllamaSettings(usual.url, "small"))
            run_until_goal(
                asking(run_context, Rests(0, list), client, Mix.LLM, Stronger(Conversation(metered), metered))
            )

    with ollama_double(worse) as usual, ollama_double(worse, model="strong:latest") as strong:
        tell(5)
        assert len(strong.asked) == 1
        tell(9)

    with JournalReader(scripted_run.journal) as history:
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


def test_an_llm_edits_and_advises_by_its_shares_and_bad_advice_is_a_rejection_with_its_cost(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()
    levels = count(1)

    def script(question: dict[str, Any]) -> Turn:
        if "format" not in question:
            return Turn(nudge="LEVEL", by=1 - next(levels) / 1000)
        number = next(levels)
        name = "NOWHERE" if number in (3, 4) else "LEVEL"
        return Turn(json.dumps({"set": {name: round(1.8 - number / 100, 4)}, "hypothesis": "it helps"}))

    with ollama_double(script) as llm, opened(scripted_run, [], goal=Goal(7)) as run_context:
        client = OllamaClient(OllamaSettings(llm.url, "small"))
        run_until_goal(
            asking(
                run_context,
                Rests(0, list),
                client,
                Mix.HYBRID,
                shares={ProposerName.LLM: 0.25, ProposerName.ADVISER: 0.5},
            )
        )

    with JournalReader(scripted_run.journal) as history:
        experiments = history.experiments()[1:]
    assert "".join(str(item.proposer)[0] for item in experiments[:6]) == "laoalo"
    advised = [item for item in experiments if item.proposer == ProposerName.ADVISER]
    assert advised[0].title == "LEVEL 1.7982 -> 1.78"
    assert (advised[0].decision, advised[1].outcome) == (Decision.KEEP, Outcome.REJECTED)
    assert "NOWHERE is not a knob of this file" in (advised[1].reason or "")
    assert all(item.cost is not None and item.cost.calls for item in advised)
    asked = [question for question in llm.asked if "format" in question]
    assert "The optimiser would do this next: " in asked[0]["messages"][-1]["content"]
    schemas = [json.dumps(question["format"]) for question in asked]
    assert all(f'"{name}"' in schema for name in ("LEVEL", "WIDTH") for schema in schemas)
    assert any("NOWHERE is not a knob of this file" in question["messages"][-1]["content"] for question in asked)


@pytest.mark.parametrize(("mix", "is_combined"), [(Mix.OPTIMIZER, True), (Mix.HYBRID, True), (Mix.RANDOM, False)])
def test_a_plateau_has_two_near_misses_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mix: Mix, is_combined: bool
) -> None:
    monkeypatch.setattr(proposers, "PLATEAU_PROMPT", 2)
    source = "A = 1  # range 1..4\nB = 1  # range 1..4\n"
    story = Story(tmp_path, source=source)
    story.baseline(1.80, 1.80)
    for name in "AB":
        edit = SetKnobs({name: 2})
        story.try_out("t", 1.801, Decision.DISCARD, edits=(edit,), source=apply_edits(source, [edit]))
    who = Proposers(
        mix=mix,
        vetting=Vetting(profile_named("cpu"), str),
        optimizer=Optimizer(seed=7, context=256),
        llm=None,
        folder=tmp_path,
        publish_status=lambda _: None,
    )

    draft = who.next_draft(story.journal, source, lambda: None)
    story.try_out("worse", 1.9, Decision.DISCARD)
    later = who.next_draft(story.journal, source, lambda: None)

    story.journal.close()
    assert draft is not None
    assert later is not None
    assert (draft.proposal.title == "both 1 and 2: t; t") is is_combined
    assert not later.proposal.title.startswith("both"), "once, then the usual moves"
    if is_combined:
        assert "A = 2" in apply_edits(source, draft.proposal.edits)
        assert "B = 2" in apply_edits(source, draft.proposal.edits)


def test_while_an_answer_comes_the_status_says_what_the_llm_does(tmp_path: Path) -> None:
    story = Story(tmp_path, source="A = 1  # range 1..4\n")
    story.baseline(1.80, 1.80)
    told: list[str] = []
    asking = Vetting(profile_named("cpu"), lambda: "Go down.")
    briefing = Briefing(asking.profile, asking.program, Optimizer(seed=7, context=256))
    minutes = count(0, 60)
    with ollama_double([Turn("HYPOTHESIS: h\nSET A = 2", latency_s=0.6)]) as llm:
        conversation = Conversation(OllamaClient(OllamaSettings(llm.url, "small")))
        proposer = LlmProposer(
            conversation, asking, briefing, None, told.append, alone=True, clock=lambda: float(next(minutes))
        )
        source = story.journal.source(story.journal.numbered(0).id)
        turn = ProposalRequest(story.journal, source, [ProposerName.LLM], (), lambda: None)
        proposer.propose(turn)

    story.journal.close()
    assert "small is reading the question for 0 s" in told
    assert told[-1] == ""
