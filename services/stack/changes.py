"""The changes that one `up` made and the time of its parts, from the containers before and after. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.compose import Container
from services.views.render import clock_text

NOTICED_S = 1.0


def changes(before: Sequence[Container], after: Sequence[Container]) -> list[str]:
    """Return `SERVICE started`, `recreated`, `started again` or `removed` for each change; one-shots run at every `up`
    and count only when recreated."""
    old = {each.service: each for each in before}
    lines = []
    for each in after:
        known = old.get(each.service)
        if known is None:
            lines.append(f"{each.service} started")
        elif known.id != each.id:
            lines.append(f"{each.service} recreated")
        elif known.started_at != each.started_at and not each.is_one_shot:
            lines.append(f"{each.service} started again")
    gone = {each.service for each in before} - {each.service for each in after}
    return lines + [f"{service} removed" for service in sorted(gone)]


def times(began: datetime, ended: datetime, after: Sequence[Container]) -> str:
    """Return `images 2:50, then healthy after 0:52 (data 0:31, model 0:10)`; it names one-shots of `NOTICED_S` seconds
    or more."""
    fresh = [each for each in after if each.started_at >= began]
    up_from = min((each.started_at for each in fresh), default=ended)
    spent = {
        each.service: (each.finished_at - each.started_at).total_seconds()
        for each in fresh
        if each.is_one_shot and each.finished_at >= each.started_at
    }
    named = ", ".join(f"{name} {clock_text(spent_s)}" for name, spent_s in spent.items() if spent_s >= NOTICED_S)
    images, healthy = (up_from - began).total_seconds(), (ended - up_from).total_seconds()
    return f"images {clock_text(images)}, then healthy after {clock_text(healthy)}" + (f" ({named})" if named else "")
