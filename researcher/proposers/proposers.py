"""Who proposes next: human requests first, on a plateau a stronger LLM or two near misses at once, else LLM and
optimiser as their shares have it.

Without an LLM the optimiser proposes alone, and while one is away or has no draft ready it goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from researcher.errors import CapReached, ModelAway, Rejected
from researcher.journal.reader import History
from researcher.journal.records import Experiment, Request, RequestState
from researcher.optimizer.evidence import Measured
from researcher.optimizer.optimizer import Optimizer
from researcher.prompting.transcripts import store_exchanges
from researcher.proposers.availability import Absence
from researcher.proposers.combining import combined
from researcher.proposers.escalation import reason_to_escalate, spent, without_keep
from researcher.proposers.llm_conversation import Draft, LlmProposer, Tick
from researcher.proposers.llm_proposer import Asking, Speaker
from researcher.proposers.meter import Meter
from researcher.proposers.novelty import tried
from researcher.proposers.prefetch import AHEAD, Drafting
from researcher.proposers.prompt_context import PLATEAU, Briefing
from researcher.proposers.schedule import USUAL_SHARES, Mix, Shares, Turn, coming, taken, turn_of
from researcher.source.proposal import Candidate, Edit, Proposal, Proposer, WholeFile
from researcher.source.validation import validate
from trainer.jobs import Outcome

logger = logging.getLogger(__name__)

REFUSALS_BEFORE_REST = 3
LONGEST_REST_S = 60.0


@dataclass(frozen=True)
class Stronger:
    """A paid model, and what keeps its cap: the client that `llm` asks through."""

    llm: LlmProposer
    meter: Meter


class Proposers:
    """The optimiser, and the LLM where there is one and it answers.

    `folder` keeps prompts and answers, one folder an experiment. With `drafting` the LLM is asked ahead. `shares` are
    those of a hybrid night.
    """

    def __init__(
        self,
        *,
        mix: Mix,
        asking: Asking,
        optimizer: Optimizer,
        llm: LlmProposer | None,
        stronger: Stronger | None = None,
        drafting: Drafting | None = None,
        shares: Shares = USUAL_SHARES,
        folder: Path,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mix = mix
        self._asking = asking
        self._optimizer = optimizer
        self._shares = shares
        self._briefing = Briefing(asking.profile, asking.program, optimizer)
        alone = mix is Mix.LLM
        self._speaker = (
            None if llm is None else Speaker(llm, asking, self._briefing, drafting, say, alone=alone, clock=clock)
        )
        self._stronger = stronger
        self._folder = folder
        self._clock = clock
        self._learned = 0
        self._stronger_absence = Absence(clock)
        self._cap_reached = False
        self._refusals = 0
        self._resting_until = 0.0

    def next_draft(self, journal: History, incumbent: str, tick: Tick) -> Draft | None:
        """The next proposal against the source `incumbent`, or None when nobody can propose at the moment."""
        self.learn(journal)
        requests = journal.requests(RequestState.WAITING)
        for request in requests:
            if request.kind == "submit":
                return _submitted(request, incumbent, tried(journal, Proposer.HUMAN))
        if self._clock() < self._resting_until:
            return None
        idea = next((request for request in requests if request.kind == "idea"), None)
        draft = None
        if self._stronger is not None and (idea is None or self._speaker is None):
            draft = self._ask_stronger(self._stronger, journal, incumbent, tick)
        if draft is None and idea is None:
            draft = self._combine(journal, incumbent)
        turn, turns = self._turns(journal)
        if draft is None and self._speaker is not None and (turn is not Turn.KNOBS or idea is not None):
            draft = self._speaker.next_draft(journal, incumbent, turn, turns, idea, tick)
        if draft is None and self._mix is not Mix.LLM:
            draft = self._ask_optimizer(journal, incumbent)
        if draft is not None:
            self._rest_after(draft)
        return draft

    def draft_ahead(self, journal: History) -> None:
        """While a trial runs: have the LLM asked for what comes next. Returns at once."""
        run = journal.run()
        if self._speaker is not None and run is not None and run.incumbent is not None:
            _, turns = self._turns(journal)
            self._speaker.draft_ahead(journal, journal.source(run.incumbent), turns)

    def leave_card(self, tick: Tick) -> None:
        """Before a trial: returns once no model is in its way. Raises ModelStays."""
        if self._speaker is not None:
            self._speaker.leave_card(tick)

    def close(self) -> None:
        """Give up what is being drafted."""
        if self._speaker is not None:
            self._speaker.close()

    def _rest_after(self, draft: Draft) -> None:
        """Where nothing but refusals comes, and at once, the journal must not fill with them."""
        self._refusals = self._refusals + 1 if draft.rejected is not None else 0
        if self._refusals >= REFUSALS_BEFORE_REST:
            rest_s = min(2.0 ** (self._refusals - REFUSALS_BEFORE_REST), LONGEST_REST_S)
            self._resting_until = self._clock() + rest_s
            logger.warning("%d proposals in a row were refused; resting %.0f s", self._refusals, rest_s)

    def learn(self, journal: History) -> None:
        """Teach the optimiser what was decided since the last call, and measured again."""
        decided = [*takewhile(lambda item: item.decision is not None, journal.experiments(after=self._learned))]
        ran = [item for item in decided if item.outcome not in (Outcome.REJECTED, Outcome.LOST)]
        fresh = (Measured(item.id, item.parent, journal.source(item.id)) for item in ran)
        self._optimizer.learn(fresh, journal.scores())
        for item in ran:
            self._briefing.lessons.learn(item, journal.proposal(item.id))
        self._learned = decided[-1].id if decided else self._learned

    def store_exchanges(self, number: int, draft: Draft) -> None:
        """Keep what was asked and answered beside the experiment, for people and for a later replay."""
        store_exchanges(self._folder / str(number), draft.exchanges)

    def _turns(self, journal: History) -> tuple[Turn, list[Turn]]:
        """Whose turn the next experiment is, and the LLM's turns from that one on."""
        if self._mix is Mix.LLM:
            return Turn.EDIT, [Turn.EDIT] * AHEAD
        so_far = taken(journal.experiments())
        return turn_of(so_far, self._shares), coming(so_far, self._shares, AHEAD)

    def _combine(self, journal: History, incumbent: str) -> Draft | None:
        """On a plateau, now and again: two near misses at once; not where an LLM or chance is to show itself."""
        fruitless = without_keep(journal.experiments())
        if self._mix in (Mix.LLM, Mix.RANDOM) or not fruitless or fruitless % PLATEAU:
            return None
        known = tried(journal, Proposer.OPTIMIZER)

        def edits_of(item: Experiment) -> Sequence[Edit]:
            proposal = journal.proposal(item.id)
            return () if proposal is None else proposal.edits

        near = self._briefing.near_misses(journal)
        proposal = combined(near, edits_of, lambda each: validate(each, incumbent, known))
        return None if proposal is None else Draft(proposal)

    def _ask_stronger(self, stronger: Stronger, journal: History, incumbent: str, tick: Tick) -> Draft | None:
        why = None if self._cap_reached else reason_to_escalate(journal.experiments(), journal.paid_calls())
        if why is None or not self._stronger_absence.is_over(stronger.llm.look):
            return None
        meter = stronger.meter
        meter.why = why
        try:
            context = self._briefing.context(journal, incumbent, model=stronger.llm.model)
            draft, _ = self._asking.draft(stronger.llm, context, journal, tick, frozenset())
        except CapReached as error:
            self._cap_reached = True
            logger.warning("%s is not asked any more: %s", meter.model, error)
            return None
        except ModelAway as error:
            if self._stronger_absence.away is None:
                logger.warning("%s cannot be asked: %s. It is asked again once it is back", meter.model, error)
            self._stronger_absence.begins(error)
            return None
        self._stronger_absence.ends()
        logger.info("%s was asked: %s; %.4f of %g are spent", meter.model, why, spent(journal.paid_calls()), meter.cap)
        return draft

    def _ask_optimizer(self, journal: History, incumbent: str) -> Draft:
        known = tried(journal, Proposer.OPTIMIZER)
        drafted = frozenset() if self._speaker is None else self._speaker.drafted

        def check(proposal: Proposal) -> None:
            if validate(proposal, incumbent, known).fingerprint in drafted:
                raise Rejected("the LLM drafted it already")

        try:
            return Draft(self._optimizer.propose(incumbent, check))
        except Rejected as error:
            by = Proposer.RANDOM if self._mix is Mix.RANDOM else Proposer.OPTIMIZER
            nothing = Proposal(by, "nothing to move", "", ())
            return Draft(nothing, rejected=str(error))


def _submitted(request: Request, incumbent: str, known: Callable[[Candidate], str | None]) -> Draft:
    name, _, text = request.body.partition("\n")
    proposal = Proposal(
        Proposer.HUMAN, f"submitted: {name}", "a person asked for it", (WholeFile(text),), request=request.id
    )
    try:
        validate(proposal, incumbent, known)
    except Rejected as error:
        return Draft(proposal, rejected=str(error))
    return Draft(proposal)
