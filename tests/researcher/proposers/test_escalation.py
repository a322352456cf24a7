"""A stronger, paid model is asked on a plateau only, and never beyond its cap, whatever it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from researcher.errors import BadLlmResponse, LlmTimeout, LlmUnavailable, SpendingLimitReached
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Experiment, PaidCall, State
from researcher.llm.client import Answer, Message
from researcher.prompting.context_budget import MESSAGE_TOKENS
from researcher.proposers.escalation import FAILED, PLATEAU_ESCALATION, MeteredClient, reason_to_escalate, spent
from researcher.source.proposal import LlmCost, ProposerName
from tests.fixtures.journal_story import Story
from trainer.jobs import Outcome

URL, MODEL = "http://strong.example/v1", "strong"
ANSWER_TOKENS = 100
IN, OUT = 0.001, 0.01  # a token
CALL = PaidCall(1, 0, "a plateau", URL, MODEL, 1.0, 0.5, None, None, None, None)


def price(prompt: int | None, answer: int | None) -> float | None:
    return None if prompt is None or answer is None else IN * prompt + OUT * answer


# When


def told(words: str) -> list[Experiment]:
    """A baseline, then an experiment for each word: who proposed it, and what became of it."""
    outcomes = {"ok": Outcome.OK, "keep": Outcome.OK}
    experiments = [experiment(0, None, Outcome.OK, Decision.KEEP)]
    for number, word in enumerate(words.split(), 1):
        who, _, what = word.partition(":")
        outcome = outcomes.get(what) or Outcome(what)
        decision = Decision.KEEP if what == "keep" else Decision.DISCARD
        cost = LlmCost(URL, MODEL, 1, 1, 1, 1.0) if who == "strong" else None
        proposer = ProposerName.LLM if who in ("llm", "strong") else ProposerName(who)
        experiments.append(replace(experiment(number, proposer, outcome, decision), cost=cost))
    return experiments


def experiment(number: int, proposer: ProposerName | None, outcome: Outcome, decision: Decision) -> Experiment:
    nothing: dict[str, Any] = dict.fromkeys(Experiment.__dataclass_fields__)
    values = {"id": number + 1, "number": number, "proposer": proposer, "outcome": outcome, "decision": decision}
    return Experiment(
        **(nothing | values | {"title": "", "hypothesis": "", "state": State.APPLIED, "proposed_at": 0.0})
    )


def asked_after(number: int) -> PaidCall:
    return replace(CALL, after=number + 1)


FRUITLESS = "optimizer:ok " * PLATEAU_ESCALATION
FAILING = "llm:rejected optimizer:keep " * FAILED


@pytest.mark.parametrize(
    ("words", "calls", "reason"),
    [
        ("", [], None),
        (FRUITLESS, [], f"{PLATEAU_ESCALATION} experiments in a row without a keep"),
        (FRUITLESS[13:], [], None),
        (FRUITLESS + "human:keep", [], None),
        ("human:keep " + FRUITLESS, [], f"{PLATEAU_ESCALATION} experiments in a row without a keep"),
        ("optimizer:rejected " * 99, [], None),
        ("optimizer:lost " * 99, [], None),
        (FRUITLESS, [asked_after(PLATEAU_ESCALATION)], None),
        (FRUITLESS + "strong:ok " + FRUITLESS[13:], [asked_after(PLATEAU_ESCALATION)], None),
        (
            FRUITLESS + "strong:ok " + FRUITLESS,
            [asked_after(PLATEAU_ESCALATION)],
            f"{PLATEAU_ESCALATION} experiments in a row without a keep",
        ),
        (FRUITLESS * 3, [asked_after(2 * PLATEAU_ESCALATION + 1)], None),
        (FAILING, [], f"{FAILED} proposals of the LLM in a row became no trial that ran"),
        (FAILING[12:], [], None),
        (
            "llm:crashed llm:timed_out " * FAILED,
            [],
            f"{2 * FAILED} proposals of the LLM in a row became no trial that ran",
        ),
        (FAILING + "llm:ok", [], None),
        ("llm:lost " * 99, [], None),
        (FAILING, [asked_after(2 * FAILED)], None),
        ("strong:rejected " * 99, [asked_after(98)], None),
    ],
)
def test_it_is_asked_once_a_plateau(words: str, calls: list[PaidCall], reason: str | None) -> None:
    assert reason_to_escalate(told(words), calls) == reason


WORD = st.sampled_from(["optimizer:ok", "optimizer:ok", "llm:rejected", "llm:crashed", "llm:ok", "human:keep"])


@settings(max_examples=30)
@given(st.lists(WORD, min_size=60, max_size=90))
def test_between_two_questions_lie_as_many_experiments_as_begin_a_plateau(scripted_run: list[str]) -> None:
    words: list[str] = []
    calls: list[PaidCall] = []
    for word in scripted_run:
        if reason_to_escalate(told(" ".join(words)), calls) is not None:
            calls.append(asked_after(len(words)))
            words.append("strong:ok")
        words.append(word)

    gaps = [later.after - earlier.after - 1 for earlier, later in pairwise(calls)]
    assert all(gap >= min(PLATEAU_ESCALATION, FAILED) for gap in gaps)


# What it may cost


class Died(BaseException):
    """The process, in the middle of a question."""


@dataclass
class AnyEndpoint:
    """Answers, fails, is away or sees us die, as listed; it bills whatever it was asked, also what is never told."""

    happenings: list[tuple[str, float, float]]
    billed: float = 0.0
    url: str = URL
    model: str = MODEL
    context_tokens: int = 8192
    answer_tokens: int = ANSWER_TOKENS

    def check_available(self) -> None: ...

    def chat(self, messages: Sequence[Message], tick: object, *, answer_tokens: int | None, **_: object) -> Answer:
        what, prompt_share, answer_share = self.happenings.pop(0)
        if what == "away":
            raise LlmUnavailable("connection refused")
        prompt = int(prompt_share * sum(len(message.content.encode()) + MESSAGE_TOKENS for message in messages))
        answer = int(answer_share * (answer_tokens or self.answer_tokens))
        self.billed += IN * prompt + OUT * answer
        if what == "dies":
            raise Died
        if what in FAILS:
            raise FAILS[what](what)
        return Answer("", "", "stop", *((None, None) if what == "untold" else (prompt, answer)), 0.1)


FAILS = {"silent": LlmTimeout, "faulty": BadLlmResponse}


class Notebook:
    """The journal's steps in memory."""

    def __init__(self) -> None:
        self.calls: dict[int, PaidCall] = {}

    def paid_calls(self) -> list[PaidCall]:
        return [*self.calls.values()]

    def begin_call(self, **columns: Any) -> int:
        number = len(self.calls) + 1
        self.calls[number] = replace(CALL, id=number, **columns)
        return number

    def end_call(self, call: int, **columns: Any) -> None:
        self.calls[call] = replace(self.calls[call], **columns)

    def drop_call(self, call: int) -> None:
        del self.calls[call]


