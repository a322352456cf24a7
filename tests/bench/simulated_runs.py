"""Simulated runs: the real decision functions, called as the loop calls them, in worlds whose truth is known.

Scores are in s, the standard deviation of one code over seeds. A run consists of the search, the claims at checkpoints,
at jumps and at the end, the roll-backs, the incumbent's repeated measurements, and sigma pooled from every repeat; a
test replays a run of the real loop and finds the same decisions. Not simulated: failures, restarts, trials repeated
because of the machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from random import Random
from statistics import fmean

from researcher.decision.rules import (
    CLAIM_PAIRS,
    Head,
    Rule,
    RunFacts,
    decide,
    judge_claim,
    next_confirmation,
    pooled_sigma,
)
from researcher.journal.records import Claim, ConfirmationKind, ConfirmationVerdict, Decision
from trainer.jobs import Outcome

BASELINE = 500.0  # the true score of the untouched subject: 1.8 bits per byte at a sigma of 0.0036
BASELINE_REPEATS = 5
TRIAL_HOURS = 330 / 3600  # of a trial of a GPU profile
SIGMA_FLOOR = 0.5  # half of the true sigma: a profile's floor is a guess, and one too high would favour the claims
LONGER_CODE = range(1, 21)  # lines that every second candidate adds


@dataclass(frozen=True)
class World:
    """`gain` draws a candidate's true gain over its incumbent; `noise` draws the noise in the score of the n-th
    trial."""

    name: str
    gain: Callable[[Random], float]
    noise: Callable[[Random, int], float]


@dataclass(frozen=True)
class Candidate:
    """A proposal: its true gain over the incumbent, and the number of lines that it adds."""

    gain: float
    added_lines: int


@dataclass(frozen=True)
class SimulatedResult:
    """The result that a run reports, and its truth. Gains are over the untouched subject.

    A greedy run claims each of its keeps and the score of its head.
    """

    keeps: int
    claims: int
    false_claims: int
    gain: float
    true_gain: float
    trials: int


@dataclass(eq=False)
class Code:
    """Kept code: its true score, every score measured, and the facts of its first score, None for the baseline."""

    truth: float
    scores: list[float]
    first: Head | None = None


class SimulatedRun:
    """One run under a rule. `measure` returns the score of the next trial, of code with that true score."""

    def __init__(
        self,
        rule: Rule,
        measure: Callable[[float], float],
        *,
        floor: float = SIGMA_FLOOR,
        trial_hours: float = TRIAL_HOURS,
    ) -> None:
        self.decisions: list[Decision] = []
        self.verdicts: list[ConfirmationVerdict] = []
        self._rule = rule
        self._measure = measure
        self._floor = floor
        self._trial_hours = trial_hours
        self._trials = self._false_claims = 0
        self._claimed = self._firsts_since_incumbent = 0  # _claimed: decisions before the last claim
        self._reported_gain = 0.0
        self._baseline = self._incumbent = self._confirmed = Code(BASELINE, [])
        self._repeated: list[Code] = []
        self._sigma = self._repeat(*[self._baseline] * BASELINE_REPEATS)

    def run(self, experiments: int, propose: Callable[[], Candidate]) -> SimulatedResult:
        """Simulate the run to its end."""
        for left in reversed(range(experiments)):
            self._try(propose())
            if self._rule is Rule.WALK:
                self._confirm(left)
        keeps = self.decisions.count(Decision.KEEP)
        if self._rule is Rule.GREEDY:
            gain = fmean(self._baseline.scores) - fmean(self._incumbent.scores)
            return SimulatedResult(
                keeps, keeps, self._false_claims, gain, BASELINE - self._incumbent.truth, self._trials
            )
        claims = self.verdicts.count(ConfirmationVerdict.CONFIRMED)
        true_gain = BASELINE - self._confirmed.truth
        return SimulatedResult(keeps, claims, self._false_claims, self._reported_gain, true_gain, self._trials)

    def _try(self, candidate: Candidate) -> None:
        parent = self._incumbent
        code = Code(parent.truth - candidate.gain, [])
        score = self._score(code)
        ruling = decide(
            Outcome.OK,
            score,
            parent_scores=parent.scores,
            parent_is_incumbent=parent is self._incumbent,
            added_lines=candidate.added_lines,
            sigma=self._sigma,
            rule=self._rule,
            detail="",
        )
        self.decisions.append(ruling.decision)
        self._firsts_since_incumbent += 1
        if ruling.decision is Decision.KEEP:
            code.first = Head(score, fmean(parent.scores), self._sigma)
            self._incumbent = code
            self._firsts_since_incumbent = 0
            self._false_claims += self._rule is Rule.GREEDY and candidate.gain <= 0

    def _confirm(self, left: int) -> None:
        """Do the confirmations that the rules demand before the next proposal."""
        while (due := next_confirmation(self._facts(left))) is not None:
            if due.kind is ConfirmationKind.CLAIM:
                self._claim()
            else:
                self._sigma = self._repeat(self._incumbent)
                self._firsts_since_incumbent = 0

    def _facts(self, left: int) -> RunFacts:
        decisions = self.decisions[self._claimed :]
        return RunFacts(
            rule=self._rule,
            outcomes=(),
            incumbent_failed=False,
            trials_without_incumbent=self._firsts_since_incumbent,
            machine_changed=False,
            head=None if self._incumbent is self._confirmed else self._incumbent.first,
            is_asked_for=False,
            goal=None if left else "all experiments are measured",
            experiments_left=left,
            decisions=decisions,
            trial_hours=len(decisions) * self._trial_hours,
        )

    def _claim(self) -> None:
        head, base = self._incumbent, self._confirmed
        claim = self._decided_claim(head, base)
        assert claim.verdict is not None
        self.verdicts.append(claim.verdict)
        self._claimed, self._firsts_since_incumbent = len(self.decisions), 0
        if claim.verdict is ConfirmationVerdict.CONFIRMED:
            self._confirmed = head
            self._reported_gain += claim.gain
            self._false_claims += head.truth >= base.truth
        else:
            self._incumbent = base

    def _decided_claim(self, head: Code, base: Code) -> Claim:
        """Measure fresh pairs until there is a verdict; sigma includes their scores before it is used on them."""
        pairs = CLAIM_PAIRS
        self._sigma = self._repeat(*[head, base] * pairs)
        while True:
            claim = judge_claim(head.scores[-pairs:], base.scores[-pairs:], self._sigma, self._floor)
            if claim.verdict is not None:
                return claim
            pairs += 1
            self._sigma = self._repeat(head, base)

    def _repeat(self, *codes: Code) -> float:
        """Measure the codes again, in this order. Returns sigma afterwards."""
        for code in codes:
            self._score(code)
            if code not in self._repeated:
                self._repeated.append(code)
        return pooled_sigma([code.scores for code in self._repeated], self._floor)

    def _score(self, code: Code) -> float:
        self._trials += 1
        code.scores.append(self._measure(code.truth))
        return code.scores[-1]


def simulate(world: World, rule: Rule, experiments: int, seed: str) -> SimulatedResult:
    """Simulate a run of a world. A seed is a text, so that the `repr` of its meaning can be used."""
    chance = Random(seed)
    trial = count()
    simulated_run = SimulatedRun(rule, lambda truth: truth + world.noise(chance, next(trial)))

    def propose() -> Candidate:
        return Candidate(world.gain(chance), chance.choice(LONGER_CODE) if chance.random() < 0.5 else 0)

    return simulated_run.run(experiments, propose)


def _none(_: Random) -> float:
    return 0.0


def _some(share: float, least: float, most: float, harm: float = 3.0) -> Callable[[Random], float]:
    """Return a function that draws gains: a share of candidates is better by `least` to `most`, the others are worse by
    |N(0, harm)|."""

    def gain(chance: Random) -> float:
        return chance.uniform(least, most) if chance.random() < share else -abs(chance.gauss(0, harm))

    return gain


def _normal(chance: Random, _: int) -> float:
    return chance.gauss()


def _heavy(chance: Random, _: int) -> float:
    """Draw Student's t with 3 degrees of freedom, scaled to the same standard deviation."""
    return chance.gauss() / math.sqrt(chance.gammavariate(1.5, 2))


