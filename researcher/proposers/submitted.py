"""Proposes files that users submit, unchanged and before all other proposals."""

from __future__ import annotations

from researcher.errors import Rejected
from researcher.proposers.draft import Draft, ProposalRequest
from researcher.source.proposal import Proposal, ProposerName, WholeFile


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
