"""The evidence around an incumbent: one score for each set of knob values, the mean of all its measurements.

A structure is the code without the values of its ranged knobs. Scores in the incumbent's structure count unchanged. In
other structures only changes of knobs alone count, shifted by the gain or loss of the edits between the two structures.
A knob that a structure lacks has the incumbent's value. So neither a structural edit nor its crash affects knobs that
the edit did not move.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean

from researcher.optimizer.knob_effects import KnobMove
from researcher.optimizer.space import values_and_ranges
from researcher.source.knobs import Range, around_values, read_literal
from researcher.source.proposal import KnobValue
from researcher.source.validation import fingerprint

_TEMPLATES = 16
_literal = lru_cache(maxsize=1024)(read_literal)

Point = tuple[KnobValue, ...]  # in the order of the ranges


@dataclass(frozen=True)
class Measured:
    """A candidate that ran, with any outcome, and the experiment that its edits apply to."""

    experiment: int
    parent: int | None
    source: str


@dataclass(frozen=True)
class _Seen:
    parent: int | None
    structure: str
    knobs: Mapping[str, KnobValue]


@dataclass
class _Scores:
    """The scores of one point: `own` in the incumbent's structure, `carried` from others.

    A point without scores has failed.
    """

    own: list[float] = field(default_factory=list)
    carried: list[float] = field(default_factory=list)
    is_own: bool = False

    def mean(self) -> float | None:
        counted = self.own if self.is_own else self.carried
        return fmean(counted) if counted else None


@dataclass(frozen=True)
class _Template:
    """A source that was read. It reads other sources that differ only in values, without parsing them again.

    After a restart, parsing thousands of sources would take half a minute.
    """

    structure: str
    knobs: Mapping[str, KnobValue]
    ranges: Mapping[str, Range]
    texts: Sequence[str]

    @classmethod
    def of(cls, source: str) -> _Template:
        return cls(structure_of(source), *values_and_ranges(source), around_values(source))

    def read(self, source: str) -> dict[str, KnobValue] | None:
        """Return the knobs of a source with the same text around its values, or None."""
        found, at = dict(self.knobs), len(self.texts[0])
        if not source.startswith(self.texts[0]):
            return None
        for (name, wanted), text in zip(self.ranges.items(), self.texts[1:], strict=True):
            end = source.find(text, at)
            value = _literal(source[at:end]) if end >= 0 else None
            if value is None or isinstance(value, tuple) or not wanted.holds(value):
                return None
            found[name], at = value, end + len(text)
        return found if at == len(source) else None


class Evidence:
    """All measured candidates and their scores so far, from the journal."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}  # oldest first: a parent comes before its children
        self._scores: Mapping[int, Sequence[float]] = {}
        self._templates: deque[_Template] = deque(maxlen=_TEMPLATES)

    def __len__(self) -> int:
        return len(self._seen)

    def learn(self, fresh: Iterable[Measured], scores: Mapping[int, Sequence[float]]) -> None:
        """Add candidates. `scores` are all trusted scores by experiment; a candidate without one has failed."""
        for measured in fresh:
            self._seen[measured.experiment] = _Seen(measured.parent, *self._read(measured.source))
        self._scores = scores

    def own(self, structure: str, names: Iterable[str]) -> set[Point]:
        """Return all points measured in a structure, with any outcome."""
        return {
            tuple([seen.knobs[name] for name in names]) for seen in self._seen.values() if seen.structure == structure
        }

    def around(
        self, structure: str, ranges: Mapping[str, Range], values: Mapping[str, KnobValue]
    ) -> dict[Point, float]:
        """Return the score of each point inside the ranges, converted to the structure.

        A failed point has the worst of all scores. The result is empty before the first score. `values` are the
        incumbent's knobs.
        """
        levels, points = self._levels(), dict[Point, _Scores]()
        for experiment, seen in self._seen.items():
            is_own = seen.structure == structure
            if not is_own and not (self._moved_knobs_alone(seen) and {structure, seen.structure} <= levels.keys()):
                continue
            point = tuple([seen.knobs.get(name, values[name]) for name in ranges])
            if not all(wanted.holds(value) for wanted, value in zip(ranges.values(), point, strict=True)):
                continue
            scores, found = self._scores.get(experiment, ()), points.setdefault(point, _Scores())
            if is_own:
                found.is_own = True
                found.own += scores
            else:
                found.carried += [score - levels[seen.structure] + levels[structure] for score in scores]
        means = {point: scores.mean() for point, scores in points.items()}
        worst = max((mean for mean in means.values() if mean is not None), default=None)
        return {} if worst is None else {point: worst if mean is None else mean for point, mean in means.items()}

    def moves(self) -> list[KnobMove]:
        """Return all changes of knobs alone, oldest first, with the score's rise over the parent's."""
        found = []
        for experiment, seen in self._seen.items():
            parent = None if seen.parent is None else self._seen.get(seen.parent)
            if parent is None or parent.structure != seen.structure:
                continue
            values = ((name, (parent.knobs[name], value)) for name, value in seen.knobs.items() if name in parent.knobs)
            scores, before = self._scores.get(experiment), self._scores.get(seen.parent or 0)
            worse_by = fmean(scores) - fmean(before) if scores and before else None
            found.append(KnobMove({name: pair for name, pair in values if pair[0] != pair[1]}, worse_by))
        return found

    def _read(self, source: str) -> tuple[str, Mapping[str, KnobValue]]:
        """Return the structure and the knobs of a source."""
        for template in self._templates:
            if (knobs := template.read(source)) is not None:
                return template.structure, knobs
        self._templates.appendleft(_Template.of(source))
        return self._templates[0].structure, self._templates[0].knobs

    def _levels(self) -> dict[str, float]:
        """Return how much higher each structure scores than the first one, by the first scored edit that led to it."""
        levels: dict[str, float] = {}
        for experiment, seen in self._seen.items():
            if seen.structure in levels or not self._scores.get(experiment):
                continue
            parent = None if seen.parent is None else self._seen.get(seen.parent)
            if seen.parent is None:
                levels[seen.structure] = 0.0
            elif parent is not None and parent.structure in levels and self._scores.get(seen.parent):
                gained = fmean(self._scores[experiment]) - fmean(self._scores[seen.parent])
                levels[seen.structure] = levels[parent.structure] + gained
        return levels

    def _moved_knobs_alone(self, seen: _Seen) -> bool:
        """Return True for a baseline, and for a candidate that has its parent's structure."""
        parent = None if seen.parent is None else self._seen.get(seen.parent)
        return seen.parent is None or (parent is not None and parent.structure == seen.structure)


def structure_of(source: str) -> str:
    """Return a hash of the source without the values of its ranged knobs, comments and layout."""
    return fingerprint("0".join(around_values(source)))
