"""Two near misses at once, on a plateau: what neither could show alone may show together. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from researcher.errors import Rejected
from researcher.journal.records import Experiment
from researcher.proposers.lessons import NearMiss
from researcher.source.proposal import Edit, Proposal, Proposer


def combined(
    near: Sequence[NearMiss], edits_of: Callable[[Experiment], Sequence[Edit]], check: Callable[[Proposal], object]
) -> Proposal | None:
    """The best pair that `check` lets pass (it raises Rejected otherwise); None where there is none."""
    pairs = sorted(combinations(near, 2), key=lambda pair: -(pair[0].gain + pair[1].gain))
    for one, other in ((first.experiment, second.experiment) for first, second in pairs):
        proposal = Proposal(
            Proposer.OPTIMIZER,
            f"both {one.number} and {other.number}: {one.title}; {other.title}",
            "neither did harm, and together they may be more than the noise",
            (*edits_of(one), *edits_of(other)),
        )
        try:
            check(proposal)
        except Rejected:
            continue
        return proposal
    return None
