"""The LLM that takes turns: asked while a trial runs where it may be, else when its turn comes; and its absences.

One that is away is said once and looked for every few seconds. A bad answer becomes a typed rejection with its cost,
never a trial. A draft that was made for an earlier incumbent is fitted to the one that stands, or told as rejected.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from researcher.errors import EditError, ModelAway, ModelStays, Rejected
from researcher.journal.reader import History
from researcher.journal.records import Request, RequestState
from researcher.proposers.advice import settled
from researcher.proposers.availability import LOOKS_SHARE, Absence
from researcher.proposers.llm_conversation import Draft, LlmProposer, PromptContext, Tick
from researcher.proposers.novelty import tried
from researcher.proposers.prefetch import Asked, Drafting, Ready, lost_ground
from researcher.proposers.prompt_context import Briefing
from researcher.proposers.schedule import Turn
from researcher.queues.dry_runs import Checker
from researcher.source.proposal import Proposal, Proposer
from researcher.source.validation import validate
from trainer.jobs import Profile

logger = logging.getLogger(__name__)

_UNANSWERED = "a question without an answer"  # told once each time it goes away


@dataclass(frozen=True)
class Asking:
    """What every question to an LLM is made with, and what its answer is held to. `checker` is None without one."""

    profile: Profile
    program: Callable[[], str]
    checker: Checker | None = None

    def draft(
        self, llm: LlmProposer, context: PromptContext, history: History, tick: Tick, drafted: frozenset[str]
    ) -> tuple[Draft, str | None]:
        """What `llm` answers, with the fingerprint of its candidate; `drafted` are those of candidates that wait.

        Raises ModelAway.
        """
        known, found, meant = tried(history, Proposer.LLM), None, None

        def check(proposal: Proposal) -> None:
            nonlocal found, meant
            if context.advice is not None:
                meant = proposal = settled(proposal, context.source, self.profile.context)
            candidate = validate(proposal, context.source, known)
            if candidate.fingerprint in drafted:
                raise Rejected("the same code was drafted already and waits to be measured; propose something else")
            if self.checker is not None:
                self.checker.look_at(candidate.source, context.source, tick)
            found = candidate.fingerprint

        draft = llm.propose(context, tick, check)
        if meant is not None and draft.rejected is None:
            draft = replace(draft, proposal=replace(draft.proposal, title=meant.title, edits=meant.edits))
        return draft, found if draft.rejected is None else None


class Speaker:
    """Asks `llm`. With `drafting` it is asked ahead; `alone` says that nobody else proposes; `say` reaches people."""

    def __init__(
        self,
        llm: LlmProposer,
        asking: Asking,
        briefing: Briefing,
        drafting: Drafting | None,
        say: Callable[[str], None],
        *,
        alone: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._llm = llm
        self._asking = asking
        self._briefing = briefing
        self._drafting = drafting
        self._say = say
        self._alone = alone
        self._absence = Absence(clock, 1.0 if alone else LOOKS_SHARE)
        self._answers = False

    @property
    def drafted(self) -> frozenset[str]:
        """The fingerprints of candidates that wait for their turn."""
        waiting = () if self._drafting is None else self._drafting.waiting
        return frozenset(ready.fingerprint for ready in waiting if ready.fingerprint is not None)

    def next_draft(
        self, journal: History, incumbent: str, turn: Turn, coming: Sequence[Turn], idea: Request | None, tick: Tick
    ) -> Draft | None:
        """Its draft for `incumbent` and this turn; None where it is away, or drafts are made ahead and none is ready.
        `coming` are its turns from now on."""
        if self._drafting is not None and (self._drafting.waiting or self._drafting.may_draft):
            self.draft_ahead(journal, incumbent, coming)
            ready = self._drafting.take(turn)
            return None if ready is None else _fitted(ready, journal, incumbent)
        if not self._absence.is_over(self._llm.look):
            return None
        context = self._context(journal, incumbent, turn, idea)
        try:
            draft, _ = self._asking.draft(self._llm, context, journal, tick, frozenset())
        except ModelAway as error:
            return self._unanswered(error, Turn.EDIT if idea else turn)
        self._answered()
        return draft if idea is None else replace(draft, proposal=replace(draft.proposal, request=idea.id))

    def draft_ahead(self, journal: History, incumbent: str, coming: Sequence[Turn]) -> None:
        """Have the next question about `incumbent` asked, for the first of the `coming` turns without a draft, if there
        is room; returns at once."""
        drafting = self._drafting
        if drafting is None:
            return
        self._collect(drafting)
        if not drafting.is_idle:
            return
        ideas = [request for request in journal.requests(RequestState.WAITING) if request.kind == "idea"]
        idea = next((request for request in ideas if request.id not in drafting.ideas), None)
        turn = Turn.EDIT if idea is not None else _undrafted(coming, drafting) if drafting.has_room else None
        if turn is None or not self._absence.is_over(self._llm.look):
            return
        context = self._context(journal, incumbent, turn, idea)
        context = replace(context, history=(*context.history, *_not_measured_yet(journal, drafting)))
        drafted = self.drafted
        drafting.begin(
            Asked(incumbent, turn, None if idea is None else idea.id),
            lambda history, tick: self._asking.draft(self._llm, context, history, tick, drafted),
        )

    def _context(self, journal: History, incumbent: str, turn: Turn, idea: Request | None) -> PromptContext:
        wish = None if idea is None else idea.body
        return self._briefing.context(
            journal, incumbent, model=self._llm.model, turn=Turn.EDIT if idea else turn, idea=wish
        )

    def leave_card(self, tick: Tick) -> None:
        """Before a trial: returns once no model is in its way. Raises ModelStays."""
        try:
            self._llm.unload(tick)
        except ModelStays:
            raise
        except ModelAway as error:  # who cannot be asked holds no card
            if self._absence.away is None:
                self._note_away(error)

    def close(self) -> None:
        """Give up what is being drafted."""
        if self._drafting is not None:
            self._drafting.close()

    def _collect(self, drafting: Drafting) -> None:
        asked = drafting.under_way
        try:
            if drafting.collect() is not None:
                self._answered()
        except ModelAway as error:
            assert asked is not None, "only a question can find the model away"
            draft = self._unanswered(error, asked.turn)
            if draft is not None:
                drafting.keep(Ready(Asked("", asked.turn), draft, None))

    def _unanswered(self, error: ModelAway, turn: Turn) -> Draft | None:
        """Told as a rejection where it answered before."""
        self._note_away(error)
        answered, self._answers = self._answers, False
        by = Proposer.ADVISER if turn is Turn.ADVICE else Proposer.LLM
        return Draft(Proposal(by, _UNANSWERED, "", ()), rejected=str(error)) if answered else None

    def _answered(self) -> None:
        self._answers = True
        self._absence.ends()
        self._say("")

    def _note_away(self, error: ModelAway) -> None:
        """Say it once in the log, and for as long as it lasts to whoever watches."""
        if self._absence.away is None:
            logger.warning("no LLM: %s. It is asked again once it is back", error)
        self._absence.begins(error)
        self._say(f"none: {error}; waiting" if self._alone else f"none: {error}; the optimiser goes on")


def _undrafted(coming: Sequence[Turn], drafting: Drafting) -> Turn | None:
    """The first of the LLM's turns for which nothing waits."""
    waiting = [ready.asked.turn for ready in drafting.waiting if ready.asked.idea is None]
    for turn in coming:
        if turn in waiting:
            waiting.remove(turn)
        elif turn is not Turn.KNOBS:
            return turn
    return None


