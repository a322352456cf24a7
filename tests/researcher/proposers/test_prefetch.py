"""The LLM is asked while a trial runs, and no trial waits for it: real loop, journal and queue, an LLM over HTTP."""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from researcher.errors import EditError
from researcher.journal.reader import JournalReader
from researcher.journal.records import Goal, RequestState
from researcher.journal.writer import Journal
from researcher.llm.leased import LeasedClient, LeasedPolicy
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.loop.context import RunContext
from researcher.loop.loop import run_until_goal
from researcher.proposers.draft import Draft
from researcher.proposers.prefetch import AHEAD, DraftRequest, FixedPolicy, Prefetch, reverts_later_keep
from researcher.proposers.schedule import Mix
from researcher.queues.trials import Absent, JobFault, TrialQueue, Waiting
from researcher.source.proposal import (
    EditFormat,
    Proposal,
    ProposerName,
    ReplaceFunction,
    SearchReplace,
    SetKnobs,
    WholeFile,
)
from tests.doubles.ollama_server import Turn, ollama_double
from tests.fixtures.loop_in_process import opened
from tests.fixtures.scripted_run import SUBJECT, ScriptedRun
from tests.fixtures.trials import wait_for
from tests.researcher.proposers.test_proposers import Rests, asking
from trainer.jobs import LeasePhase, LeaseStore, Outcome, TrialResult, TrialSpec
from trainer.worker.heartbeat import IDLE, Heartbeat

DEADLINE_S = 60.0
ELSEWHERE = """TITLE: another model
HYPOTHESIS: it is no knob
<<<<<<< SEARCH
model = object()
=======
model = dict()
>>>>>>> REPLACE
"""


def collected(drafting: Prefetch) -> Draft:
    """What the thread brings."""
    while (draft := drafting.collect()) is None:
        continue
    return draft


@pytest.fixture
def drafting(scripted_run: ScriptedRun) -> Iterator[Prefetch]:
    with closing(Prefetch(scripted_run.journal, FixedPolicy(True))) as made:
        yield made


class Unhurried(TrialQueue):
    """Every trial is waited for at least once, be it as short as it may."""

    handed_out: str | None = None

    def hand_out(self, spec: TrialSpec) -> None:
        super().hand_out(spec)
        self.handed_out = spec.id

    def poll(self, trial: str, spec_digest: str) -> TrialResult | Waiting | Absent | JobFault:
        found = super().poll(trial, spec_digest)
        is_fresh, self.handed_out = self.handed_out == trial, None
        return Waiting() if is_fresh else found


def ahead(
    run_context: RunContext,
    scripted_run: ScriptedRun,
    llm_url: str,
    drafting: Prefetch,
    mix: Mix,
    tick: Callable[[], None] = lambda: None,
    model: str = "small",
) -> RunContext:
    client = OllamaClient(OllamaSettings(llm_url, model))
    asks = asking(run_context, Rests(0, list), client, mix, drafting=drafting)
    return replace(asks, tick=tick, trials=Unhurried(scripted_run.bus))


def test_no_trial_waits_for_an_llm_that_thinks_and_its_draft_is_taken_once_it_is_there(
    scripted_run: ScriptedRun, drafting: Prefetch
) -> None:
    scripted_run.start_trainer()
    answers, answered = threading.Event(), threading.Event()

    def script(_: object) -> Turn:
        assert answers.wait(DEADLINE_S)
        answered.set()
        return Turn(ELSEWHERE)

    def tick() -> None:
        """Three experiments later the LLM has thought, and the run lets it say so."""
        if run_context.journal.measured_count() == 3 and not drafting.waiting:
            answers.set()
            assert answered.wait(DEADLINE_S)
            while not drafting.waiting and drafting._answer is not None:
                drafting.collect()

    with ollama_double(script) as llm, opened(scripted_run, [], goal=Goal(6)) as run_context:
        run_until_goal(ahead(run_context, scripted_run, llm.url, drafting, Mix.HYBRID, tick))

    with JournalReader(scripted_run.journal) as history:
        measured = [item for item in history.experiments()[1:] if item.was_measured]
        drafted = next(item for item in measured if item.proposer == ProposerName.LLM)
        assert drafted.parent is not None
        source, parent = history.source(drafted.id), history.source(drafted.parent)
    assert [item.proposer for item in measured[:3]] == [ProposerName.OPTIMIZER] * 3, "nobody waited"
    assert drafted in measured[3:6]
    assert parent != SUBJECT, "else choose a seed that shows more"
    assert source == parent.replace("model = object()", "model = dict()"), "the incumbent of now, with the draft's edit"


