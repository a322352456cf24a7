"""Which guards are taken away in a run: those that changed, up to a number, and a fifth of the others in turn.

Pure: facts of git go in, names and reasons come out. A guard belongs to one fifth for as long as it has its name, so
five turns in a row take every guard away, also where guards are added and removed in between. `tests.mutations.history`
asks git for the facts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tests.mutations.guards import Guard

TURNS = 5
MOST = 250  # about ten minutes on two cores


@dataclass(frozen=True)
class Facts:
    """What git says of a checkout: the number of its turn, and what changed since `base`.

    `base` is words for a person. `paths` are files from the root of the repository, `entries` the names of the guards
    whose lines in the table are new or changed. Without history both are empty.
    """

    turn: int
    base: str
    paths: frozenset[str] = frozenset()
    entries: frozenset[str] = frozenset()


def chosen(guards: Iterable[Guard], facts: Facts | None) -> dict[str, str]:
    """The names of the guards to take away, each with the reason: every guard where there are no facts.

    If more than MOST changed, those whose turn comes last wait for it.
    """
    by_name = {guard.name: guard for guard in guards}
    reasons = {name: _reason(guard, facts) for name, guard in by_name.items()}
    found = {name: reason for name, reason in reasons.items() if reason is not None}
    if facts is None or len(found) <= MOST:
        return found
    soonest = sorted(found, key=lambda name: ((fifth(by_name[name]) - facts.turn) % TURNS, name))
    return {name: found[name] for name in soonest[:MOST]}


def fifth(guard: Guard) -> int:
    """The turn of a guard, 0 to 4, by its name alone."""
    return zlib.crc32(guard.name.encode()) % TURNS


def _reason(guard: Guard, facts: Facts | None) -> str | None:
    if facts is None:
        return "there is no repository"
    if guard.name in facts.entries:
        return "its entry changed"
    test = f"tests/{guard.test.partition('::')[0]}"
    if changed := {guard.file, test} & facts.paths:
        return f"changed: {', '.join(sorted(changed))}"
    return "its turn" if fifth(guard) == facts.turn % TURNS else None


def told(reasons: Mapping[str, str], of: int, facts: Facts | None) -> list[str]:
    """Lines for the head of a run: how many guards are taken away, which, and why."""
    where = "outside of a repository" if facts is None else f"turn {facts.turn % TURNS} of {TURNS}, {facts.base}"
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    lines = [f"  {reason}: {'; '.join(names)}" for reason, names in sorted(by_reason.items())]
    if len(reasons) == MOST:
        lines.append(f"  more changed than the {MOST} that a run takes away: the others wait for their turn")
    return [f"guards taken away: {len(reasons)} of {of} ({where})", *lines]
