"""The LLM as a proposer: it is asked while a trial runs, if this does not disturb the trial, or when its turn comes.

A missing LLM is reported once and polled every few seconds. A bad answer becomes a rejection with its cost. A server's
fault is recorded apart from rejections, and no prompt mentions it. A draft made for an earlier incumbent is adapted to
the present one, or rejected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from researcher.errors import EditError, GpuBusy, LlmServerFault, LlmUnavailable, ModelNotUnloaded, Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import Request, RequestState
from researcher.prompting.prompt import PromptContext
from researcher.proposers.advice import move_in, to_runnable_change
from researcher.proposers.availability import LOOKS_SHARE, CircuitBreaker, Fault
from researcher.proposers.draft import Draft, ProposalRequest, Tick
from researcher.proposers.llm_conversation import Conversation
from researcher.proposers.novelty import objection
from researcher.proposers.prefetch import AHEAD, DraftRequest, PendingDraft, Prefetch, reverts_later_keep
from researcher.proposers.prompt_context import Briefing
from researcher.proposers.schedule import Schedule
from researcher.queues.dry_runs import DryRuns
from researcher.source.proposal import Candidate, Edit, Proposal, ProposerName
from researcher.source.validation import refuse_tried, validate
from trainer.jobs import Profile

logger = logging.getLogger(__name__)

ALONE: Schedule = {ProposerName.LLM: 1.0}  # for a run without other proposers
NAMES = (ProposerName.LLM, ProposerName.ADVISER)  # the names under which the LLM proposes
TOLD_EVERY_S = 5.0
_UNANSWERED = "a question without an answer"  # recorded once for each absence


@dataclass(frozen=True)
class Vetting:
    """The parts of every question to an LLM, and the validation of its answer.

    `dry_runs` is None without a dry-run worker.
    """

    profile: Profile
    program: Callable[[], str]
    dry_runs: DryRuns | None = None

    def draft(
        self, llm: Conversation, context: PromptContext, history: JournalReader, tick: Tick, drafted: frozenset[str]
    ) -> Draft:
        """Ask `llm` for a draft. `drafted` are the fingerprints of candidates that wait already.

        Raises LlmUnavailable.
        """
        known = objection(history, ProposerName.LLM)

        def vet(proposal: Proposal) -> Draft:
            if context.advice is not None:
                proposal = to_runnable_change(proposal, context.source, self.profile.context)
            candidate = validate(proposal, context.source, known)
            if candidate.fingerprint in drafted:
                raise Rejected("the same code was drafted already and waits to be measured; propose something else")
            if self.dry_runs is not None:
                self.dry_runs.reject_failing(candidate.source, context.source, tick)
            return Draft(proposal, candidate)

        return llm.propose(context, tick, vet)


class LlmProposer:
    """Proposes what `llm` answers.

    With `drafting` the LLM is asked while a trial runs. `alone` is True if there is no other proposer. `publish_status`
    publishes the state of the LLM.
    """

    def __init__(
        self,
        llm: Conversation,
        vetting: Vetting,
        briefing: Briefing,
        drafting: Prefetch | None,
        publish_status: Callable[[str], None],
        *,
        alone: bool,
        clock: Callable[[], float],
    ) -> None:
        self._llm = llm
        self._vetting = vetting
        self._briefing = briefing
        self._drafting = drafting
        self._publish_status = publish_status
        self._alone = alone
        self._clock = clock
        self._breaker = CircuitBreaker(clock, 1.0 if alone else LOOKS_SHARE)
        self._answers = False
        self._published = ""

    @property
    def why_away(self) -> str | None:
        """The reason why the LLM cannot be asked, or None while it answers."""
        return None if self._breaker.away is None else str(self._breaker.away)

    def drafted(self) -> frozenset[str]:
        """Return the fingerprints of candidates that wait for their turn."""
        waiting = () if self._drafting is None else self._drafting.waiting
        return frozenset(fingerprint for ready in waiting if (fingerprint := ready.draft.fingerprint) is not None)

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """Return None if the turn is another proposer's, the LLM is unavailable, or no prepared draft is ready."""
        journal, incumbent, idea = turn.journal, turn.incumbent, turn.idea
        if idea is None and turn.proposer_name not in NAMES:
            return None
        self._drain(turn.tick)
        if self._drafting is not None and (self._drafting.waiting or self._drafting.may_draft):
            self.draft_ahead(journal, incumbent, turn.upcoming)
            ready = self._drafting.take(turn.proposer_name)
            return None if ready is None else _fitted(ready, journal, incumbent)
        if not self._may_ask():
            return None
        proposer_name = turn.proposer_name if idea is None else ProposerName.LLM
        context = self._context(journal, incumbent, proposer_name, idea)
        try:
            draft = self._vetting.draft(self._llm, context, journal, self._telling(turn.tick), frozenset())
        except GpuBusy as error:
            self._publish_status(f"waiting: {error}")
            return None
        except LlmUnavailable as error:
            return self._unanswered(error, proposer_name)
        self._note(draft)
        return draft if idea is None else replace(draft, proposal=replace(draft.proposal, request=idea.id))

    def draft_ahead(self, journal: JournalReader, incumbent: str, upcoming: Sequence[str]) -> None:
        """Start the next question about `incumbent`, if there is room, and return at once.

        The question is for the first of the LLM's `upcoming` turns that has no draft; users' ideas come first.
        """
        drafting = self._drafting
        if drafting is None:
            return
        self._collect(drafting)
        if not drafting.is_idle:
            return
        ideas = [request for request in journal.requests(RequestState.WAITING) if request.kind == "idea"]
        idea = next((request for request in ideas if request.id not in drafting.ideas), None)
        if idea is not None:
            proposer_name: str | None = ProposerName.LLM
        else:
            coming = [name for name in upcoming if name in NAMES][:AHEAD]
            proposer_name = _undrafted(coming, drafting) if drafting.has_room else None
        if proposer_name is None or not self._may_ask():
            return
        context = self._context(journal, incumbent, proposer_name, idea)
        context = replace(
            context,
            history=(*context.history, *_not_measured_yet(journal, drafting)),
            rejections=(*context.rejections, *_not_recorded_yet(drafting)),
            closed=context.closed.union(*(move_in(edits) for edits in _open_edits(journal, drafting))),
        )
        drafted = self.drafted()
        drafting.begin(
            DraftRequest(incumbent, proposer_name, None if idea is None else idea.id),
            lambda history, tick: self._vetting.draft(self._llm, context, history, self._telling(tick), drafted),
        )

    def _telling(self, tick: Tick) -> Tick:
        """Return a tick that also publishes the progress of the answer every few seconds."""
        told_at = self._clock()

        def tell() -> None:
            nonlocal told_at
            tick()
            if self._clock() - told_at >= TOLD_EVERY_S:
                told_at = self._clock()
                self._publish_status(self._llm.progress())

        return tell

    def _context(
        self, journal: JournalReader, incumbent: str, proposer_name: str, idea: Request | None
    ) -> PromptContext:
        idea_text = None if idea is None else idea.body
        return self._briefing.context(
            journal, incumbent, model=self._llm.asked_model(incumbent), proposer_name=proposer_name, idea=idea_text
        )

    def free_gpu(self, tick: Tick) -> None:
        """End the question in progress and unload the LLM from the GPU before a trial. Raises ModelNotUnloaded."""
        self._drain(tick)
        try:
            self._llm.unload(tick)
        except ModelNotUnloaded:
            raise
        except LlmUnavailable as error:  # an unavailable LLM holds no GPU memory
            if self._breaker.away is None:
                self._note_away(error)

    def close(self) -> None:
        """Cancel the draft in progress."""
        if self._drafting is not None:
            self._drafting.close()

    def _drain(self, tick: Tick) -> None:
        """Wait for a question that may not go on beside a trial, and collect its draft."""
        if self._drafting is not None and self._drafting.under_way is not None and not self._drafting.may_draft:
            self._drafting.drain(tick)
            self._collect(self._drafting)

    def _collect(self, drafting: Prefetch) -> None:
        asked = drafting.under_way
        try:
            if (draft := drafting.collect()) is not None:
                self._note(draft)
        except GpuBusy as error:
            self._publish_status(f"waiting: {error}")
        except LlmUnavailable as error:
            assert asked is not None, "only a question can find the model away"
            unanswered = self._unanswered(error, asked.proposer_name)
            if unanswered is not None:
                drafting.keep(PendingDraft(DraftRequest("", asked.proposer_name), unanswered))

    def _unanswered(self, error: LlmUnavailable, by: str) -> Draft | None:
        """Record that the LLM is unavailable.

        Return a draft without an answer if its previous question was answered, otherwise None.
        """
        self._note_away(error)
        answered, self._answers = self._answers, False
        return Draft(Proposal(by, _UNANSWERED, "", ()), unanswered=str(error)) if answered else None

    def _note(self, draft: Draft) -> None:
        """Record whether the server answered. After its fault the next question waits, longer each time."""
        if draft.unanswered is not None:
            self._answers = False
            self._note_away(LlmServerFault(draft.unanswered))
            return
        self._answers = True
        self._breaker.record_answer()
        self._published = ""
        self._publish_status("")

    def _may_ask(self) -> bool:
        """Return whether a question may be asked now. Publish why not, as the last look at the server has it."""
        is_allowed = self._breaker.allows_question(self._llm.check_available)
        if self._breaker.away is not None:
            self._publish_away(self._breaker.away)
        return is_allowed

    def _note_away(self, error: Fault) -> None:
        """Log the LLM's absence once, and publish it for as long as it lasts."""
        if self._breaker.away is None:
            logger.warning("no LLM: %s. It is asked again once it is back", error)
        self._breaker.record_failure(error)
        self._publish_away(error)

    def _publish_away(self, error: Fault) -> None:
        message = f"none: {error}; waiting" if self._alone else f"none: {error}; the optimiser goes on"
        if message != self._published:
            self._published = message
            self._publish_status(message)