def test_an_llm_that_proposes_alone_is_asked_while_trials_run_and_at_most_two_drafts_wait(
    scripted_run: ScriptedRun, drafting: Prefetch
) -> None:
    scripted_run.start_trainer()
    factors, waiting, measuring = count(1), [], []

    def script(_: object) -> Turn:
        waiting.append(len(drafting.waiting))
        with JournalReader(scripted_run.journal) as history:
            measuring.append(history.running_trial() is not None)
        return Turn(nudge="LEVEL", by=1 - next(factors) / 1000)

    def tick() -> None:
        """The third candidate's trial lasts until two drafts wait: the first may have been asked for before it."""
        while (
            run_context.journal.measured_count() == 2
            and run_context.journal.running_trial()
            and len(drafting.waiting) < AHEAD
        ):
            run_context.proposers.draft_ahead(run_context.journal)

    with ollama_double(script) as llm, opened(scripted_run, [], goal=Goal(8)) as opened_lab:
        run_context = ahead(opened_lab, scripted_run, llm.url, drafting, Mix.LLM, tick)
        run_until_goal(run_context)

    assert max(waiting) < AHEAD
    assert any(measuring), "asked beside a trial"
    with JournalReader(scripted_run.journal) as history:
        experiments = history.experiments()[1:]
    assert {item.proposer for item in experiments} == {ProposerName.LLM}
    assert sum(item.was_measured for item in experiments) == 8


def test_the_question_names_what_is_drafted_and_the_same_code_is_not_drafted_twice(
    scripted_run: ScriptedRun, drafting: Prefetch
) -> None:
    scripted_run.start_trainer()
    told: list[str] = []

    def script(question: dict[str, Any]) -> Turn:
        told.append(question["messages"][-1]["content"])
        return Turn(ELSEWHERE)

    def tick() -> None:
        """The first candidate's trial lasts until two drafts wait."""
        while run_context.journal.measured_count() == 0 and run_context.run.incumbent and len(drafting.waiting) < AHEAD:
            run_context.proposers.draft_ahead(run_context.journal)

    with ollama_double(script) as llm, opened(scripted_run, [], goal=Goal(4)) as opened_lab:
        run_context = ahead(opened_lab, scripted_run, llm.url, drafting, Mix.HYBRID, tick)
        run_until_goal(run_context)

    assert any("drafted, and not measured yet: " in words for words in told)
    assert any("is being measured: " in words for words in told)
    with JournalReader(scripted_run.journal) as history:
        refused = [item.reason for item in history.experiments() if item.outcome is Outcome.REJECTED]
    assert any("was drafted already" in (reason or "") for reason in refused), refused


