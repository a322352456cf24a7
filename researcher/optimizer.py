"""The optimiser proposer: Optuna's TPE moves a few knobs of the incumbent at a time.

Everything it knows comes from the journal, so a restart loses nothing. First it looks around: knob by knob in the order
of the file, where the shape of the model comes first, near the incumbent's value and on both sides, going on in a
direction that helped. Then one to three knobs are free over all of their ranges. A failed candidate is told as the
worst score seen, for TPE ignores failures and would walk into them again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from researcher.errors import Rejected
from researcher.knobs import Knob, Range, read_knobs
from researcher.proposal import KnobValue, Proposal, Proposer, SetKnobs

SIGNIFICANT_DIGITS = 3
DRAWS = 50
DRAWS_A_KNOB = 4
STEP_SHARES = (0.1, 0.25)
_FREE_KNOBS = (1, 1, 2, 2, 3)

optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Observation:
    """A measured candidate: its knobs and its score, None when it failed."""

    knobs: dict[str, KnobValue]
    score: float | None


class Optimizer:
    """Suggests knob moves. `context` is the row length in tokens: a step must hold whole device batches of rows."""

    def __init__(self, *, seed: int, context: int) -> None:
        self._seed = seed
        self._context = context
        self._ranges: dict[str, Range] = {}
        self._observations: list[Observation] = []
        self._study = optuna.create_study()

    def learn(self, source: str, score: float | None) -> None:
        """Tell it of a measured candidate."""
        knobs = {name: knob.value for name, knob in read_knobs(source).items() if not isinstance(knob.value, tuple)}
        self._observations.append(Observation(knobs, score))
        self._tell(self._observations[-1])

    def propose(self, source: str, check: Callable[[Proposal], object]) -> Proposal:
        """A move from the incumbent `source` that `check` lets pass.

        Raises Rejected when there is no knob with a range, or nothing new was found.
        """
        knobs = {name: knob for name, knob in read_knobs(source).items() if knob.range is not None}
        if not knobs:
            raise Rejected("train.py has no knob with a range comment, so the optimiser has nothing to move")
        self._look_at(knobs)
        for draw in range(DRAWS):
            proposal = self._draw(knobs, draw)
            try:
                check(proposal)
            except Rejected:
                continue
            return proposal
        raise Rejected(f"the optimiser found nothing new in {DRAWS} draws; widen the ranges of the knobs")

    def _look_at(self, knobs: dict[str, Knob]) -> None:
        """Start a new study when the knobs or their ranges are others than before."""
        ranges = {name: knob.range for name, knob in knobs.items() if knob.range is not None}
        if ranges != self._ranges:
            self._ranges = ranges
            self._study = optuna.create_study()
            for observation in self._observations:
                self._tell(observation)

    def _tell(self, observation: Observation) -> None:
        fits = all(
            name in observation.knobs and wanted.holds(observation.knobs[name]) for name, wanted in self._ranges.items()
        )
        score = observation.score if observation.score is not None else self._worst()
        if not self._ranges or not fits or score is None:
            return
        self._study.add_trial(
            create_trial(
                params={name: _to_study(observation.knobs[name], wanted) for name, wanted in self._ranges.items()},
                distributions={name: _distribution(wanted) for name, wanted in self._ranges.items()},
                value=score,
            )
        )

    def _worst(self) -> float | None:
        return max((seen.score for seen in self._observations if seen.score is not None), default=None)

    def _draw(self, knobs: dict[str, Knob], draw: int) -> Proposal:
        chance = random.Random(f"{self._seed} {len(self._observations)} {draw}")
        values = {name: knob.value for name, knob in knobs.items() if not isinstance(knob.value, tuple)}
        near = self._near(values, chance)[draw // DRAWS_A_KNOB : draw // DRAWS_A_KNOB + 1]
        free = near[0] if near else self._some(chance)
        self._study.sampler = TPESampler(n_startup_trials=1, seed=chance.randrange(2**31))
        trial = self._study.ask(free)
        self._study.tell(trial, state=TrialState.FAIL)
        moved = {name: _from_study(trial.params[name], self._ranges[name]) for name in free}
        return _proposal(values, whole_batches(values | moved, self._context))

    def _near(self, values: dict[str, KnobValue], chance: random.Random) -> list[dict[str, BaseDistribution]]:
        """Each knob with an untried side, in the order of the file, and the values near the incumbent's there."""
        found = []
        for name, wanted in self._ranges.items():
            seen = [observation.knobs[name] for observation in self._observations if name in observation.knobs]
            near = _untried_near(wanted, values[name], seen, chance)
            if near is not None:
                found.append({name: near})
        return found

    def _some(self, chance: random.Random) -> dict[str, BaseDistribution]:
        """One to three knobs over the whole of their ranges."""
        names = chance.sample(list(self._ranges), min(chance.choice(_FREE_KNOBS), len(self._ranges)))
        return {name: _distribution(self._ranges[name]) for name in names}