def _undrafted(coming: Sequence[str], drafting: Prefetch) -> str | None:
    """Return the first of the LLM's turns that has no waiting draft."""
    waiting = [ready.asked.proposer_name for ready in drafting.waiting if ready.asked.idea is None]
    for name in coming:
        if name not in waiting:
            return name
        waiting.remove(name)
    return None


def _not_measured_yet(journal: JournalReader, drafting: Prefetch) -> list[str]:
    """Describe the running experiment and the waiting drafts as lines of the history."""
    running = journal.open_experiment()
    lines = [] if running is None or running.is_baseline else [f"{running.number} is being measured: {running.title}"]
    waiting = [ready.draft for ready in drafting.waiting if ready.draft.candidate is not None]
    return lines + [f"drafted, and not measured yet: {draft.proposal.title}" for draft in waiting]


def _open_edits(journal: JournalReader, drafting: Prefetch) -> list[Sequence[Edit]]:
    """Return the edits of the running experiment and of the waiting drafts, also of those that were rejected."""
    running = journal.open_experiment()
    proposal = None if running is None else journal.proposal(running.id)
    proposals = [*(ready.draft.proposal for ready in drafting.waiting), *([proposal] if proposal else [])]
    return [each.edits for each in proposals]


def _not_recorded_yet(drafting: Prefetch) -> list[str]:
    """Describe the waiting drafts that were rejected, which the journal does not contain yet."""
    waiting = [ready.draft for ready in drafting.waiting]
    return [f"{draft.proposal.title}: {draft.rejected}" for draft in waiting if draft.rejected is not None]