def test_no_answer_in_the_schema_of_a_small_model_repeats_what_was_tried_runs_or_waits(
    scripted_run: ScriptedRun, drafting: Prefetch
) -> None:
    scripted_run.start_trainer()
    numbers = count(1)

    def script(question: dict[str, Any]) -> Turn:
        """The last move that the schema lists, or another edit of the code each time."""
        if "format" not in question:
            return Turn(ELSEWHERE.replace("dict()", f"dict(a={next(numbers)})"))
        ((name, values),) = question["format"]["properties"]["set"]["anyOf"][-1]["properties"].items()
        return Turn(json.dumps({"set": {name: values["enum"][-1]}}))

    def tick() -> None:
        """Each trial lasts until two drafts wait."""
        while run_context.run.incumbent and run_context.journal.running_trial() and len(drafting.waiting) < AHEAD:
            run_context.proposers.draft_ahead(run_context.journal)

    with (
        ollama_double(script, model="small:4b") as llm,
        opened(scripted_run, [], goal=Goal(12)) as opened_lab,
    ):
        run_context = ahead(opened_lab, scripted_run, llm.url, drafting, Mix.LLM, tick, model="small:4b")
        run_until_goal(run_context)

    with JournalReader(scripted_run.journal) as history:
        asked = [(item, history.proposal(item.id)) for item in history.experiments()[1:]]
    in_json = [item for item, proposal in asked if proposal and proposal.attempts[0].edit_formats == (EditFormat.JSON,)]
    assert len(in_json) >= 8
    refused = [item.reason or "" for item in in_json if item.outcome is Outcome.REJECTED]
    assert [reason for reason in refused if "before the incumbent changed" not in reason] == []


def test_an_idea_is_drafted_next_once_and_answered_with_its_experiment(
    scripted_run: ScriptedRun, drafting: Prefetch
) -> None:
    scripted_run.start_trainer()
    factors = count(1)
    ideas: list[str | None] = []

    def script(question: dict[str, Any]) -> Turn:
        return Turn(nudge="LEVEL", by=1 + next(factors) / 1000)  # worse: the incumbent stays

    def tick() -> None:
        """The idea comes while the first candidate is measured, and its trial lasts until two drafts wait."""
        if run_context.journal.measured_count() == 0 and run_context.run.incumbent and not ideas:
            run_context.journal.receive("r1", "idea", "a lower level", "waits", waiting=True, at=2.0)
            while len(drafting.waiting) < AHEAD:
                run_context.proposers.draft_ahead(run_context.journal)
            ideas.extend(ready.asked.idea for ready in drafting.waiting)

    with ollama_double(script) as llm, opened(scripted_run, [], goal=Goal(3)) as opened_lab:
        run_context = ahead(opened_lab, scripted_run, llm.url, drafting, Mix.LLM, tick)
        run_until_goal(run_context)

    with JournalReader(scripted_run.journal) as history:
        (idea,) = history.requests()
        first = next(item for item in history.experiments() if item.request == "r1")
    assert ideas.count("r1") == 1
    assert idea.state is RequestState.DONE
    assert first.number == 2


def test_an_llm_that_goes_away_in_the_thread_is_said_once_and_the_optimiser_goes_on(
    scripted_run: ScriptedRun, drafting: Prefetch, caplog: pytest.LogCaptureFixture
) -> None:
    scripted_run.start_trainer()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with opened(scripted_run, [], goal=Goal(4)) as run_context, caplog.at_level(logging.WARNING):
            run_until_goal(ahead(run_context, scripted_run, url, drafting, Mix.HYBRID))

    with JournalReader(scripted_run.journal) as history:
        assert {item.proposer for item in history.experiments()[1:]} == {ProposerName.OPTIMIZER}
    assert sum("no LLM" in record.message for record in caplog.records) <= 1