def _not_measured_yet(journal: History, drafting: Drafting) -> list[str]:
    """What is on its way, as lines of the history."""
    running = journal.open_experiment()
    lines = [] if running is None or running.is_baseline else [f"{running.number} is being measured: {running.title}"]
    waiting = [ready.draft for ready in drafting.waiting if ready.draft.rejected is None]
    return lines + [f"drafted, and not measured yet: {draft.proposal.title}" for draft in waiting]


def _fitted(ready: Ready, journal: History, incumbent: str) -> Draft:
    """The draft, or why it became none while it waited. An idea goes on waiting where only the incumbent changed."""
    draft, asked = ready.draft, ready.asked
    moved = asked.source != incumbent
    if draft.rejected is None:
        try:
            fault = lost_ground(draft.proposal, asked.source, incumbent)
            if fault is None:
                validate(draft.proposal, incumbent, tried(journal, Proposer.LLM))
        except (EditError, Rejected) as error:
            fault = str(error)
        if fault is not None:
            since = "it was drafted before the incumbent changed: " if moved else ""
            return replace(draft, rejected=f"{since}{fault}") if moved else _of(asked, replace(draft, rejected=fault))
    return _of(asked, draft)


def _of(asked: Asked, draft: Draft) -> Draft:
    return draft if asked.idea is None else replace(draft, proposal=replace(draft.proposal, request=asked.idea))
