"""When a stronger, paid model is asked instead of whose turn it is, and what of its cap is spent. Pure.

It is asked after `PLATEAU` measured experiments in a row without a keep, or when `FAILED` proposals of the usual LLM in
a row became no trial that ran; each time it was asked begins both counts anew. So a plateau costs one question, with
what it takes to repair its answer. A call whose price nobody knows counts with the most that it can cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from researcher.journal.records import Decision, Experiment, PaidCall
from researcher.source.proposal import Proposer
from trainer.jobs import Outcome

PLATEAU = 12
FAILED = 6


def reason_to_escalate(experiments: Sequence[Experiment], calls: Sequence[PaidCall]) -> str | None:
    """Why to ask the stronger model now, in words; None while there is no reason. All are oldest first."""
    last = calls[-1] if calls else None
    since = [item for item in experiments if last is None or (item.id > last.after and not belongs_to(last, item))]
    failed = _failed_in_a_row(since)
    if failed >= FAILED:
        return f"{failed} proposals of the LLM in a row became no trial that ran"
    fruitless = without_keep(since)
    if fruitless >= PLATEAU:
        return f"{fruitless} experiments in a row without a keep"
    return None


def spent(calls: Iterable[PaidCall]) -> float:
    """Of the cap."""
    return sum(call.counted for call in calls)


def belongs_to(call: PaidCall, experiment: Experiment) -> bool:
    """Whether a call's answer became this experiment. One that was lost with its process became none."""
    cost = experiment.cost
    return (
        cost is not None
        and experiment.id == call.after + 1
        and (cost.endpoint, cost.model) == (call.endpoint, call.model)
    )


def without_keep(experiments: Sequence[Experiment]) -> int:
    """How many were measured since the last keep."""
    count = 0
    for item in reversed(experiments):
        if item.decision is Decision.KEEP:
            break
        count += item.was_measured and item.outcome is not Outcome.LOST
    return count


def _failed_in_a_row(experiments: Sequence[Experiment]) -> int:
    """What the machine lost says nothing, nor do a person's files or the optimiser's moves."""
    count = 0
    for item in reversed(experiments):
        if item.proposer == Proposer.LLM and item.outcome not in (None, Outcome.LOST):
            if item.outcome is Outcome.OK:
                break
            count += 1
    return count