@pytest.mark.parametrize("is_ahead", [True, False], ids=["ahead", "in turn"])
def test_advice_that_gets_no_answer_is_the_advisers_and_no_edit_that_is_owed(
    scripted_run: ScriptedRun, drafting: Prefetch, is_ahead: bool
) -> None:
    scripted_run.start_trainer()
    asked = count(1)

    def script(_: object) -> Turn:
        advice = json.dumps({"title": "lower", "hypothesis": "it helps", "set": {"LEVEL": 1.79}})
        return Turn(advice) if next(asked) == 1 else Turn(fault="model_missing")

    def tick() -> None:
        """A trial lasts until the thread is asked nothing more."""
        while drafting.under_way is not None:
            run_context.proposers.draft_ahead(run_context.journal)

    with ollama_double(script) as llm, opened(scripted_run, [], goal=Goal(5)) as opened_lab:
        client = OllamaClient(OllamaSettings(llm.url, "small"))
        ahead_of_it, always = drafting if is_ahead else None, {ProposerName.LLM: 0.0, ProposerName.ADVISER: 1.0}
        run_context = asking(opened_lab, Rests(0, list), client, Mix.HYBRID, drafting=ahead_of_it, shares=always)
        run_context = replace(run_context, tick=tick, trials=Unhurried(scripted_run.bus))
        run_until_goal(run_context)

    with JournalReader(scripted_run.journal) as history:
        experiments = history.experiments()[1:]
    assert {item.proposer for item in experiments} == {ProposerName.ADVISER, ProposerName.OPTIMIZER}
    assert [item.outcome for item in experiments if item.title == "a question without an answer"] == [
        Outcome.UNANSWERED
    ]


def test_what_goes_wrong_in_the_thread_is_raised_where_it_is_collected(
    scripted_run: ScriptedRun, drafting: Prefetch
) -> None:
    def ask(*_: object) -> Draft:
        raise OSError("the disk is full")

    with closing(Journal(scripted_run.journal)):
        drafting.begin(DraftRequest("x"), ask)
        with pytest.raises(OSError, match="the disk is full"):
            collected(drafting)
    assert drafting.is_idle
    assert drafting.waiting == ()


def test_closed_drafting_gives_up_an_llm_that_hangs(scripted_run: ScriptedRun) -> None:
    begun, left = threading.Event(), threading.Event()

    def ask(_: object, tick: Callable[[], None]) -> Draft:
        begun.set()
        try:
            while True:
                tick()
        finally:
            left.set()

    with closing(Journal(scripted_run.journal)):
        drafting = Prefetch(scripted_run.journal, FixedPolicy(True))
        drafting.begin(DraftRequest("x"), ask)
        assert begun.wait(DEADLINE_S)
        drafting.close()
        assert left.wait(DEADLINE_S)


def test_an_llm_on_the_gpu_of_the_trials_drafts_while_one_is_scored_and_never_while_one_is_timed(
    scripted_run: ScriptedRun,
) -> None:
    bus, published = scripted_run.bus, list[str]()
    Heartbeat(bus.connection, "trainer-1", gpu="GPU-1").show(IDLE)
    store = LeaseStore(bus.connection, "GPU-1")
    with (
        ollama_double([ELSEWHERE], model="small") as server,
        opened(scripted_run, [], goal=Goal(0)) as run_context,
    ):
        scripted_run.start_trainer()
        run_until_goal(run_context)
        journal = run_context.journal
        client = LeasedClient(OllamaClient(OllamaSettings(server.url, "small")), bus, beside=True)
        with closing(Prefetch(scripted_run.journal, LeasedPolicy(client))) as drafting:
            asks = asking(run_context, Rests(0, list), client, Mix.LLM, drafting=drafting, publish=published.append)
            store.change(lambda lease, at: lease.acquired("trial", at))
            for phase in (LeasePhase.STARTING, LeasePhase.TIMED):
                store.change(lambda lease, at, phase=phase: lease.beaten("trial", phase, at))  # type: ignore[misc]
                asks.proposers.draft_ahead(journal)
                assert asks.proposers.next_draft(journal, SUBJECT, lambda: None) is None
            assert (server.asked, drafting.under_way) == ([], None)
            assert published[-1] == "waiting: a trial is timed on the GPU of the LLM"
            assert journal.experiments()[1:] == [], "waiting is no answer that is missing"

            store.change(lambda lease, at: lease.beaten("trial", LeasePhase.SCORING, at))
            asks.proposers.draft_ahead(journal)
            wait_for(lambda: len(server.asked) == 1, DEADLINE_S)
            store.change(lambda lease, at: lease.released("trial", at))
            draft = asks.proposers.next_draft(journal, SUBJECT, lambda: None)

    assert draft is not None
    assert draft.candidate is not None
    assert len(server.asked) == 1


