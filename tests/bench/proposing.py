"""One simulated run of a proposer in a world: the real proposers, the real validation, and the rule that keeps.

Not simulated: claims, structural edits, an LLM. The noise of a trial depends only on the run's seed and on its knobs,
so all proposers share it in runs with the same seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from researcher.decision.rules import REMEASURE_EVERY, Rule, decide, is_banned
from researcher.errors import Rejected
from researcher.journal.records import Decision
from researcher.optimizer.evidence import Measured
from researcher.optimizer.optimizer import Optimizer, Sampler, Vetted
from researcher.optimizer.space import values_and_ranges
from researcher.source.proposal import Candidate, KnobValue, Proposal
from researcher.source.validation import fingerprint, validate
from tests.bench.scripted_moves import ScriptedMoves
from tests.bench.table import World
from trainer.jobs import Outcome

BASELINE_REPEATS = 5
ADVISED_SHARE = 0.3


class Moving(Protocol):
    """A proposer with the methods of `researcher.optimizer.optimizer.Optimizer`."""

    def learn(self, fresh: Iterable[Measured], scores: Mapping[int, Sequence[float]]) -> None: ...

    def propose(self, source: str, vet: Callable[[Proposal], Vetted]) -> Vetted: ...


class Uninformed:
    """The optimiser, with a share of its moves made by an adviser that draws uniformly. It learns from all moves."""

    def __init__(self, *, seed: int, context: int) -> None:
        self._optimizer = Optimizer(seed=seed, context=context)
        self._adviser = Optimizer(seed=seed, context=context, sampler=Sampler.RANDOM)
        self._chance = Random(seed)

    def learn(self, fresh: Iterable[Measured], scores: Mapping[int, Sequence[float]]) -> None:
        """Pass every result to both."""
        measured = list(fresh)
        for one in (self._optimizer, self._adviser):
            one.learn(measured, scores)

    def propose(self, source: str, vet: Callable[[Proposal], Vetted]) -> Vetted:
        """Return a proposal of one of the two."""
        return (self._adviser if self._chance.random() < ADVISED_SHARE else self._optimizer).propose(source, vet)


def _random(seed: int, context: int) -> Moving:
    return Optimizer(seed=seed, context=context, sampler=Sampler.RANDOM)


def _optimizer(seed: int, context: int) -> Moving:
    return Optimizer(seed=seed, context=context)


def _hybrid(seed: int, context: int) -> Moving:
    return Uninformed(seed=seed, context=context)


def _llm(seed: int, context: int) -> Moving:
    return ScriptedMoves(seed=seed, context=context)


RANDOM, OPTIMIZER, HYBRID = "random", "optimizer", "hybrid, uninformed"
PROPOSERS: dict[str, Callable[[int, int], Moving]] = {
    RANDOM: _random,
    OPTIMIZER: _optimizer,
    HYBRID: _hybrid,
    "llm, scripted": _llm,
}


@dataclass(frozen=True)
class ModelledRun:
    """The result of a run: the incumbent's score without noise after each trial (from 0, the start, on), which trials
    failed, the seconds of all trials in the model, and the real processor seconds of proposing."""

    held: tuple[float, ...]
    failed: tuple[bool, ...]
    trials_s: float
    proposing_s: float


class SimulatedRun:
    """One run of a proposer in the world."""

    def __init__(self, world: World, moving: Moving, seed: int) -> None:
        self._world, self._moving, self._seed = world, moving, seed
        self._incumbent, self._at = world.source, 0
        self._scores: dict[int, list[float]] = {}
        self._seen = {fingerprint(world.source)}
        self._not_kept: dict[str, list[Outcome]] = {}
        self._since = 0
        self._scores[0] = [self._measured(_knobs(world.source), each) for each in range(BASELINE_REPEATS)]
        self._moving.learn([Measured(0, None, world.source)], self._scores)

    def run(self, trials: int) -> ModelledRun:
        """Run all trials; a proposer without a further proposal keeps its incumbent."""
        held, failed, trials_s, proposing_s = [self._held()], [], 0.0, 0.0
        for number in range(1, trials + 1):
            began_s = time.process_time()
            try:
                candidate = self._moving.propose(self._incumbent, self._validated)
            except Rejected:
                break
            proposing_s += time.process_time() - began_s
            trials_s += self._world.wall_s(_knobs(candidate.source))
            failed.append(self._try(number, candidate))
            held.append(self._held())
        return ModelledRun((*held, *[held[-1]] * (trials + 1 - len(held))), tuple(failed), trials_s, proposing_s)

    def _validated(self, proposal: Proposal) -> Candidate:
        return validate(proposal, self._incumbent, self._tried)

    def _tried(self, candidate: Candidate) -> str | None:
        if candidate.fingerprint in self._seen:
            return "the same code was tried before"
        return "its change was tried before" if is_banned(self._not_kept.get(candidate.change, [])) else None

    def _try(self, number: int, candidate: Candidate) -> bool:
        """Measure a candidate and decide; True if it failed."""
        values = _knobs(candidate.source)
        failed = self._world.truth(values) is None
        score = None if failed else self._measured(values, 0)
        outcome = Outcome.TIMED_OUT if failed else Outcome.OK
        ruling = decide(
            outcome,
            score,
            parent_scores=self._scores[self._at],
            parent_is_incumbent=True,
            added_lines=candidate.added_lines,
            sigma=self._world.sigma,
            rule=Rule.WALK,
            detail="",
        )
        self._seen.add(candidate.fingerprint)
        self._scores |= {} if score is None else {number: [score]}
        measured = Measured(number, self._at, candidate.source)
        if ruling.decision is Decision.KEEP:
            self._incumbent, self._at, self._since = candidate.source, number, 0
        else:
            self._not_kept.setdefault(candidate.change, []).append(outcome)
            self._since += 1
        if self._since >= REMEASURE_EVERY:
            self._scores[self._at].append(self._measured(_knobs(self._incumbent), len(self._scores[self._at])))
            self._since = 0
        self._moving.learn([measured], self._scores)
        return failed

    def _measured(self, values: dict[str, KnobValue], turn: int) -> float:
        truth = self._world.truth(values)
        assert truth is not None, "only what runs is measured"
        return truth + Random(f"{self._seed} {sorted(values.items())} {turn}").gauss(0, self._world.sigma)

    def _held(self) -> float:
        truth = self._world.truth(_knobs(self._incumbent))
        assert truth is not None, "an incumbent has run"
        return truth


def _knobs(source: str) -> dict[str, KnobValue]:
    return values_and_ranges(source)[0]
