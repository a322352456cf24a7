"""Separates keeps that still stand from keeps that were rolled back."""

from __future__ import annotations

from researcher.journal.records import Confirmation, Experiment


def rolled_back_keeps(experiments: list[Experiment], confirmations: list[Confirmation]) -> dict[int, str]:
    """Return the ids of rolled-back keeps with the reason.

    A confirmation rolls back each keep from its head down to the version that the run returned to.
    """
    fallen: dict[int, str] = {}
    if not any(check.fell for check in confirmations):
        return fallen
    parents = {item.id: item.parent for item in experiments}
    for check in confirmations:
        if check.fell:
            at: int | None = check.head
            while at is not None and at != check.base and parents.get(at) is not None:
                fallen.setdefault(at, check.reason or check.kind)
                at = parents[at]
    return fallen
