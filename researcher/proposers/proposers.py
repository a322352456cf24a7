"""The proposers in their order: files that users submit, then the first proposer in the list that returns a draft.

On a plateau, a stronger LLM or a combination of two near misses comes before the LLM. The optimiser comes last. It
proposes alone if there is no LLM, and continues while the LLM is unavailable or has no draft ready. The proposers that
ask no LLM are at the end of this module.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from researcher.errors import Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment, RequestState
from researcher.optimizer.evidence import Measured
from researcher.optimizer.optimizer import Optimizer
from researcher.prompting.transcripts import store_exchanges
from researcher.proposers.draft import Draft, ProposalRequest, Proposer, Tick, Vet
from researcher.proposers.escalation import without_keep
from researcher.proposers.lessons import NOTHING_LEARNED, NearMiss
from researcher.proposers.llm_conversation import Conversation
from researcher.proposers.llm_proposer import ALONE, LlmProposer, Vetting
from researcher.proposers.prefetch import Prefetch
from researcher.proposers.prompt_context import PLATEAU_PROMPT, Briefing
from researcher.proposers.schedule import USUAL_SHARES, Mix, Schedule, progress, upcoming
from researcher.proposers.stronger_llm import Stronger, StrongerLlm
from researcher.source.proposal import Edit, Proposal, ProposerName, WholeFile

logger = logging.getLogger(__name__)

REFUSALS_BEFORE_REST = 3
LONGEST_REST_S = 60.0


@dataclass(frozen=True)
class Scheduled:
    """A proposer with its shares of the experiments, by the names under which it proposes.

    Each is asked in every turn. With shares it proposes in its own turns, without them when it has a reason.
    """

    proposer: Proposer
    shares: Schedule = field(default_factory=dict)


class Proposers:
    """All proposers of a run, in their order.

    `folder` stores prompts and answers, in one folder for each experiment. With `drafting` the LLM is asked while a
    trial runs. `shares` are the LLM's shares in a hybrid run.
    """

    def __init__(
        self,
        *,
        mix: Mix,
        vetting: Vetting,
        optimizer: Optimizer,
        llm: Conversation | None,
        stronger: Stronger | None = None,
        drafting: Prefetch | None = None,
        shares: Schedule = USUAL_SHARES,
        folder: Path,
        publish_status: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._optimizer = optimizer
        self._briefing = Briefing(vetting.profile, vetting.program, optimizer)
        alone = mix is Mix.LLM
        llm_proposer = (
            None
            if llm is None
            else LlmProposer(llm, vetting, self._briefing, drafting, publish_status, alone=alone, clock=clock)
        )
        schedule: list[Scheduled] = []
        if stronger is not None:
            escalated = StrongerLlm(stronger, vetting, self._briefing, alone=llm_proposer is None, clock=clock)
            schedule.append(Scheduled(escalated))
        if mix not in (Mix.LLM, Mix.RANDOM):
            schedule.append(Scheduled(Combiner(self._briefing)))
        if llm_proposer is not None:
            schedule.append(Scheduled(llm_proposer, ALONE if alone else shares))
        if not alone:
            drafted = frozenset[str] if llm_proposer is None else llm_proposer.drafted
            schedule.append(Scheduled(OptimizerProposer(optimizer, drafted)))
        self._proposers = [each.proposer for each in schedule]
        self._shares = {name: share for each in schedule for name, share in each.shares.items()}
        self._submitted = SubmittedFiles()
        self._llm_proposer = llm_proposer
        self._folder = folder
        self._clock = clock
        self._learned = set[int]()
        self._refusals = 0
        self._resting_until = 0.0

    def next_draft(self, journal: JournalReader, incumbent: str, tick: Tick) -> Draft | None:
        """Return the next proposal for the source `incumbent`, or None if no proposer has one now."""
        self.learn(journal)
        turn = ProposalRequest(
            journal, incumbent, self._upcoming(journal), journal.requests(RequestState.WAITING), tick
        )
        submitted = self._submitted.propose(turn)
        if submitted is not None or self._clock() < self._resting_until:
            return submitted
        drafts = (proposer.propose(turn) for proposer in self._proposers)
        draft = next((each for each in drafts if each is not None), None)
        if draft is not None:
            self._rest_after(draft)
        return draft

    def draft_ahead(self, journal: JournalReader) -> None:
        """Start a question to the LLM about the next experiments while a trial runs. Returns at once."""
        run = journal.run()
        if self._llm_proposer is not None and run is not None and run.incumbent is not None:
            self._llm_proposer.draft_ahead(journal, journal.source(run.incumbent), self._upcoming(journal))

    def why_no_llm(self) -> str | None:
        """Return the reason why no LLM takes ideas now, or None if one does."""
        if self._llm_proposer is None:
            return "this run asks none (LLM=none, or its --proposer)"
        return self._llm_proposer.why_away

    def free_gpu(self, tick: Tick) -> None:
        """Unload the LLM from the GPU before a trial. Raises ModelNotUnloaded."""
        if self._llm_proposer is not None:
            self._llm_proposer.free_gpu(tick)

    def close(self) -> None:
        """Cancel the draft in progress."""
        if self._llm_proposer is not None:
            self._llm_proposer.close()

    def learn(self, journal: JournalReader) -> None:
        """Teach the optimiser and the lessons what was decided since the last call, in that order, and all scores."""
        unknown = (item for item in journal.experiments() if item.id not in self._learned)
        decided = sorted(
            (item for item in unknown if item.decided_at is not None), key=lambda item: item.decided_at or 0
        )
        ran = [item for item in decided if item.outcome not in NOTHING_LEARNED]
        fresh = (Measured(item.id, item.parent, journal.source(item.id)) for item in ran)
        self._optimizer.learn(fresh, journal.scores())
        for item in ran:
            self._briefing.lessons.learn(item, journal.proposal(item.id))
        self._learned |= {item.id for item in decided}

    def store_exchanges(self, number: int, draft: Draft) -> None:
        """Store the prompts and answers beside the experiment, for users and for a later replay."""
        store_exchanges(self._folder / str(number), draft.exchanges)

    def _upcoming(self, journal: JournalReader) -> list[str]:
        """Return the names of the proposers of the next experiments."""
        return upcoming(progress(self._shares, journal.experiments()), self._shares)

    def _rest_after(self, draft: Draft) -> None:
        """Pause after several refusals in a row; otherwise fast refusals would fill the journal.

        A question without an answer is no refusal. Its LLM rests by itself.
        """
        if draft.unanswered is not None:
            return
        self._refusals = self._refusals + 1 if draft.rejected is not None else 0
        if self._refusals >= REFUSALS_BEFORE_REST:
            rest_s = min(2.0 ** (self._refusals - REFUSALS_BEFORE_REST), LONGEST_REST_S)
            self._resting_until = self._clock() + rest_s
            logger.warning("%d proposals in a row were refused; resting %.0f s", self._refusals, rest_s)


class SubmittedFiles:
    """Proposes the submitted train.py that has waited longest."""

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """Return a draft, rejected with the reason if the file cannot be used, or None without a submitted file."""
        request = next((each for each in turn.requests if each.kind == "submit"), None)
        if request is None:
            return None
        name, _, text = request.body.partition("\n")
        proposal = Proposal(
            ProposerName.HUMAN, f"submitted: {name}", "a user asked for it", (WholeFile(text),), request=request.id
        )
        try:
            return turn.vetting(ProposerName.HUMAN)(proposal)
        except Rejected as error:
            return Draft(proposal, rejected=str(error))


class Combiner:
    """Proposes two near misses together after every `PLATEAU_PROMPT` experiments in a row without a keep.

    Two gains below the noise may together exceed it.
    """

    def __init__(self, briefing: Briefing) -> None:
        self._briefing = briefing

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """Return the best new pair as a draft, or None. A user's idea comes first."""
        journal, fruitless = turn.journal, without_keep(turn.journal.experiments())
        if turn.idea is not None or not fruitless or fruitless % PLATEAU_PROMPT:
            return None

        def edits_of(item: Experiment) -> Sequence[Edit]:
            proposal = journal.proposal(item.id)
            return () if proposal is None else proposal.edits

        return combined(self._briefing.near_misses(journal), edits_of, turn.vetting(ProposerName.OPTIMIZER))


