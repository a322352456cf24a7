"""Combines two near misses on a plateau: two gains below the noise may together exceed it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from researcher.errors import Rejected
from researcher.journal.records import Experiment
from researcher.proposers.draft import Draft, ProposalRequest, Vet
from researcher.proposers.escalation import without_keep
from researcher.proposers.lessons import NearMiss
from researcher.proposers.prompt_context import PLATEAU, Briefing
from researcher.source.proposal import Edit, Proposal, ProposerName


class Combiner:
    """Proposes two near misses together after every `PLATEAU` experiments in a row without a keep."""

    def __init__(self, briefing: Briefing) -> None:
        self._briefing = briefing

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """Return the best new pair as a draft, or None. A user's idea comes first."""
        journal, fruitless = turn.journal, without_keep(turn.journal.experiments())
        if turn.idea is not None or not fruitless or fruitless % PLATEAU:
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
