"""Decides when to ask a stronger, paid model, and keeps its spending within a limit.

The model is asked after `PLATEAU_ESCALATION` measured experiments in a row without a keep, or after `FAILED` proposals
of the usual LLM in a row that did not become a trial that ran. Each call restarts both counts, so a plateau costs one
question and its possible repair. A call whose price is unknown counts with its highest possible cost.

`MeteredClient` is a chat client that spends within a limit, over all starts of the researcher. The highest possible
cost of a question is recorded before the question, and the real price after its answer. The highest cost remains for a
call that reported no token counts, got no answer, or died with the process. Not covered: a server that bills more
tokens than a question has bytes, or more output than it was allowed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from researcher.errors import BadLlmResponse, LlmTimeout, LlmUnavailable, SpendingLimitReached
from researcher.journal.records import Decision, Experiment, PaidCall
from researcher.llm.client import Answer, ChatClient, Message, Sampling
from researcher.prompting.context_budget import MESSAGE_TOKENS
from researcher.source.proposal import ProposerName
from trainer.jobs import Outcome

Price = Callable[[int | None, int | None], float | None]  # (prompt tokens, answer tokens) -> price, if known


@dataclass(frozen=True)
class TokenPrice:
    """The prices of a million prompt tokens and of a million answer tokens, in the user's currency."""

    sent: float
    answered: float

    def __call__(self, prompt_tokens: int | None, answer_tokens: int | None) -> float | None:
        """Return the price of a call, or None if a count is unknown."""
        if prompt_tokens is None or answer_tokens is None:
            return None
        return (prompt_tokens * self.sent + answer_tokens * self.answered) / 1e6


class CallLog(Protocol):
    """The methods of `researcher.journal.writer` that record paid calls."""

    def paid_calls(self) -> list[PaidCall]: ...

    def begin_call(self, *, why: str, endpoint: str, model: str, cap: float, worst: float) -> int: ...

    def end_call(
        self, call: int, *, prompt_tokens: int | None, answer_tokens: int | None, money: float | None, fault: str | None
    ) -> None: ...

    def drop_call(self, call: int) -> None: ...


class MeteredClient:
    """A client that pays every question from the rest of `cap`. `why` is recorded with each question."""

    def __init__(self, client: ChatClient, price: Price, cap: float, call_log: CallLog) -> None:
        self._client = client
        self._price = price
        self._call_log = call_log
        self.cap = cap
        self.why = ""
        self.url, self.model = client.url, client.model
        self.context_tokens, self.answer_tokens = client.context_tokens, client.answer_tokens

    def check_available(self) -> None:
        """Check whether the server is available, at no cost."""
        self._client.check_available()

    def chat(
        self,
        messages: Sequence[Message],
        tick: Callable[[], None],
        *,
        answer_tokens: int | None = None,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
    ) -> Answer:
        """Ask a question and record its cost.

        Raises SpendingLimitReached before asking if the highest possible cost exceeds the rest of the limit.
        """
        worst = self._worst(messages, answer_tokens or self.answer_tokens, schema)
        left = self.cap - spent(self._call_log.paid_calls())
        if worst > left:
            raise SpendingLimitReached(
                f"an answer of {self.model} may cost {worst:.4f}, and {left:.4f} of {self.cap:g} are left"
            )
        call = self._call_log.begin_call(why=self.why, endpoint=self.url, model=self.model, cap=self.cap, worst=worst)
        try:
            answer = self._client.chat(messages, tick, answer_tokens=answer_tokens, schema=schema, sampling=sampling)
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
        """Return the highest possible cost of a question. No token is shorter than one byte."""
        texts = [message.content for message in messages] + ([] if schema is None else [json.dumps(schema)])
        prompt = sum(len(text.encode("utf-8", "replace")) + MESSAGE_TOKENS for text in texts)
        money = self._price(prompt, answer_tokens)
        assert money is not None, "both counts are known"
        return money


PLATEAU_ESCALATION = 12  # experiments in a row without a keep
FAILED = 6


def reason_to_escalate(experiments: Sequence[Experiment], calls: Sequence[PaidCall]) -> str | None:
    """Return the reason to ask the stronger model now, or None. Both sequences are oldest first."""
    last = calls[-1] if calls else None
    since = [item for item in experiments if last is None or (item.id > last.after and not belongs_to(last, item))]
    failed = _failed_in_a_row(since)
    if failed >= FAILED:
        return f"{failed} proposals of the LLM in a row became no trial that ran"
    fruitless = without_keep(since)
    if fruitless >= PLATEAU_ESCALATION:
        return f"{fruitless} experiments in a row without a keep"
    return None


def spent(calls: Iterable[PaidCall]) -> float:
    """Return the amount spent of the limit."""
    return sum(call.counted for call in calls)


def belongs_to(call: PaidCall, experiment: Experiment) -> bool:
    """Return True if a call's answer became this experiment. A call lost with its process has no experiment."""
    cost = experiment.cost
    return (
        cost is not None
        and experiment.id == call.after + 1
        and (cost.endpoint, cost.model) == (call.endpoint, call.model)
    )


def without_keep(experiments: Sequence[Experiment]) -> int:
    """Return the number of experiments measured since the last keep."""
    count = 0
    for item in reversed(experiments):
        if item.decision is Decision.KEEP:
            break
        count += item.was_measured and item.outcome is not Outcome.LOST
    return count


def _failed_in_a_row(experiments: Sequence[Experiment]) -> int:
    """Count the LLM's proposals in a row that did not run.

    Lost trials, unanswered questions and proposals of other sources do not count.
    """
    count = 0
    for item in reversed(experiments):
        if item.proposer == ProposerName.LLM and item.outcome not in (None, Outcome.LOST, Outcome.UNANSWERED):
            if item.outcome is Outcome.OK:
                break
            count += 1
    return count
