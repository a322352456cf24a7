"""Which accepted changes still stand, and which were rolled back."""

from __future__ import annotations

from researcher.journal.records import Confirmation, Experiment


def rolled_back_keeps(experiments: list[Experiment], confirmations: list[Confirmation]) -> dict[int, str]:
    """Keeps that a check threw away, and why: everything kept after what the run fell back to, up to the head."""
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