def _falling(chance: Random, trial: int) -> float:
    """Draw the noise of a machine that gets quieter during the whole run: 2.4 s in 120 trials."""
    return chance.gauss() - 0.02 * trial


def _swinging(chance: Random, trial: int) -> float:
    """Draw the noise of a machine whose load comes and goes: 3 s up and down every 40 trials."""
    return chance.gauss() + 1.5 * math.sin(2 * math.pi * trial / 40)


def _noisy_baseline(chance: Random, trial: int) -> float:
    """Draw the noise of a machine that was busy while it measured the baseline: 4 s, afterwards 1 s."""
    return chance.gauss() * (4 if trial < BASELINE_REPEATS else 1)


WORLDS = (
    World("no gain", _none, _normal),
    World("small: 10 % by 0.2 to 2", _some(0.10, 0.2, 2), _normal),
    World("mid: 12 % by 0.3 to 3", _some(0.12, 0.3, 3), _normal),
    World("big: 8 % by 2 to 10", _some(0.08, 2, 10), _normal),
    World("few: 2 % by 1 to 4", _some(0.02, 1, 4), _normal),
    World("many: 30 % by 0.1 to 0.5", _some(0.30, 0.1, 0.5, harm=1.0), _normal),
    World("no gain, heavy tails", _none, _heavy),
    World("no gain, falling", _none, _falling),
    World("no gain, swinging", _none, _swinging),
    World("mid, heavy tails", _some(0.12, 0.3, 3), _heavy),
    World("mid, swinging", _some(0.12, 0.3, 3), _swinging),
    World("no gain, noisy baseline", _none, _noisy_baseline),
    World("mid, noisy baseline", _some(0.12, 0.3, 3), _noisy_baseline),
)
