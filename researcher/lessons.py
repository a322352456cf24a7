"""What a night has learned of its edits, without any LLM: what was tried of which kind, what is dead, what came near.

Learned from the journal one experiment at a time, and bounded however long the night: counts, and the last or the best
few of a kind. What is known of knobs is the optimiser's (`researcher.effects`).
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from researcher.experiment import Decision, Experiment
from researcher.proposal import Edit, Proposal, ReplaceFunction, SearchReplace, SetKnobs, WholeFile
from trainer.jobs import Outcome

DEAD_ENDS = 15
NEAR_MISSES = 8
NEAR_SIGMAS = 0.5  # a score no worse than its parent's by more may have been bad luck


class Category(StrEnum):
    """What a change is about; the first that fits counts."""

    SIMPLIFICATION = "simplification"
    BATCH = "data and batch"
    SCHEDULE = "schedule"
    OPTIMISER = "optimiser"
    ARCHITECTURE = "architecture"


_SIMPLER_LINES = -2
_NAMES = {
    Category.BATCH: re.compile(r"batch|seq_?len|dataloader|accum", re.IGNORECASE),
    Category.SCHEDULE: re.compile(r"warm|cooldown|sched|anneal|final_lr|progress", re.IGNORECASE),
    Category.OPTIMISER: re.compile(
        r"adam|muon|optim|momentum|beta|decay|clip|(?:^|_)lr(?:_|$)|learning.rate|\.grad\b|\bgrads?\b", re.IGNORECASE
    ),
}


@dataclass(frozen=True)
class NearMiss:
    """An edit that was not kept, and no worse than its parent but for noise. `gain` is above 0 where it was better."""

    number: int
    title: str
    edits: tuple[Edit, ...]
    gain: float


@dataclass(frozen=True)
class DeadEnd:
    """An edit of the code that came to nothing; `banned` where the same one is refused on other code as well."""

    number: int
    title: str
    reason: str
    banned: bool


@dataclass(frozen=True)
class Tried:
    """Of one category."""

    tried: int
    kept: int


class Lessons:
    """What was learned so far."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[Category, bool]] = Counter()
        self._dead: deque[DeadEnd] = deque(maxlen=DEAD_ENDS)
        self._near: list[NearMiss] = []
        self.fruitless = 0  # experiments measured since the last keep

    def learn(self, item: Experiment, proposal: Proposal | None, parent_scores: Sequence[float]) -> None:
        """From one decided experiment, oldest first. What was rejected or lost to the machine teaches nothing."""
        if item.is_baseline or proposal is None or item.outcome in (None, Outcome.REJECTED, Outcome.LOST):
            return
        kept = item.decision is Decision.KEEP
        self.fruitless = 0 if kept else self.fruitless + 1
        self._counts[category_of(proposal.edits, item.added_lines), kept] += 1
        if kept:
            return
        gain = None if item.score is None or not parent_scores else fmean(parent_scores) - item.score
        if gain is not None and gain > -NEAR_SIGMAS * (item.sigma or 0.0):
            near = [*self._near, NearMiss(item.number, item.title, proposal.edits, gain)]
            self._near = sorted(near, key=lambda miss: -miss.gain)[:NEAR_MISSES]
        elif not moves_knobs_alone(proposal.edits):
            banned = item.outcome in (Outcome.OK, Outcome.UNSCORABLE)
            self._dead.append(DeadEnd(item.number, item.title, item.reason or "", banned))

    @property
    def categories(self) -> dict[Category, Tried]:
        """All of them."""
        return {
            each: Tried(self._counts[each, True] + self._counts[each, False], self._counts[each, True])
            for each in Category
        }

    @property
    def near_misses(self) -> tuple[NearMiss, ...]:
        """The best first."""
        return tuple(self._near)

    @property
    def dead_ends(self) -> tuple[DeadEnd, ...]:
        """The newest last."""
        return tuple(self._dead)


def moves_knobs_alone(edits: Iterable[Edit]) -> bool:
    """True where nothing but knobs is set."""
    return all(isinstance(edit, SetKnobs) for edit in edits)


def category_of(edits: Sequence[Edit], added_lines: int | None) -> Category:
    """By what the edits name, most often; code that got shorter is a simplification, whatever it is about."""
    if added_lines is not None and added_lines <= _SIMPLER_LINES:
        return Category.SIMPLIFICATION
    words = [word for edit in edits for word in _words(edit)]
    found = Counter(
        next((each for each, names in _NAMES.items() if names.search(word)), Category.ARCHITECTURE) for word in words
    )
    return max(Category, key=lambda each: found[each])


def _words(edit: Edit) -> Iterable[str]:
    """What says what an edit is about: the knobs set, the name of a function, the lines that are new."""
    match edit:
        case SetKnobs(knobs):
            return knobs
        case ReplaceFunction(name, definition):
            return [name or definition.strip().partition("\n")[0]]
        case SearchReplace(search, replace):
            before = set(search.splitlines())
            new = [line for line in replace.splitlines() if line.strip() and line not in before]
            return new or search.splitlines()
        case WholeFile():
            return []
