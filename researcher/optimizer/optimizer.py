"""The optimiser: it changes the incumbent's knobs by TPE, or uniformly for comparison.

All its knowledge comes from the journal, so a restart loses nothing; `researcher.optimizer.evidence` selects the scores
that count around an incumbent. TPE first searches knob by knob in the order of the file, in which the shape of the
model comes first. It tries values near the incumbent's on both sides, and continues in a direction that helped. After a
structural keep this search starts again. Then TPE moves one to three knobs over all of their ranges. Two of five moves
explore instead: one to three knobs, drawn uniformly, as `random` does in every move. In 20 runs of a model of recorded
trials, the local search alone never ended in 100 moves, because it restarted at each keep. With a noise of 0.012 these
runs ended at 2.535, and with exploring at 2.517 (`scripts/bench proposers --sigma 0.012`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TypeVar

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from researcher.errors import Rejected
from researcher.optimizer.constraints import repaired
from researcher.optimizer.evidence import Evidence, Measured, Point, structure_of
from researcher.optimizer.knob_effects import KnobMove
from researcher.optimizer.space import (
    distribution,
    from_study,
    to_study,
    untried_near,
    values_and_ranges,
)
from researcher.source.edits import title_of_moves
from researcher.source.knobs import Range
from researcher.source.proposal import KnobValue, Proposal, ProposerName, SetKnobs

DRAWS = 50
DRAWS_A_KNOB = 4
EXPLORED_SHARE = 0.4  # share of TPE's moves
_FREE_KNOBS = (1, 1, 2, 2, 3)


class Sampler(StrEnum):
    """The sampler of the optimiser; `random` draws uniformly, for comparison."""

    TPE = "tpe"
    RANDOM = "random"


_HYPOTHESES = {
    Sampler.TPE: "TPE expects a lower score here, from the experiments so far",
    Sampler.RANDOM: "none: a uniform draw, to compare with",
}
_EXPLORES = "none: a uniform draw of a few knobs, in case something better lies far away"

Vetted = TypeVar("Vetted")
Draw = Callable[[int, random.Random], dict[str, KnobValue]]  # (number of the draw, its random generator) -> a move

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Optimizer:
    """Proposes changes of knobs.

    `context` is the row length in tokens: a step must hold whole device batches of rows.
    """

    def __init__(self, *, seed: int, context: int, sampler: Sampler = Sampler.TPE) -> None:
        self._seed = seed
        self._context = context
        self._sampler = sampler
        self._evidence = Evidence()
        self._ranges: dict[str, Range] = {}
        self._observed: list[tuple[Point, float]] = []  # the points that the study has received
        self._study = optuna.create_study()

    @property
    def name(self) -> str:
        """The proposer's name for its proposals."""
        return ProposerName.RANDOM if self._sampler is Sampler.RANDOM else ProposerName.OPTIMIZER

    def learn(self, fresh: Iterable[Measured], scores: Mapping[int, Sequence[float]]) -> None:
        """Add measured candidates, and all trusted scores so far by experiment, including later repeats."""
        self._evidence.learn(fresh, scores)

    def moves(self) -> list[KnobMove]:
        """Return all measured changes of knobs alone."""
        return self._evidence.moves()

    def tried(self, source: str) -> set[tuple[str, KnobValue]]:
        """Return each change of one knob of the incumbent `source` that was measured, on this code or on other code."""
        values, ranges = values_and_ranges(source)
        points = self._evidence.own(structure_of(source), ranges)
        moved = [
            [(name, value) for name, value in zip(ranges, point, strict=True) if value != values[name]]
            for point in points
        ]
        moved += [
            [(name, new) for name, (old, new) in move.moved.items() if values.get(name) == old]
            for move in self.moves()
            if len(move.moved) == 1
        ]
        return {moves[0] for moves in moved if len(moves) == 1}

    def runs(self, source: str, name: str, value: KnobValue) -> bool:
        """Return True if setting a knob of `source` to another value gives a model that runs and is another one."""
        values, ranges = values_and_ranges(source)
        return repaired(values, values | {name: value}, ranges, self._context) not in (None, values)

    def propose(self, source: str, vet: Callable[[Proposal], Vetted], *, may_explore: bool = True) -> Vetted:
        """Return the result of `vet` for the first move from the incumbent `source` that `vet` accepts.

        `vet` raises Rejected to refuse a move. Raises Rejected if no knob has a range, or if no draw is new.
        """
        values, ranges = values_and_ranges(source)
        if not ranges:
            raise Rejected("train.py has no knob with a range comment, so the optimiser has nothing to move")
        explores = may_explore and self._explores()
        draw = self._uniform(ranges) if explores else self._draws(source, ranges, values)
        hypothesis = _EXPLORES if explores else _HYPOTHESES[self._sampler]
        for number in range(DRAWS):
            moved = draw(number, random.Random(f"{self._seed} {len(self._evidence)} {number}"))
            after = repaired(values, values | moved, ranges, self._context)
            if after is None or after == values:
                continue
            try:
                return vet(_proposal(values, after, self.name, hypothesis))
            except Rejected:
                continue
        raise Rejected(f"the optimiser found nothing new in {DRAWS} draws; widen the ranges of the knobs")

    def _draws(self, source: str, ranges: dict[str, Range], values: dict[str, KnobValue]) -> Draw:
        """Return the function that draws moves away from the incumbent."""
        if self._sampler is Sampler.RANDOM:
            return self._uniform(ranges)
        structure = structure_of(source)
        points = self._evidence.around(structure, ranges, values)
        self._observe(ranges, list(points.items()))
        seen = _extents(ranges, points), _extents(ranges, self._evidence.own(structure, ranges))

        def draw(number: int, chance: random.Random) -> dict[str, KnobValue]:
            near = _near(ranges, values, seen, chance)
            turn = number // DRAWS_A_KNOB
            if turn >= len(near):
                return self._ask(_some(ranges, chance), ranges, chance)
            ((name, there),) = near[turn].items()
            if isinstance(there, CategoricalDistribution):  # a study accepts no part of the choices
                return {name: chance.choice([choice for choice in ranges[name].choices if choice in there.choices])}
            return self._ask(near[turn], ranges, chance)

        return draw

    def _explores(self) -> bool:
        """Return True if the next move explores. The result is the same for the same evidence."""
        chance = random.Random(f"{self._seed} {len(self._evidence)} explores")
        return self._sampler is Sampler.TPE and chance.random() < EXPLORED_SHARE

    @staticmethod
    def _uniform(ranges: dict[str, Range]) -> Draw:
        """Return a function that draws one to three knobs anywhere in their ranges."""

        def draw(_: int, chance: random.Random) -> dict[str, KnobValue]:
            free = _some(ranges, chance)
            drawn = optuna.create_study(sampler=RandomSampler(seed=chance.randrange(2**31))).ask(free)
            return {name: from_study(drawn.params[name], ranges[name]) for name in free}

        return draw

    def _observe(self, ranges: dict[str, Range], observed: list[tuple[Point, float]]) -> None:
        """Update the study. Usually it only needs the new points."""
        if ranges != self._ranges or observed[: len(self._observed)] != self._observed:
            self._study, self._observed, self._ranges = optuna.create_study(), [], ranges
        distributions = {name: distribution(wanted) for name, wanted in ranges.items()}
        fresh = [
            create_trial(
                params={name: to_study(value, ranges[name]) for name, value in zip(ranges, point, strict=True)},
                distributions=distributions,
                value=score,
            )
            for point, score in observed[len(self._observed) :]
        ]
        self._study.add_trials(fresh)
        self._observed = observed

    def _ask(
        self, free: dict[str, BaseDistribution], ranges: dict[str, Range], chance: random.Random
    ) -> dict[str, KnobValue]:
        seed = chance.randrange(2**31)
        self._study.sampler = TPESampler(n_startup_trials=1, seed=seed)
        trial = self._study.ask(free)
        self._study.tell(trial, state=TrialState.FAIL)
        return {name: from_study(trial.params[name], ranges[name]) for name in free}


