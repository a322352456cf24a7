"""Whose turn it is, and what they offer: human requests first, a stronger LLM on a plateau, else LLM and optimiser.

Without an LLM the optimiser proposes alone. One that is away is said once and looked for every few seconds; the
optimiser goes on. A bad answer becomes a typed rejection with its cost, never a trial.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from researcher.absence import LOOKS_SHARE, Absence
from researcher.decision import is_banned
from researcher.digest import prompt_context
from researcher.errors import CapReached, ModelAway, ModelStays, Rejected
from researcher.escalation import reason_to_escalate, spent
from researcher.exchanges import store_exchanges
from researcher.experiment import Experiment, Request, RequestState
from researcher.history import History
from researcher.lanes import offered_lanes
from researcher.llm import Draft, LlmProposer
from researcher.memory import too_large
from researcher.meter import Meter
from researcher.optimizer import Optimizer
from researcher.proposal import Candidate, Proposal, Proposer, WholeFile
from researcher.settings import Mix
from researcher.validation import validate
from trainer.jobs import Outcome, Profile

logger = logging.getLogger(__name__)

REFUSALS_BEFORE_REST = 3
LONGEST_REST_S = 60.0
_UNANSWERED = Proposal(Proposer.LLM, "a question without an answer", "", ())  # told once each time it goes away


@dataclass(frozen=True)
class Stronger:
    """A paid model, and what keeps its cap: the client that `llm` asks through."""

    llm: LlmProposer
    meter: Meter


class Proposers:
    """The optimiser, and the LLM where there is one and it answers.

    `folder` keeps prompts and answers, one folder an experiment.
    """

    def __init__(
        self,
        *,
        mix: Mix,
        profile: Profile,
        optimizer: Optimizer,
        llm: LlmProposer | None,
        stronger: Stronger | None = None,
        program: Callable[[], str],
        folder: Path,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mix = mix
        self._profile = profile
        self._optimizer = optimizer
        self._llm = llm
        self._stronger = stronger
        self._program = program
        self._folder = folder
        self._say = say
        self._clock = clock
        self._learned = 0
        self._absence = Absence(clock, 1.0 if mix is Mix.LLM else LOOKS_SHARE)
        self._stronger_absence = Absence(clock)
        self._answers = False
        self._cap_reached = False
        self._refusals = 0
        self._resting_until = 0.0

    def next_draft(self, journal: History, incumbent: str, tick: Callable[[], None]) -> Draft | None:
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
        if self._stronger is not None and (idea is None or self._llm is None):
            draft = self._ask_stronger(self._stronger, journal, incumbent, tick)
        if (
            draft is None
            and self._llm is not None
            and self._is_llms_turn(journal, idea)
            and self._absence.is_over(self._llm.look)
        ):
            draft = self._ask_llm(self._llm, journal, incumbent, idea, tick)
        if draft is None and self._mix is not Mix.LLM:
            draft = self._ask_optimizer(journal, incumbent)
        if draft is not None:
            self._rest_after(draft)
        return draft

    def leave_card(self, tick: Callable[[], None]) -> None:
        """Before a trial: returns once no model is in its way. Raises ModelStays."""
        if self._llm is None:
            return
        try:
            self._llm.leave(tick)
        except ModelStays:
            raise
        except ModelAway as error:  # who cannot be asked holds no card
            if self._absence.away is None:
                self._note_away(error)

    def _rest_after(self, draft: Draft) -> None:
        """Where nothing but refusals comes, and at once, the journal must not fill with them."""
        self._refusals = self._refusals + 1 if draft.rejected is not None else 0
        if self._refusals >= REFUSALS_BEFORE_REST:
            rest_s = min(2.0 ** (self._refusals - REFUSALS_BEFORE_REST), LONGEST_REST_S)
            self._resting_until = self._clock() + rest_s
            logger.warning("%d proposals in a row were refused; resting %.0f s", self._refusals, rest_s)

    def learn(self, journal: History) -> None:
        """Teach the optimiser what was decided since the last call."""
        for experiment in journal.experiments(after=self._learned):
            if experiment.decision is None:
                return
            if experiment.outcome is not Outcome.REJECTED and experiment.outcome is not Outcome.LOST:
                self._optimizer.learn(journal.source(experiment.id), experiment.score)
            self._learned = experiment.id

    def store_exchanges(self, number: int, draft: Draft) -> None:
        """Keep what was asked and answered beside the experiment, for people and for a later replay."""
        store_exchanges(self._folder / str(number), draft.exchanges)

    def _is_llms_turn(self, journal: History, idea: Request | None) -> bool:
        last = journal.recent(1)[-1]
        return self._mix is Mix.LLM or idea is not None or last.proposer is not Proposer.LLM

    def _ask_llm(
        self, llm: LlmProposer, journal: History, incumbent: str, idea: Request | None, tick: Callable[[], None]
    ) -> Draft | None:
        try:
            draft = self._ask(llm, journal, incumbent, None if idea is None else idea.body, tick)
        except ModelAway as error:
            self._note_away(error)
            answered, self._answers = self._answers, False
            return Draft(_UNANSWERED, rejected=str(error)) if answered else None
        self._answers = True
        self._absence.ends()
        self._say("")
        if idea is None:
            return draft
        return replace(draft, proposal=replace(draft.proposal, request=idea.id))

    def _ask(
        self, llm: LlmProposer, journal: History, incumbent: str, wish: str | None, tick: Callable[[], None]
    ) -> Draft:
        context = prompt_context(journal, self._profile, self._program(), incumbent, wish)
        context = replace(context, lanes=offered_lanes(journal, llm.model))
        known = tried(journal, Proposer.LLM)
        return llm.propose(context, tick, lambda proposal: validate(proposal, incumbent, known))

    def _ask_stronger(
        self, stronger: Stronger, journal: History, incumbent: str, tick: Callable[[], None]
    ) -> Draft | None:
        why = None if self._cap_reached else reason_to_escalate(journal.experiments(), journal.paid_calls())
        if why is None or not self._stronger_absence.is_over(stronger.llm.look):
            return None
        meter = stronger.meter
        meter.why = why
        try:
            draft = self._ask(stronger.llm, journal, incumbent, None, tick)
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

    def _note_away(self, error: ModelAway) -> None:
        """Say it once in the log, and for as long as it lasts to whoever watches."""
        if self._absence.away is None:
            logger.warning("no LLM: %s. It is asked again once it is back", error)
        self._absence.begins(error)
        self._say(f"none: {error}; the optimiser goes on" if self._mix is Mix.HYBRID else f"none: {error}; waiting")

    def _ask_optimizer(self, journal: History, incumbent: str) -> Draft:
        known = tried(journal, Proposer.OPTIMIZER)
        try:
            return Draft(self._optimizer.propose(incumbent, lambda proposal: validate(proposal, incumbent, known)))
        except Rejected as error:
            nothing = Proposal(Proposer.OPTIMIZER, "nothing to move", "", ())
            return Draft(nothing, rejected=str(error))


def tried(journal: History, by: Proposer) -> Callable[[Candidate], str | None]:
    """What the journal says against a candidate, in words: its code was tried, its change has failed elsewhere, or what
    is no larger ran out of memory.

    A person may try a change again on other code, and may try a larger one.
    """
    run, ran_out = journal.run(), [] if by is Proposer.HUMAN else journal.ran_out_of_memory()
    incumbent = None if run is None or run.incumbent is None or not ran_out else journal.source(run.incumbent)

    def answer(candidate: Candidate) -> str | None:
        same = journal.tried(candidate.fingerprint)
        if same is not None:
            return f"the same code was tried before ({_told(same)})"
        before = [] if by is Proposer.HUMAN else journal.not_kept(candidate.change)
        if is_banned([item.outcome for item in before if item.outcome is not None]):
            return f"the same change was tried on other code ({'; '.join(map(_told, before[-2:]))})"
        return None if incumbent is None else too_large(candidate.source, incumbent, ran_out)

    return answer


def _told(experiment: Experiment) -> str:
    score = "" if experiment.score is None else f", {experiment.score:.6f}"
    return f"experiment {experiment.number}: {experiment.decision or experiment.state}{score}"


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
