"""Conversation: one question to the LLM, one answer, and at most one repair turn with the real error of that answer.

If reasoning used up the whole output, the question is asked once more with twice the room, which then holds for the
rest of the run. Every question becomes a Draft with its cost and texts, also without a usable answer. LlmUnavailable is
raised only if no question can be asked at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from researcher.errors import (
    BadLlmResponse,
    EditError,
    LlmServerFault,
    LlmUnavailable,
    PromptTooLong,
    PromptTruncated,
    ReasoningUsedUpOutput,
    Rejected,
    ResearcherError,
)
from researcher.llm.client import Answer, ChatClient, HoldsGpu, Message
from researcher.prompting.context_budget import Window
from researcher.prompting.knob_json import schema_of
from researcher.prompting.prompt import Advice, PromptContext, Prompts
from researcher.prompting.reply_parser import formats_in, read_reply, with_thoughts, without_thoughts
from researcher.prompting.source_outline import refuse_marks
from researcher.prompting.transcripts import Exchange
from researcher.proposers.draft import Draft, Tick, Vet
from researcher.proposers.escalation import Price
from researcher.source.edits import apply_edits
from researcher.source.proposal import (
    AnswerStage,
    Attempt,
    Candidate,
    EditFormat,
    LlmCost,
    Proposal,
    ProposerName,
    formats_of,
)
from trainer.jobs.redaction import RedactText, text_redaction

logger = logging.getLogger(__name__)

_UNREAD = Proposal(ProposerName.LLM, "an answer that could not be read", "", ())

N = TypeVar("N", int, float)


class Conversation:
    """Asks `client` for changes of train.py.

    `secrets`, and all text that looks like a secret, are removed from questions, stored texts and messages. `price`
    computes the price of tokens; None means that the tokens are free.
    """

    def __init__(
        self,
        client: ChatClient,
        secrets: Iterable[str] = (),
        price: Price | None = None,
    ) -> None:
        self._client = client
        self._price = price
        self._prompts = Prompts.read()
        self._window = Window(client.context_tokens, client.answer_tokens)
        self._redact = text_redaction(secrets)

    @property
    def model(self) -> str:
        """The model's name."""
        return self._client.model

    def propose(self, context: PromptContext, tick: Tick, vet: Vet) -> Draft:
        """Ask for a proposal and return a draft that `vet` accepts, or one that is rejected or unanswered.

        Raises LlmUnavailable if no question can be asked now: no server, no model, or a train.py that does not fit.
        """
        source = context.source
        context = _without_secrets(context, self._redact)  # before fitting: a mark may be longer than its secret
        asking = _Asking(context, source, tick, vet)
        by, schema = (ProposerName.LLM, None) if context.advice is None else (ProposerName.ADVISER, schema_of(source))
        try:
            question = self._question(context)
        except BadLlmResponse as error:
            raise LlmUnavailable(str(error)) from error
        turns = [self._turn(question, asking, schema)]
        if isinstance(turns[0].fault, ReasoningUsedUpOutput) and self._window.widen():
            turns.append(
                self._again(turns[0], "asked again", lambda: self._turn(self._question(context), asking, schema))
            )
        if turns[-1].is_repairable:
            turns.append(self._again(turns[-1], "repaired", lambda: self._repaired(turns[-1], asking)))
        proposal, fault = turns[-1].proposal, turns[-1].fault
        is_unanswered = isinstance(fault, LlmServerFault)
        return Draft(
            candidate=turns[-1].candidate,
            proposal=replace(
                proposal,
                proposer=by,
                title=self._redact(proposal.title),
                hypothesis=self._redact(proposal.hypothesis),
                cost=self._cost(turns),
                attempts=_attempts(turns),
            ),
            rejected=None if fault is None or is_unanswered else self._redact(str(fault)),
            unanswered=self._redact(str(fault)) if is_unanswered else None,
            exchanges=tuple(turn.exchange for turn in turns if turn.exchange is not None),
        )

    def check_available(self) -> None:
        """Raise LlmUnavailable if the client knows without a question that the LLM cannot answer."""
        self._client.check_available()

    def unload(self, tick: Tick) -> None:
        """Unload the model from the GPU before a trial. Raises ModelNotUnloaded or LlmUnavailable."""
        if isinstance(self._client, HoldsGpu):
            self._client.unload(tick)

    def _question(self, context: PromptContext) -> Sequence[Message]:
        return self._window.question(lambda room: self._prompts.messages(context, room))

    def _turn(self, messages: Sequence[Message], asking: _Asking, schema: Mapping[str, Any] | None) -> _Turn:
        prompt = "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)
        started = time.monotonic()
        try:
            answer_tokens = self._window.answer_tokens(messages)
            answer = self._client.chat(messages, asking.tick, answer_tokens=answer_tokens, schema=schema)
        except BadLlmResponse as error:
            if isinstance(error, PromptTooLong):
                self._window.shrink()
            return _Turn(_UNREAD, error, self._exchange(prompt, "", error), None, time.monotonic() - started)
        cut = answer.done_reason == "length"
        reply = with_thoughts(answer.thoughts, answer.text)
        try:
            self._window.learn(messages, answer)
        except PromptTruncated as error:
            return _Turn(_UNREAD, error, self._exchange(prompt, reply, error, cut=cut), answer, answer.seconds)
        proposal, found = parse_and_validate(reply, asking.source, asking.vet, cut=cut)
        fault = found if isinstance(found, ResearcherError) else None
        return _Turn(proposal, found, self._exchange(prompt, reply, fault, cut=cut), answer, answer.seconds)

    def _exchange(self, prompt: str, reply: str, fault: ResearcherError | None, *, cut: bool = False) -> Exchange:
        return Exchange(prompt, self._redact(reply), None if fault is None else self._redact(str(fault)), cut)

    def _repaired(self, failed: _Turn, asking: _Asking) -> _Turn:
        """Ask once more with the failed turn's error.

        A model that showed no edit must answer in a format that it cannot miss.
        """
        is_move = asking.context.advice is not None or (failed.shows_no_edit and asking.may_be_a_move)
        schema = schema_of(asking.context.source) if is_move else None
        form: Literal["move", "repair"] = "repair" if schema is None else "move"
        answer_text, fault = self._redact(failed.answer_text), self._redact(str(failed.fault))
        messages = self._window.question(
            lambda room: self._prompts.repair(asking.context, room, answer_text, fault, form),
        )
        return self._turn(messages, asking, schema)

    @staticmethod
    def _again(failed: _Turn, how: str, ask: Callable[[], _Turn]) -> _Turn:
        """Take one more turn. If that turn gets no answer, the failed turn's own error stays."""
        try:
            turn = ask()
        except (LlmUnavailable, BadLlmResponse) as error:
            turn = _Turn(_UNREAD, error, None, None, 0.0)
        if turn.answer is not None:
            return turn
        logger.warning("an answer of the LLM could not be %s: %s", how, turn.fault)
        return replace(turn, proposal=failed.proposal, found=failed.found)

    def _cost(self, turns: Sequence[_Turn]) -> LlmCost:
        answers = [turn.answer for turn in turns if turn.answer is not None]
        price = self._price
        prices = [] if price is None else [price(answer.prompt_tokens, answer.answer_tokens) for answer in answers]
        return LlmCost(
            endpoint=self._client.url,
            model=self._client.model,
            calls=sum(turn.exchange is not None for turn in turns),
            prompt_tokens=_sum([answer.prompt_tokens for answer in answers]),
            answer_tokens=_sum([answer.answer_tokens for answer in answers]),
            seconds=sum(turn.seconds for turn in turns),
            money=_sum(prices),
        )


