"""Conversation: one question to the LLM, one answer, and at most one repair turn with the real error of that answer.

If reasoning used up the whole output, the question is asked once more with twice the room, which then holds for the
rest of the run. Every question becomes a Draft with its cost and texts, also without a usable answer. LlmUnavailable is
raised only if no question can be asked at all.

No question that was answered is asked again as it was, and each answer is drawn with another seed, warmer after a
refusal. A question that a fault of the server interrupted is asked again as it was, because the server may have its
prompt cached.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from researcher.errors import (
    BadLlmResponse,
    EditError,
    LlmServerFault,
    LlmTimeout,
    LlmUnavailable,
    PromptTooLong,
    PromptTruncated,
    ReasoningUsedUpOutput,
    Rejected,
    ResearcherError,
)
from researcher.llm.client import Answer, ChatClient, HoldsGpu, Message, Sampling, ShowsProgress, is_small
from researcher.prompting.context_budget import Window
from researcher.prompting.knob_json import schema_of
from researcher.prompting.prompt import Advice, PromptContext, Prompts
from researcher.prompting.reply_parser import (
    TITLE_CHARACTERS,
    formats_in,
    one_line,
    read_reply,
)
from researcher.prompting.source_outline import refuse_marks
from researcher.prompting.thoughts import with_thoughts, without_thoughts
from researcher.prompting.transcripts import Exchange
from researcher.proposers.advice import move_in
from researcher.proposers.draft import Draft, Tick, Vet
from researcher.proposers.edit_formats import AskedModel
from researcher.proposers.escalation import Price
from researcher.source.edits import apply_edits, clamped, title_of
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

MOST_RESUMES = 3  # a server that refuses a question for its text will do so again

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
        self._refused = 0  # drafts in a row
        self._answered: Counter[bytes] = Counter()  # the answers to each question, by its digest
        self._interrupted: PromptContext | None = None  # the question that the server took and did not answer
        self._resumes = 0  # in a row

    @property
    def _is_small(self) -> bool:
        return is_small(self._client)

    def asked_model(self, source: str) -> AskedModel:
        """Return the properties of the model that decide the formats of a question about `source`."""
        return AskedModel(self._client.model, self._is_small, self._window.holds_answer(source))

    def propose(self, context: PromptContext, tick: Tick, vet: Vet) -> Draft:
        """Ask for a proposal and return a draft that `vet` accepts, or one that is rejected or unanswered.

        Raises LlmUnavailable if no question can be asked now: no server, no model, or a train.py that does not fit.
        """
        source = context.source
        context = self._resumed(_without_secrets(context, self._redact))  # before fitting: a mark may be longer
        try:
            question = self._question(context)
        except BadLlmResponse as error:
            raise LlmUnavailable(str(error)) from error
        digest, repeated = _digest(question), context
        if times := self._answered[digest]:
            repeated = replace(context, asked_before=times)
            question = self._question(repeated)
        try:
            turns = self._turns(question, _Asking(repeated, source, tick, vet))
        except LlmTimeout:
            self._interrupted = context
            raise
        if turns[0].answer is not None:
            self._answered[digest] += 1
            self._resumes = 0
        elif not isinstance(turns[0].fault, PromptTooLong):
            self._interrupted = context
        draft = self._draft(turns, context)
        self._refused = self._refused + 1 if draft.rejected is not None else 0 if draft.candidate else self._refused
        return draft

    def _resumed(self, context: PromptContext) -> PromptContext:
        """Return the context of the interrupted question if it asks for the same as `context`, else `context`."""
        last, self._interrupted = self._interrupted, None
        if last is None or _wish(last) != _wish(context) or self._resumes >= MOST_RESUMES:
            self._resumes = 0
            return context
        self._resumes += 1
        return last

    def _turns(self, question: Sequence[Message], asking: _Asking) -> list[_Turn]:
        """Ask, ask again after reasoning alone, and have a refused answer repaired.

        A small model seldom repairs its answer; its next question is a new one, unless a user waits for this one.
        """
        edit_formats = asking.context.edit_formats
        turns = [self._turn(question, asking, edit_formats)]
        if isinstance(turns[0].fault, ReasoningUsedUpOutput) and self._window.widen():
            turns.append(
                self._again(
                    turns[0], "asked again", lambda: self._turn(self._question(asking.context), asking, edit_formats)
                )
            )
        if turns[-1].is_repairable and (not self._is_small or asking.context.idea is not None):
            turns.append(self._again(turns[-1], "repaired", lambda: self._repaired(turns[-1], asking)))
        return turns

    def _draft(self, turns: Sequence[_Turn], context: PromptContext) -> Draft:
        proposal, fault = turns[-1].proposal, turns[-1].fault
        is_unanswered = isinstance(fault, LlmServerFault)
        return Draft(
            candidate=turns[-1].candidate,
            proposal=replace(
                proposal,
                proposer=context.proposer_name,
                title=self._redact(proposal.title),
                hypothesis=self._redact(proposal.hypothesis),
                cost=self._cost(turns),
                attempts=_attempts(turns),
            ),
            rejected=None if fault is None or is_unanswered else self._redact(str(fault)),
            unanswered=self._redact(str(fault)) if is_unanswered else None,
            exchanges=tuple(turn.exchange for turn in turns if turn.exchange is not None),
        )

    def progress(self) -> str:
        """Describe the progress of the answer in words for users."""
        model, client = self._client.model, self._client
        return f"{model} is {client.progress()}" if isinstance(client, ShowsProgress) else f"{model} is asked"

    def check_available(self) -> None:
        """Raise LlmUnavailable if the client knows without a question that the LLM cannot answer."""
        self._client.check_available()

    def unload(self, tick: Tick) -> None:
        """Unload the model from the GPU before a trial. Raises ModelNotUnloaded or LlmUnavailable."""
        if isinstance(self._client, HoldsGpu):
            self._client.unload(tick)

    def _question(self, context: PromptContext) -> Sequence[Message]:
        return self._window.question(lambda room: self._prompts.messages(context, room))

    def _turn(
        self,
        messages: Sequence[Message],
        asking: _Asking,
        edit_formats: tuple[EditFormat, ...],
        refused: _Turn | None = None,
    ) -> _Turn:
        """Ask once. `refused` is the answer of this proposal that came before."""
        prompt = "\n\n".join(f"[{message.role}]\n{message.content}" for message in messages)
        schema = asking.schema(refused) if edit_formats == (EditFormat.JSON,) else None
        started = time.monotonic()
        try:
            answer = self._client.chat(
                messages,
                asking.tick,
                answer_tokens=self._window.answer_tokens(messages),
                schema=schema,
                sampling=Sampling.after(self._refused + (refused is not None)),
            )
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
        proposal, found = parse_and_validate(reply, asking.source, asking.vet, cut=cut, offered=edit_formats)
        fault = found if isinstance(found, ResearcherError) else None
        return _Turn(proposal, found, self._exchange(prompt, reply, fault, cut=cut), answer, answer.seconds)

    def _exchange(self, prompt: str, reply: str, fault: ResearcherError | None, *, cut: bool = False) -> Exchange:
        return Exchange(prompt, self._redact(reply), None if fault is None else self._redact(str(fault)), cut)

    def _repaired(self, failed: _Turn, asking: _Asking) -> _Turn:
        """Ask once more with the failed turn's error.

        A model that wrote no code, or no edit at all, must answer in a format that it cannot miss.
        """
        context = asking.context
        is_move = context.advice is not None or (failed.shows_no_code and asking.may_be_a_move)
        in_json = is_move and asking.schema(failed) is not None
        form: Literal["move", "repair"] = "move" if in_json else "repair"
        answer_text, fault = self._redact(failed.answer_text), self._redact(str(failed.fault))
        messages = self._window.question(lambda room: self._prompts.repair(context, room, answer_text, fault, form))
        return self._turn(messages, asking, (EditFormat.JSON,) if in_json else context.edit_formats, failed)

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

    def schema(self, refused: _Turn | None) -> Mapping[str, Any] | None:
        """Return the schema for a change of knobs, after a refused answer for another one, or None without any."""
        closed = self.context.closed | (set() if refused is None else move_in(refused.proposal.edits))
        return schema_of(self.context.source, one_knob=self.context.one_knob or refused is not None, closed=closed)


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
    def shows_no_code(self) -> bool:
        """Whether the answer contains no edit, except perhaps a change of knobs."""
        return formats_in(self.answer_text) in ((), (EditFormat.SET,))


def parse_and_validate(
    text: str, source: str, vet: Vet, *, cut: bool, offered: tuple[EditFormat, ...] = ()
) -> tuple[Proposal, Candidate | ResearcherError]:
    """Return the proposal in an answer about `source`, with one attempt, and its candidate or the error.

    `offered` are the formats of the question. The title says what the edits change; the model's own words are the
    hypothesis.
    """

    def attempt(found: tuple[EditFormat, ...], failed: AnswerStage | None = None) -> tuple[Attempt]:
        return (Attempt(offered if offered == (EditFormat.JSON,) else found or offered, failed),)

    unread = replace(_UNREAD, attempts=attempt(formats_in(text), AnswerStage.PARSE))
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
    edits = clamped(source, reply.edits)
    note = "" if edits == reply.edits else " (moved into its range)"
    title = one_line(title_of(source, edits), TITLE_CHARACTERS - len(note)) + note
    proposal = Proposal(ProposerName.LLM, title, reply.words, edits)
    stage = AnswerStage.APPLY
    try:
        refuse_marks(edits)
        apply_edits(source, edits)
        stage = AnswerStage.VALIDATE
        draft = vet(proposal)
    except (EditError, Rejected) as error:
        return replace(proposal, attempts=attempt(edit_formats, stage)), error
    assert draft.candidate is not None, "what is let pass is a candidate"
    return replace(draft.proposal, attempts=attempt(edit_formats)), draft.candidate


def _wish(context: PromptContext) -> tuple[object, ...]:
    """Return what a question asks for, without what the run has learned meanwhile."""
    return context.source, context.program, context.idea, context.advice is None, context.proposer_name


def _digest(question: Sequence[Message]) -> bytes:
    texts = (f"{message.role}\0{message.content}\0" for message in question)
    return hashlib.sha256("".join(texts).encode("utf-8", "replace")).digest()


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
