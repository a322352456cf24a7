"""What a proposer is asked for, and what it offers: a proposal with its candidate, or the reason why it has none.

A proposal is validated once, against the incumbent of its time; whoever takes the draft finds the candidate in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from researcher.journal.reader import JournalReader
from researcher.journal.records import Request
from researcher.prompting.transcripts import Exchange
from researcher.proposers.novelty import objection
from researcher.source.proposal import Candidate, Proposal
from researcher.source.validation import validate


@dataclass(frozen=True)
class Draft:
    """Holds either a candidate, or in `rejected` the reason why the proposal never becomes a trial."""

    proposal: Proposal
    candidate: Candidate | None = None
    rejected: str | None = None
    exchanges: tuple[Exchange, ...] = ()

    def __post_init__(self) -> None:
        assert (self.candidate is None) != (self.rejected is None), "a draft is a candidate or a rejection"

    @property
    def fingerprint(self) -> str | None:
        """The candidate's; None where there is none."""
        return None if self.candidate is None else self.candidate.fingerprint


Tick = Callable[[], None]  # serves requests; raises on a stop
Vet = Callable[[Proposal], Draft]  # the draft of a proposal, which may change it on the way; raises Rejected


@dataclass(frozen=True)
class ProposalRequest:
    """Asks for a change of the source `incumbent`.

    `upcoming` holds the names of the proposers whose turns come, of this turn first. `requests` are those of users that
    wait, oldest first.
    """

    journal: JournalReader
    incumbent: str
    upcoming: Sequence[str]
    requests: Sequence[Request]
    tick: Tick

    @property
    def whose(self) -> str:
        """The name of the proposer whose turn it is."""
        return self.upcoming[0]

    @property
    def idea(self) -> Request | None:
        """The user's idea that waits longest, for an LLM to turn into code."""
        return next((request for request in self.requests if request.kind == "idea"), None)

    def vetting(self, by: str) -> Vet:
        """A function that validates a proposal by `by` against the incumbent and what the journal has tried."""
        known = objection(self.journal, by)
        return lambda proposal: Draft(proposal, validate(proposal, self.incumbent, known))


class Proposer(Protocol):
    """Proposes a change, or leaves it to the next proposer."""

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """None where it is not this proposer's turn, or where it has nothing to propose at the moment."""
