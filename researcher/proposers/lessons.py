"""What a run has learned from its edits, computed without an LLM: counts by category, dead ends and near misses.

The lessons grow with each experiment of the journal. The part that prompts show stays bounded: counts, and the latest
or best few of each kind. `researcher.optimizer.knob_effects` holds the effects of knobs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from researcher.journal.records import Decision, Experiment
from researcher.source.proposal import Edit, Proposal, ReplaceFunction, SearchReplace, SetKnobs, WholeFile
from trainer.jobs import Outcome

DEAD_ENDS = 15
NEAR_MISSES = 8
NOTHING_LEARNED = (None, Outcome.REJECTED, Outcome.UNANSWERED, Outcome.LOST)
NEAR_SIGMAS = 0.5  # sigmas; a score within this distance above its parent's may be bad luck


class Category(StrEnum):
    """The subject of a change; the first matching category counts."""

    SIMPLIFICATION = "simplification"
    BATCH = "data and batch"
    SCHEDULE = "schedule"
    OPTIMISER = "optimiser"
    ARCHITECTURE = "architecture"


Scores = Mapping[int, Sequence[float]]
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
    """An edit that was not kept, and was no worse than its parent beyond the noise. A `gain` above 0 means better."""

    experiment: Experiment
    gain: float


@dataclass(frozen=True)
class Tried:
    """The number of tried and of kept changes of one category."""

    tried: int
    kept: int


@dataclass(frozen=True)
class _Seen:
    item: Experiment
    category: Category
    moves_knobs_alone: bool


class Lessons:
    """Collects decided experiments. Scores are passed with each query, so a restart changes no result."""

    def __init__(self) -> None:
        self._seen: list[_Seen] = []

    def learn(self, item: Experiment, proposal: Proposal | None) -> None:
        """Learn from one decided experiment; pass them oldest first. Those in `NOTHING_LEARNED` teach nothing."""
        if item.is_baseline or proposal is None or item.outcome in NOTHING_LEARNED:
            return
        category = category_of(proposal.edits, item.added_lines)
        self._seen.append(_Seen(item, category, moves_knobs_alone(proposal.edits)))

    def categories(self) -> dict[Category, Tried]:
        """Return the counts of all categories that were tried."""
        tried = Counter(seen.category for seen in self._seen)
        kept = Counter(seen.category for seen in self._seen if _was_kept(seen))
        return {each: Tried(tried[each], kept[each]) for each in Category if tried[each]}

    def near_misses(self, scores: Scores, sigma: float) -> list[NearMiss]:
        """Return the near misses, best first. `scores` are all trusted scores by experiment, `sigma` is their noise."""
        gains = ((seen.item, _gain(seen.item, scores)) for seen in self._seen if not _was_kept(seen))
        near = [NearMiss(item, gain) for item, gain in gains if gain is not None and gain > -NEAR_SIGMAS * sigma]
        return sorted(near, key=lambda miss: -miss.gain)[:NEAR_MISSES]

    def dead_ends(self, scores: Scores, sigma: float, before: int) -> list[Experiment]:
        """Return code edits before the experiment `before` that brought no gain, the newest last."""
        found: list[Experiment] = []
        for seen in reversed(self._seen):
            gain = _gain(seen.item, scores)
            is_near = gain is not None and gain > -NEAR_SIGMAS * sigma
            if seen.item.number < before and not (_was_kept(seen) or seen.moves_knobs_alone or is_near):
                found.append(seen.item)
            if len(found) == DEAD_ENDS:
                break
        return found[::-1]


def _was_kept(seen: _Seen) -> bool:
    return seen.item.decision is Decision.KEEP


def _gain(item: Experiment, scores: Scores) -> float | None:
    """Return the gain of its mean score over its parent's, or None if a score is missing."""
    own, before = scores.get(item.id), scores.get(item.parent or 0)
    return fmean(before) - fmean(own) if own and before else None


def moves_knobs_alone(edits: Iterable[Edit]) -> bool:
    """Return True if the edits only set knobs."""
    return all(isinstance(edit, SetKnobs) for edit in edits)


def category_of(edits: Sequence[Edit], added_lines: int | None) -> Category:
    """Return the category that the names in the edits match most often. Code that got shorter is a simplification."""
    if added_lines is not None and added_lines <= _SIMPLER_LINES:
        return Category.SIMPLIFICATION
    words = [word for edit in edits for word in _words(edit)]
    found = Counter(
        next((each for each, names in _NAMES.items() if names.search(word)), Category.ARCHITECTURE) for word in words
    )
    return max(Category, key=lambda each: found[each])


def _words(edit: Edit) -> Iterable[str]:
    """Return the texts that show the subject of an edit: knob names, a function's name, or new lines."""
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