def answering_until(let: threading.Event) -> Callable[[object, Callable[[], None]], Draft]:
    """An LLM that answers once it is let, and looks meanwhile whether it may go on."""

    def ask(_: object, tick: Callable[[], None]) -> Draft:
        while not let.wait(0.01):
            tick()
        return Draft(Proposal(ProposerName.LLM, "an answer", "", ()), rejected="it is none")

    return ask


def test_a_question_that_is_drained_ends_with_its_draft(scripted_run: ScriptedRun, drafting: Prefetch) -> None:
    let, ticks = threading.Event(), count()

    def tick() -> None:
        if next(ticks) == 1:
            let.set()

    with closing(Journal(scripted_run.journal)):
        drafting.begin(DraftRequest("x"), answering_until(let))
        drafting.drain(tick)

        assert collected(drafting).proposal.title == "an answer"


def test_a_question_that_takes_too_long_is_cancelled_and_another_may_be_asked(
    scripted_run: ScriptedRun, drafting: Prefetch
) -> None:
    with closing(Journal(scripted_run.journal)):
        drafting.begin(DraftRequest("x"), answering_until(threading.Event()))
        drafting.drain(lambda: None, limit_s=0)

        assert drafting.is_idle
        assert (drafting.under_way, drafting.collect(), drafting.waiting) == (None, None, ())


def test_where_the_lease_says_no_nothing_is_asked(scripted_run: ScriptedRun) -> None:
    assert not Prefetch(scripted_run.journal, FixedPolicy(False)).is_idle


FUNCTIONS = "def first():\n    return 1\n\n\ndef second():\n    return 2\n\n\nA = 1\nB = 2\n"


@pytest.mark.parametrize(
    ("edit", "kept", "stays"),
    [
        (SetKnobs({"LEVEL": 1.7}), SUBJECT.replace("WIDTH = 64", "WIDTH = 128"), True),
        (SetKnobs({"LEVEL": 1.7}), SUBJECT.replace("LEVEL = 1.8", "LEVEL = 1.6"), False),
        (WholeFile(SUBJECT.replace("LEVEL = 1.8", "LEVEL = 1.7")), SUBJECT.replace("WIDTH = 64", "WIDTH = 128"), False),
        (SearchReplace("LEVEL = 1.8", "LEVEL = 1.7"), SUBJECT.replace("WIDTH = 64", "WIDTH = 128"), True),
    ],
    ids=["another knob", "the same knob", "a whole file", "other lines"],
)
def test_draft_for_an_earlier_incumbent_must_leave_standing_what_was_kept(edit: Any, kept: str, stays: bool) -> None:
    proposal = Proposal(ProposerName.LLM, "a draft", "", (edit,))

    assert reverts_later_keep(proposal, SUBJECT, SUBJECT) is None
    assert (reverts_later_keep(proposal, SUBJECT, kept) is None) == stays


def test_function_that_was_kept_since_is_not_taken_back() -> None:
    proposal = Proposal(ProposerName.LLM, "a draft", "", (ReplaceFunction("first", "def first():\n    return 3\n"),))

    assert reverts_later_keep(proposal, FUNCTIONS, FUNCTIONS.replace("return 2", "return 5")) is None
    assert reverts_later_keep(proposal, FUNCTIONS, FUNCTIONS.replace("return 1", "return 5")) is not None


def test_draft_whose_place_is_gone_fits_no_more() -> None:
    proposal = Proposal(ProposerName.LLM, "a draft", "", (SearchReplace("A = 1", "A = 2"),))

    with pytest.raises(EditError):
        reverts_later_keep(proposal, FUNCTIONS, FUNCTIONS.replace("A = 1\n", ""))