def _untried_near(
    wanted: Range, value: KnobValue, seen: list[KnobValue], chance: random.Random
) -> BaseDistribution | None:
    """A real step from `value` to a side where nothing was seen, or None: from a tenth to a quarter of the range."""
    whole = _distribution(wanted)
    if isinstance(whole, CategoricalDistribution):
        return whole if len(set(seen)) < 2 else None
    assert isinstance(whole, IntDistribution | FloatDistribution)
    at, known = _number(value, wanted), [_number(each, wanted) for each in seen]
    sides = [side for side in (-1, 1) if not any(side * each > side * at for each in known)]
    steps = [step for side in sides if (step := _step(whole, at, side)) is not None]
    return chance.choice(steps) if steps else None


def _step(whole: IntDistribution | FloatDistribution, at: float, side: int) -> BaseDistribution | None:
    scale, unscale = (math.log, math.exp) if whole.log else (float, float)
    width = scale(whole.high) - scale(whole.low)
    ends = sorted(unscale(scale(at) + side * share * width) for share in STEP_SHARES)
    if isinstance(whole, IntDistribution):
        nearest = int(at) + side
        low, high = sorted((nearest if abs(round(end) - at) < 1 else round(end)) for end in ends)
        low, high = max(low, whole.low), min(high, whole.high)
        return IntDistribution(int(low), int(high), log=whole.log) if low <= high else None
    floor, ceiling = max(ends[0], whole.low), min(ends[1], whole.high)
    return FloatDistribution(floor, ceiling, log=whole.log) if floor < ceiling else None


def _number(value: KnobValue, wanted: Range) -> float:
    found = _to_study(value, wanted)
    assert not isinstance(found, str), "only a choice holds texts"
    return found


def whole_batches(knobs: dict[str, KnobValue], context: int) -> dict[str, KnobValue]:
    """`knobs` with the device batch lowered, if need be, so that whole batches of `context` tokens fill a step."""
    total, device = knobs.get("TOTAL_BATCH_SIZE"), knobs.get("DEVICE_BATCH_SIZE")
    if isinstance(total, int) and isinstance(device, int) and total % (device * context):
        return knobs | {"DEVICE_BATCH_SIZE": max(1, total // context)}
    return knobs


def _proposal(old: dict[str, KnobValue], new: dict[str, KnobValue]) -> Proposal:
    moves = {name: value for name, value in new.items() if value != old[name]}
    return Proposal(
        proposer=Proposer.OPTIMIZER,
        title=", ".join(f"{name} {old[name]} -> {value}" for name, value in moves.items()) or "no move",
        hypothesis="TPE expects a lower score here, from the experiments so far",
        edits=(SetKnobs(moves),),
    )


def _distribution(wanted: Range) -> BaseDistribution:
    match wanted.kind:
        case "choice":
            return CategoricalDistribution(wanted.choices)
        case "pow2":
            return IntDistribution(int(wanted.low).bit_length() - 1, int(wanted.high).bit_length() - 1)
        case "int":
            return IntDistribution(int(wanted.low), int(wanted.high), log=wanted.log)
        case "float":
            return FloatDistribution(wanted.low, wanted.high, log=wanted.log)


def _to_study(value: KnobValue, wanted: Range) -> KnobValue:
    return value.bit_length() - 1 if wanted.kind == "pow2" and isinstance(value, int) else value


def _from_study(value: KnobValue, wanted: Range) -> KnobValue:
    if wanted.kind == "pow2" and isinstance(value, int):
        return int(2**value)
    if isinstance(value, float) and wanted.kind == "float":
        return min(max(float(f"{value:.{SIGNIFICANT_DIGITS}g}"), wanted.low), wanted.high)
    return value