def _near(
    ranges: Mapping[str, Range],
    values: Mapping[str, KnobValue],
    seen: Iterable[Mapping[str, set[KnobValue]]],
    chance: random.Random,
) -> list[dict[str, BaseDistribution]]:
    """Return each knob with an untried side, in the order of the file, with nearby values on that side.

    `seen` holds the extents measured in all structures, then in this one. If the search restarted with the first knobs
    after every structural keep, it would never reach the last ones.
    """
    found: dict[str, BaseDistribution] = {}
    for extents in seen:
        for name, wanted in ranges.items():
            near = untried_near(wanted, values[name], extents.get(name, ()), chance)
            if near is not None:
                found.setdefault(name, near)
    return [{name: near} for name, near in found.items()]


def _extents(ranges: Iterable[str], points: Collection[Point]) -> dict[str, set[KnobValue]]:
    """Return the lowest and highest value of each knob, or nothing without points."""
    columns = zip(ranges, zip(*points, strict=True), strict=True) if points else ()
    return {name: {min(column), max(column)} for name, column in columns}


def _some(ranges: Mapping[str, Range], chance: random.Random) -> dict[str, BaseDistribution]:
    """Return one to three knobs with their whole ranges."""
    names = chance.sample(list(ranges), min(chance.choice(_FREE_KNOBS), len(ranges)))
    return {name: distribution(ranges[name]) for name in names}


def _proposal(old: Mapping[str, KnobValue], new: Mapping[str, KnobValue], by: str, hypothesis: str) -> Proposal:
    moves = {name: value for name, value in new.items() if value != old[name]}
    return Proposal(by, title_of_moves(old, moves), hypothesis, (SetKnobs(moves),))