def _fitted(ready: PendingDraft, journal: JournalReader, incumbent: str) -> Draft:
    """Adapt a waiting draft to the present incumbent, or turn it into a rejection with the reason.

    A user's idea keeps waiting if its draft fails only because the incumbent changed.
    """
    draft, asked = ready.draft, ready.asked
    if draft.candidate is None:
        return _of(asked, draft)
    try:
        if asked.source == incumbent:
            refuse_tried(draft.candidate, objection(journal, ProposerName.LLM))
            return _of(asked, draft)
        return _of(asked, replace(draft, candidate=_moved(draft.proposal, asked.source, incumbent, journal)))
    except (EditError, Rejected) as error:
        if asked.source == incumbent:
            return _of(asked, replace(draft, candidate=None, rejected=str(error)))
        return replace(draft, candidate=None, rejected=f"it was drafted before the incumbent changed: {error}")


def _moved(proposal: Proposal, before: str, incumbent: str, journal: JournalReader) -> Candidate:
    """Apply a proposal for the source `before` to a later incumbent. Raises EditError, Rejected."""
    fault = reverts_later_keep(proposal, before, incumbent)
    if fault is not None:
        raise Rejected(fault)
    return validate(proposal, incumbent, objection(journal, ProposerName.LLM))


def _of(asked: DraftRequest, draft: Draft) -> Draft:
    return draft if asked.idea is None else replace(draft, proposal=replace(draft.proposal, request=asked.idea))
