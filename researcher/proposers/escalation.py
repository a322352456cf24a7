"""When a stronger, paid model is asked instead of whose turn it is, and what of its cap is spent. Pure.

It is asked after `PLATEAU` measured experiments in a row without a keep, or when `FAILED` proposals of the usual LLM in
a row became no trial that ran; each time it was asked begins both counts again. So a plateau costs one question, with
what it takes to repair its answer. A call whose price nobody knows counts with the most that it can cost.

`MeteredClient` is a chat client that spends within a cap, over all starts of the researcher. The most that a question
can cost is written down before it is asked, and the real price after its answer; a call whose answer did not say, never
came, or died with the process keeps counting with the most. Not covered: a server that bills more tokens than a
question has bytes, or more than it was allowed to answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from researcher.errors import BadLlmResponse, LlmTimeout, LlmUnavailable, SpendingLimitReached
from researcher.journal.records import Decision, Experiment, PaidCall
from researcher.llm.client import Answer, ChatClient, Message
from researcher.prompting.prompt import MESSAGE_TOKENS
from researcher.source.proposal import ProposerName
from trainer.jobs import Outcome

Price = Callable[[int | None, int | None], float | None]  # of tokens sent and answered; None where one is not known


@dataclass(frozen=True)
class TokenPrice:
    """Of a million tokens sent, and of a million answered, in the owner's currency."""

    sent: float
    answered: float

    def __call__(self, prompt_tokens: int | None, answer_tokens: int | None) -> float | None:
        """None where one of the counts is not known."""
        if prompt_tokens is None or answer_tokens is None:
            return None
        return (prompt_tokens * self.sent + answer_tokens * self.answered) / 1e6


class CallLog(Protocol):
    """The steps of `researcher.journal.writer` for paid calls."""

    def paid_calls(self) -> list[PaidCall]: ...

    def begin_call(self, *, why: str, endpoint: str, model: str, cap: float, worst: float) -> int: ...

    def end_call(
        self, call: int, *, prompt_tokens: int | None, answer_tokens: int | None, money: float | None, fault: str | None
    ) -> None: ...

    def drop_call(self, call: int) -> None: ...


class MeteredClient:
    """`client`, with every question paid from what is left of `cap`. `why` is written down with each."""

    def __init__(self, client: ChatClient, price: Price, cap: float, call_log: CallLog) -> None:
        self._client = client
        self._price = price
        self._call_log = call_log
        self.cap = cap
        self.why = ""
        self.url, self.model = client.url, client.model
        self.context_tokens, self.answer_tokens = client.context_tokens, client.answer_tokens

    def look(self) -> object:
        """Costs nothing."""
        return self._client.look()

    def chat(
        self,
        messages: Sequence[Message],
        tick: Callable[[], None],
        *,
        answer_tokens: int | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Raises SpendingLimitReached, with nothing asked, where the most that it can cost does not fit."""
        worst = self._worst(messages, answer_tokens or self.answer_tokens, schema)
        left = self.cap - spent(self._call_log.paid_calls())
        if worst > left:
            raise SpendingLimitReached(
                f"an answer of {self.model} may cost {worst:.4f}, and {left:.4f} of {self.cap:g} are left"
            )
        call = self._call_log.begin_call(why=self.why, endpoint=self.url, model=self.model, cap=self.cap, worst=worst)
        try:
            answer = self._client.chat(messages, tick, answer_tokens=answer_tokens, schema=schema)
        except (LlmTimeout, BadLlmResponse) as fault:
            self._call_log.end_call(call, prompt_tokens=None, answer_tokens=None, money=None, fault=str(fault))
            raise
        except LlmUnavailable:
            self._call_log.drop_call(call)
            raise
        counts = answer.prompt_tokens, answer.answer_tokens
        self._call_log.end_call(
            call, prompt_tokens=counts[0], answer_tokens=counts[1], money=self._price(*counts), fault=None
        )
        return answer

    def _worst(self, messages: Sequence[Message], answer_tokens: int, schema: Mapping[str, Any] | None) -> float:
        """No token is less than a byte."""
        texts = [message.content for message in messages] + ([] if schema is None else [json.dumps(schema)])
        prompt = sum(len(text.encode("utf-8", "replace")) + MESSAGE_TOKENS for text in texts)
        money = self._price(prompt, answer_tokens)
        assert money is not None, "both counts are known"
        return money


PLATEAU = 12
FAILED = 6


def reason_to_escalate(experiments: Sequence[Experiment], calls: Sequence[PaidCall]) -> str | None:
    """Why to ask the stronger model now, in words; None while there is no reason. All are oldest first."""
    last = calls[-1] if calls else None
    since = [item for item in experiments if last is None or (item.id > last.after and not belongs_to(last, item))]
    failed = _failed_in_a_row(since)
    if failed >= FAILED:
        return f"{failed} proposals of the LLM in a row became no trial that ran"
    fruitless = without_keep(since)
    if fruitless >= PLATEAU:
        return f"{fruitless} experiments in a row without a keep"
    return None


def spent(calls: Iterable[PaidCall]) -> float:
    """Of the cap."""
    return sum(call.counted for call in calls)


def belongs_to(call: PaidCall, experiment: Experiment) -> bool:
    """Whether a call's answer became this experiment. One that was lost with its process became none."""
    cost = experiment.cost
    return (
        cost is not None
        and experiment.id == call.after + 1
        and (cost.endpoint, cost.model) == (call.endpoint, call.model)
    )


def without_keep(experiments: Sequence[Experiment]) -> int:
    """How many were measured since the last keep."""
    count = 0
    for item in reversed(experiments):
        if item.decision is Decision.KEEP:
            break
        count += item.was_measured and item.outcome is not Outcome.LOST
    return count


def _failed_in_a_row(experiments: Sequence[Experiment]) -> int:
    """What the machine lost says nothing, nor do a person's files or the optimiser's moves."""
    count = 0
    for item in reversed(experiments):
        if item.proposer == ProposerName.LLM and item.outcome not in (None, Outcome.LOST):
            if item.outcome is Outcome.OK:
                break
            count += 1
    return count