@dataclass(frozen=True)
class _Asking:
    """The inputs of one proposal. `source` is train.py with its secrets, as it is."""

    context: PromptContext
    source: str
    tick: Tick
    vet: Vet

    @property
    def may_be_a_move(self) -> bool:
        """Whether the answer may be a change of knobs. A user's idea seldom is one."""
        return EditFormat.SET in self.context.edit_formats and self.context.idea is None


@dataclass(frozen=True)
class _Turn:
    """One call and its result: a candidate, or the fault. `exchange` is None for a call that was never made."""

    proposal: Proposal
    found: Candidate | ResearcherError
    exchange: Exchange | None
    answer: Answer | None
    seconds: float

    @property
    def candidate(self) -> Candidate | None:
        """The candidate, or None if there is a fault."""
        return None if isinstance(self.found, ResearcherError) else self.found

    @property
    def fault(self) -> ResearcherError | None:
        """The fault, or None if there is a candidate."""
        return self.found if isinstance(self.found, ResearcherError) else None

    @property
    def answer_text(self) -> str:
        """The answer without its reasoning text."""
        return without_thoughts(self.answer.text).strip() if self.answer else ""

    @property
    def is_repairable(self) -> bool:
        """Whether the answer contains text, and a fault that the model may fix."""
        return isinstance(self.fault, (Rejected, EditError)) and self.answer_text != ""

    @property
    def shows_no_edit(self) -> bool:
        """Whether the answer could not be parsed and contains no edit, except perhaps a change of knobs."""
        (attempt,) = self.proposal.attempts
        return attempt.failed is AnswerStage.PARSE and attempt.edit_formats in ((), (EditFormat.SET,))


def parse_and_validate(text: str, source: str, vet: Vet, *, cut: bool) -> tuple[Proposal, Candidate | ResearcherError]:
    """Return the proposal in an answer about `source`, with one attempt, and its candidate or the error."""
    unread = replace(_UNREAD, attempts=(Attempt(formats_in(text), AnswerStage.PARSE),))
    if cut and not text.strip():
        return unread, ReasoningUsedUpOutput("the answer is empty and was cut off at its longest allowed length")
    try:
        reply = None if cut and without_thoughts(text).strip() else read_reply(text)
    except (Rejected, BadLlmResponse) as error:
        return unread, error
    if reply is None:
        # The rest of a cut answer may parse although it is incomplete.
        return unread, Rejected(
            "the answer was cut off at its longest allowed length; write only the lines that change"
        )
    edit_formats = formats_of(reply.edits)
    proposal = Proposal(ProposerName.LLM, reply.title, reply.hypothesis, reply.edits)
    stage = AnswerStage.APPLY
    try:
        refuse_marks(reply.edits)
        apply_edits(source, reply.edits)
        stage = AnswerStage.VALIDATE
        draft = vet(proposal)
    except (EditError, Rejected) as error:
        return replace(proposal, attempts=(Attempt(edit_formats, stage),)), error
    assert draft.candidate is not None, "what is let pass is a candidate"
    return replace(draft.proposal, attempts=(Attempt(edit_formats),)), draft.candidate


def _without_secrets(context: PromptContext, redact: RedactText) -> PromptContext:
    def clean(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(clean, value))
        if isinstance(value, (PromptContext, Advice)):
            return replace(value, **{part.name: clean(getattr(value, part.name)) for part in fields(value)})
        return redact(value) if type(value) is str else value

    cleaned: PromptContext = clean(context)
    return cleaned


def _attempts(turns: Sequence[_Turn]) -> tuple[Attempt, ...]:
    return tuple(attempt for turn in turns if turn.answer is not None for attempt in turn.proposal.attempts)


def _sum(numbers: Iterable[N | None]) -> N | None:
    """Sum the known numbers; None if no number is known."""
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
