"""Selects the edit formats that a model is offered: those in which its answers become trials that run.

A format is dropped only after enough tries, and an edit in a format that was not offered still counts. The selection
changes with the incumbent or every few experiments, so that consecutive prompts share a prefix.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from researcher.journal.reader import JournalReader
from researcher.source.proposal import AnswerStage, Attempt, EditFormat, Proposal, ProposerName, formats_of
from trainer.jobs import Outcome

TRIED_ENOUGH = 8
KEPT_SHARE = 0.5  # share of the best format's rate; a format below it is not offered
COUNTED_AGAIN_EVERY = 20  # experiments
COUNTED_EXPERIMENTS = 120


@dataclass(frozen=True)
class Success:
    """The number of answers that tried an edit format, and the number of these that became trials that ran."""

    tried: int
    ran: int

    @property
    def rate(self) -> float:
        """The share that ran, estimated as if one more had run and one more had failed."""
        return (self.ran + 1) / (self.tried + 2)


def successes(answers: Iterable[tuple[Sequence[Attempt], Outcome | None]]) -> dict[EditFormat, Success]:
    """Count successes from the attempts and the outcome of each experiment. Infrastructure failures do not count."""
    tried: Counter[EditFormat] = Counter()
    ran: Counter[EditFormat] = Counter()
    for attempts, outcome in answers:
        for attempt in attempts:
            if attempt.failed is not None:
                tried.update(attempt.edit_formats)
            elif outcome is not None and not outcome.is_infrastructure:
                tried.update(attempt.edit_formats)
                ran.update(attempt.edit_formats if outcome is Outcome.OK else ())
    return {edit_format: Success(tried[edit_format], ran[edit_format]) for edit_format in EditFormat}


def offered(measured: Mapping[EditFormat, Success]) -> tuple[EditFormat, ...]:
    """Return the edit formats to offer, at least one, in the order of the enum."""
    known = {edit_format: success for edit_format, success in measured.items() if success.tried >= TRIED_ENOUGH}
    best = max((success.rate for success in known.values()), default=0.0)
    return tuple(
        edit_format
        for edit_format in EditFormat
        if edit_format not in known or known[edit_format].rate >= KEPT_SHARE * best
    )


def offered_formats(history: JournalReader, model: str) -> tuple[EditFormat, ...]:
    """Return the edit formats to offer `model` now."""
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
        and item.proposer != ProposerName.ADVISER  # an adviser has no choice of format
    ]
    return offered(
        successes(
            (attempts_of(history.proposal(item.id), item.outcome), item.outcome)
            for item in asked[-COUNTED_EXPERIMENTS:]
        )
    )


def attempts_of(proposal: Proposal | None, outcome: Outcome | None) -> tuple[Attempt, ...]:
    """Return a proposal's attempts. For an older journal, derive the last attempt from the edits."""
    if proposal is None or proposal.attempts or not proposal.edits:
        return () if proposal is None else proposal.attempts
    return (Attempt(formats_of(proposal.edits), AnswerStage.VALIDATE if outcome is Outcome.REJECTED else None),)
