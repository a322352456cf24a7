"""Separates keeps that still stand from keeps that were rolled back."""

from __future__ import annotations

from researcher.journal.records import Confirmation, Experiment


def rolled_back_keeps(experiments: list[Experiment], confirmations: list[Confirmation]) -> dict[int, str]:
    """Return the ids of rolled-back keeps with the reason.

    A confirmation rolls back each keep from its head down to the version that the run returned to.
    """
    rolled_back: dict[int, str] = {}
    if not any(each.rolled_back for each in confirmations):
        return rolled_back
    parents = {item.id: item.parent for item in experiments}
    for confirmation in confirmations:
        if confirmation.rolled_back:
            at: int | None = confirmation.head
            while at is not None and at != confirmation.base and parents.get(at) is not None:
                rolled_back.setdefault(at, confirmation.reason or confirmation.kind)
                at = parents[at]
    return rolled_back
