"""Which forms of edits a model is offered: those in which its answers become trials that run, measured in the journal.

No lane is dropped before it was tried often enough, and one that is used though it is not offered still counts. What is
offered changes with the incumbent, or every few experiments, so that prompts between keep their beginning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from researcher.journal.reader import JournalReader
from researcher.source.proposal import AnswerStage, Attempt, EditFormat, Proposal, ProposerName, formats_of
from trainer.jobs import Outcome

TRIED_ENOUGH = 8
KEPT_SHARE = 0.5  # of the best lane's rate: what is below is not offered
COUNTED_AGAIN_EVERY = 20  # experiments
COUNTED_EXPERIMENTS = 120


@dataclass(frozen=True)
class Success:
    """How many answers tried a lane, and how many of them became trials that ran."""

    tried: int
    ran: int

    @property
    def rate(self) -> float:
        """The share that ran, as if one had run and one had not before."""
        return (self.ran + 1) / (self.tried + 2)


def successes(answers: Iterable[tuple[Sequence[Attempt], Outcome | None]]) -> dict[EditFormat, Success]:
    """From the attempts of each experiment and what became of it; what the machine lost says nothing."""
    tried: Counter[EditFormat] = Counter()
    ran: Counter[EditFormat] = Counter()
    for attempts, outcome in answers:
        for attempt in attempts:
            if attempt.failed is not None:
                tried.update(attempt.lanes)
            elif outcome is not None and not outcome.is_infrastructure:
                tried.update(attempt.lanes)
                ran.update(attempt.lanes if outcome is Outcome.OK else ())
    return {lane: Success(tried[lane], ran[lane]) for lane in EditFormat}


def offered(measured: Mapping[EditFormat, Success]) -> tuple[EditFormat, ...]:
    """The lanes to offer, at least one, in the order of their kind."""
    known = {lane: success for lane, success in measured.items() if success.tried >= TRIED_ENOUGH}
    best = max((success.rate for success in known.values()), default=0.0)
    return tuple(lane for lane in EditFormat if lane not in known or known[lane].rate >= KEPT_SHARE * best)


def offered_lanes(history: JournalReader, model: str) -> tuple[EditFormat, ...]:
    """The lanes to offer `model` now."""
    run, experiments = history.run(), history.experiments()
    last = experiments[-1].id if experiments else 0
    incumbent = run.incumbent or 0 if run else 0
    until = max(incumbent, last // COUNTED_AGAIN_EVERY * COUNTED_AGAIN_EVERY)
    asked = [
        item
        for item in experiments
        if item.cost is not None
        and item.cost.model == model
        and item.id <= until
        and item.proposer != ProposerName.ADVISER  # who has no choice
    ]
    return offered(
        successes(
            (attempts_of(history.proposal(item.id), item.outcome), item.outcome)
            for item in asked[-COUNTED_EXPERIMENTS:]
        )
    )


def attempts_of(proposal: Proposal | None, outcome: Outcome | None) -> tuple[Attempt, ...]:
    """A proposal's attempts; from an older journal the last of them, as far as its edits tell."""
    if proposal is None or proposal.attempts or not proposal.edits:
        return () if proposal is None else proposal.attempts
    return (Attempt(formats_of(proposal.edits), AnswerStage.VALIDATE if outcome is Outcome.REJECTED else None),)
