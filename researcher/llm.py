"""The LLM as a proposer: one question, one answer, at most one repair turn with the real error of that answer.

Every answer becomes a Draft, a bad one too, with its cost and the texts that went back and forth. Only when nothing
can be asked at all is it an error (ModelAway).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from researcher.chat import Answer, ChatClient, Message
from researcher.edits import apply_edits
from researcher.errors import EditError, ModelAway, ModelFault, Rejected
from researcher.prompt import PromptContext, Prompts, prompt_tokens
from researcher.proposal import Attempt, LlmCost, Proposal, Proposer, Stage, lanes_of
from researcher.replies import lanes_meant, read_reply, without_thoughts

__all__ = ["Draft", "Exchange", "LlmProposer", "PromptContext"]

_UNREAD = Proposal(Proposer.LLM, "an answer that could not be read", "", ())

Tick = Callable[[], None]
Check = Callable[[Proposal], object]


@dataclass(frozen=True)
class Exchange:
    """What was sent and what came back; `fault` says why the answer was not used, `cut` that it had no end."""

    prompt: str
    reply: str
    fault: str | None
    cut: bool = False


@dataclass(frozen=True)
class Draft:
    """What a proposer offers; `rejected` says why it never becomes a trial."""

    proposal: Proposal
    rejected: str | None = None
    exchanges: tuple[Exchange, ...] = ()


class LlmProposer:
    """Asks `client` for changes of train.py. `prompts` is a folder like `researcher/prompts/`, the default."""

    def __init__(self, client: ChatClient, prompts: Path | None = None) -> None:
        self._client = client
        self._prompts = Prompts.read(prompts)
        self._undercount = 1.0

    @property
    def model(self) -> str:
        """The model's name."""
        return self._client.model

    @property
    def _room(self) -> int:
        """Estimated tokens that a question may have, corrected by how many more the server was seen to count."""
        return int((self._client.context_tokens - self._client.answer_tokens) / self._undercount)

    def propose(self, context: PromptContext, tick: Tick, check: Check) -> Draft:
        """A proposal that `check` lets pass (it raises Rejected otherwise), or what became of the attempt.

        Raises ModelAway when nothing can be asked now: no server, no model, or a train.py that does not fit.
        """
        try:
            question = self._prompts.messages(context, self._room)
        except ModelFault as error:
            raise ModelAway(str(error)) from error
        turns = [self._turn(question, context, tick, check)]
        if turns[0].fault is not None and turns[0].said:
            turns.append(self._repaired(turns[0], context, tick, check))
        return Draft(
            proposal=replace(turns[-1].proposal, cost=self._cost(turns), attempts=_attempts(turns)),
            rejected=turns[-1].fault,
            exchanges=tuple(turn.exchange for turn in turns if turn.exchange is not None),
        )

    def look(self) -> None:
        """Raises ModelAway where nobody could be asked, as far as that is seen without asking."""
        self._client.look()

    def leave(self, tick: Tick) -> None:
        """Before a trial: returns once no model is in its way. Raises ModelStays or ModelAway."""
        self._client.leave(tick)

    def _turn(self, messages: Sequence[Message], context: PromptContext, tick: Tick, check: Check) -> _Turn:
        prompt = "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)
        started = time.monotonic()
        try:
            answer = self._client.chat(messages, tick)
        except ModelFault as error:
            return _Turn(_UNREAD, str(error), Exchange(prompt, "", str(error)), None, time.monotonic() - started)
        if answer.prompt_tokens is not None:
            self._undercount = max(self._undercount, answer.prompt_tokens / prompt_tokens(messages))
        cut = answer.done_reason == "length"
        proposal, fault = judged(answer.text, context.source, check, cut=cut)
        reply = f"<think>{answer.thoughts}</think>\n{answer.text}" if answer.thoughts else answer.text
        return _Turn(proposal, fault, Exchange(prompt, reply, fault, cut), answer, answer.seconds)

    def _repaired(self, failed: _Turn, context: PromptContext, tick: Tick, check: Check) -> _Turn:
        """One more turn; where none can be had, the failed one's fault says so."""
        assert failed.fault is not None
        try:
            messages = self._prompts.repair(context, self._room, failed.said, failed.fault)
            turn = self._turn(messages, context, tick, check)
        except (ModelAway, ModelFault) as error:
            turn = _Turn(_UNREAD, str(error), None, None, 0.0)
        if turn.answer is not None:
            return turn
        return replace(turn, proposal=failed.proposal, fault=f"{failed.fault}; it could not be repaired: {turn.fault}")

    def _cost(self, turns: Sequence[_Turn]) -> LlmCost:
        answers = [turn.answer for turn in turns if turn.answer is not None]
        return LlmCost(
            endpoint=self._client.url,
            model=self._client.model,
            calls=sum(turn.exchange is not None for turn in turns),
            prompt_tokens=_sum([answer.prompt_tokens for answer in answers]),
            answer_tokens=_sum([answer.answer_tokens for answer in answers]),
            seconds=sum(turn.seconds for turn in turns),
        )


@dataclass(frozen=True)
class _Turn:
    """One call and what became of it; `exchange` is None for a call that was never made."""

    proposal: Proposal
    fault: str | None
    exchange: Exchange | None
    answer: Answer | None
    seconds: float

    @property
    def said(self) -> str:
        """The answer without its thoughts."""
        return without_thoughts(self.answer.text).strip() if self.answer else ""


def judged(text: str, source: str, check: Check, *, cut: bool) -> tuple[Proposal, str | None]:
    """The proposal in an answer about `source`, with this one attempt, and why it cannot be used, if so."""
    unread = replace(_UNREAD, attempts=(Attempt(lanes_meant(text), Stage.PARSE),))
    if cut:
        # What is left of a cut answer can parse and still be half an idea.
        return unread, "the answer was cut off at its longest allowed length; write only the lines that change"
    try:
        reply = read_reply(text)
    except (Rejected, ModelFault) as error:
        return unread, str(error)
    lanes = lanes_of(reply.edits)
    proposal = Proposal(Proposer.LLM, reply.title, reply.hypothesis, reply.edits)
    stage: Stage | None = Stage.APPLY
    fault = None
    try:
        apply_edits(source, reply.edits)
        stage = Stage.VALIDATE
        check(proposal)
        stage = None
    except (EditError, Rejected) as error:
        fault = str(error)
    return replace(proposal, attempts=(Attempt(lanes, stage),)), fault


def _attempts(turns: Sequence[_Turn]) -> tuple[Attempt, ...]:
    return tuple(attempt for turn in turns if turn.answer is not None for attempt in turn.proposal.attempts)


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