def combined(near: Sequence[NearMiss], edits_of: Callable[[Experiment], Sequence[Edit]], vet: Vet) -> Draft | None:
    """Return the draft of the best pair that `vet` accepts, or None."""
    pairs = sorted(combinations(near, 2), key=lambda pair: -(pair[0].gain + pair[1].gain))
    for one, other in ((first.experiment, second.experiment) for first, second in pairs):
        proposal = Proposal(
            ProposerName.OPTIMIZER,
            f"both {one.number} and {other.number}: {one.title}; {other.title}",
            "neither did harm, and together they may be more than the noise",
            (*edits_of(one), *edits_of(other)),
        )
        try:
            return vet(proposal)
        except Rejected:
            continue
    return None


class OptimizerProposer:
    """Moves knobs. `drafted` returns the fingerprints of candidates that already wait for their turn."""

    def __init__(self, optimizer: Optimizer, drafted: Callable[[], frozenset[str]]) -> None:
        self._optimizer = optimizer
        self._drafted = drafted

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """Return a draft, or a rejected draft if the optimiser finds nothing new, so that the run shows it."""
        validated, drafted = turn.vetting(ProposerName.OPTIMIZER), self._drafted()

        def vet(proposal: Proposal) -> Draft:
            draft = validated(proposal)
            if draft.fingerprint in drafted:
                raise Rejected("the LLM drafted it already")
            return draft

        try:
            return self._optimizer.propose(turn.incumbent, vet)
        except Rejected as error:
            return Draft(Proposal(self._optimizer.name, "nothing to move", "", ()), rejected=str(error))