SHARE = st.floats(0, 1)
HAPPENING = st.tuples(st.sampled_from(["answers", "untold", "silent", "faulty", "away", "dies"]), SHARE, SHARE)


@given(st.lists(HAPPENING, max_size=30), st.floats(0.01, 20), st.text(max_size=400), st.sampled_from([None, 50, 400]))
def test_whatever_comes_back_the_cap_is_never_passed(
    happenings: list[tuple[str, float, float]], cap: float, text: str, answer_tokens: int | None
) -> None:
    endpoint, notebook = AnyEndpoint([*happenings]), Notebook()
    while endpoint.happenings:
        metered = MeteredClient(
            endpoint, price, cap, notebook
        )  # a new one each time: nothing but the ledger is remembered
        try:
            metered.chat([Message("user", text)], lambda: None, answer_tokens=answer_tokens)
        except SpendingLimitReached:
            break
        except (LlmUnavailable, BadLlmResponse, Died):
            pass

        assert endpoint.billed <= spent(notebook.paid_calls()) + 1e-9
        assert spent(notebook.paid_calls()) <= cap


def test_what_does_not_fit_is_not_asked_and_says_what_is_left(tmp_path: Path) -> None:
    journal = Story(tmp_path).journal
    endpoint = AnyEndpoint([("answers", 1.0, 1.0)] * 9)
    question = [Message("user", "x" * 84)]  # 0.1 for it, and 1 for the longest answer
    for _ in range(2):
        MeteredClient(endpoint, price, 3.0, journal).chat(question, lambda: None)

    with pytest.raises(SpendingLimitReached, match=r"an answer of strong may cost 1.1000, and 0.8000 of 3 are left"):
        MeteredClient(endpoint, price, 3.0, journal).chat(question, lambda: None)

    assert len(endpoint.happenings) == 7
    assert len(journal.paid_calls()) == 2


def test_sums_outlive_the_process_and_a_call_that_died_with_it_counts_with_the_most(tmp_path: Path) -> None:
    journal = Story(tmp_path).journal
    endpoint = AnyEndpoint([("answers", 1.0, 0.5), ("faulty", 0.0, 0.0), ("away", 0.0, 0.0), ("dies", 0.0, 0.0)])
    metered = MeteredClient(endpoint, price, 10.0, journal)
    metered.why = "a plateau"
    metered.chat([Message("user", "x" * 84)], lambda: None)
    for error in (BadLlmResponse, LlmUnavailable, Died):
        with pytest.raises(error):
            metered.chat([Message("user", "x" * 84)], lambda: None)
    journal.close()

    with JournalReader(tmp_path) as history:
        calls = history.paid_calls()

    assert [call.counted for call in calls] == pytest.approx([0.6, 1.1, 1.1])
    assert [(call.money is None, call.fault) for call in calls] == [(False, None), (True, "faulty"), (True, None)]
    assert {(call.endpoint, call.model, call.why, call.cap, call.after) for call in calls} == {
        (URL, MODEL, "a plateau", 10.0, 1)
    }
    assert [(call.prompt_tokens, call.answer_tokens) for call in calls] == [(100, 50), (None, None), (None, None)]
