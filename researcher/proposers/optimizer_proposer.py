"""The optimiser as a proposer: it moves knobs if no earlier proposer has a draft."""

from __future__ import annotations

from collections.abc import Callable

from researcher.errors import Rejected
from researcher.optimizer.optimizer import Optimizer
from researcher.proposers.draft import Draft, ProposalRequest
from researcher.source.proposal import Proposal, ProposerName


class OptimizerProposer:
    """Asks `optimizer`. `drafted` returns the fingerprints of candidates that already wait for their turn."""

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
