"""The request to a proposer, and its result: a proposal with its candidate, or with the reason for its rejection.

A proposal is validated once, against the incumbent of that time. The draft carries the validated candidate.
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
    """A proposal with its candidate, or in `rejected` the reason why it never becomes a trial.

    `unanswered` is the fault of an LLM's server that gave no answer; then the proposal is empty.
    """

    proposal: Proposal
    candidate: Candidate | None = None
    rejected: str | None = None
    unanswered: str | None = None
    exchanges: tuple[Exchange, ...] = ()

    def __post_init__(self) -> None:
        ends = (self.candidate, self.rejected, self.unanswered)
        assert sum(end is not None for end in ends) == 1, "a draft is a candidate, a rejection or no answer"

    @property
    def fingerprint(self) -> str | None:
        """The candidate's fingerprint, or None without a candidate."""
        return None if self.candidate is None else self.candidate.fingerprint


Tick = Callable[[], None]  # serves requests; raises on a stop
Vet = Callable[[Proposal], Draft]  # validates a proposal, possibly with changes; raises Rejected


@dataclass(frozen=True)
class ProposalRequest:
    """A request for a change of the source `incumbent`.

    `upcoming` holds the names of the proposers of the next experiments, this one's first. `requests` are the waiting
    requests of users, oldest first.
    """

    journal: JournalReader
    incumbent: str
    upcoming: Sequence[str]
    requests: Sequence[Request]
    tick: Tick

    @property
    def proposer_name(self) -> str:
        """The name of the proposer whose turn it is."""
        return self.upcoming[0]

    @property
    def idea(self) -> Request | None:
        """The user's idea that has waited longest, for an LLM to turn into code."""
        return next((request for request in self.requests if request.kind == "idea"), None)

    def vetting(self, by: str) -> Vet:
        """Return a function that validates a proposal of `by` against the incumbent and the journal."""
        known = objection(self.journal, by)
        return lambda proposal: Draft(proposal, validate(proposal, self.incumbent, known))


class Proposer(Protocol):
    """Proposes a change, or passes the turn to the next proposer."""

    def propose(self, turn: ProposalRequest) -> Draft | None:
        """Return a draft, or None if the turn is another proposer's or there is nothing to propose now."""
