"""Keep or discard, confirm or roll back, and when to ask: the rules of a run, as pure functions of values.

The loop gathers the values from the journal, the simulation in `tests/bench` from its own; both call the same
functions, so a rule is changed here and nowhere else.

Search and claim are two things. The walk keeps provisionally whatever beats its parent by a small margin that grows
with added code; the claim is made by fresh seeds of the head against the last confirmed state. Simulated runs behind
these numbers: a strict test on every keep throws away two thirds of the gain, a greedy walk that is believed invents
4.6 improvements a run out of nothing. Scores are bits per byte, lower is better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from researcher.journal.records import CheckKind, Claim, ConfirmationVerdict, Decision, Ruling
from trainer.jobs import JUMP_SHARE, Outcome

MARGIN_PER_LINE = 0.05
MARGIN_LIMIT = 0.5
CLAIM_FACTOR = 2.0
CLAIM_PAIRS = 3
CLAIM_PAIRS_LIMIT = 4
# Of a gain on the validation rows, this share must be seen on text that nobody has written. Real honest changes showed
# 0.65 to 0.86 of it there, known text in literals 0.05 to 0.1. Of 100 simulated claims of a gain of 2 sigma
# (tests/bench/unseen) this takes away 0.2 from changes that show 0.85 of it and 10 from those that show half.
UNSEEN_SHARE = 1 / 3
KEEPS_BEFORE_CLAIM = 5
CLAIM_HOURS = 4.0  # of trials between two claims of a run without five keeps
NEAR_THE_END = 10  # experiments: the claim at the end serves for the checkpoint too
JUMP_SIGMAS = 6.0
FAILURES_BEFORE_RECHECK = 3
REMEASURE_EVERY = 15  # candidates' first trials


class Rule(StrEnum):
    """How the walk decides: `walk` is ours, `greedy` the plain rule of the original loop, for comparison."""

    WALK = "walk"
    GREEDY = "greedy"

    @property
    def doubts_scores(self) -> bool:
        """Whether a score may be chance: one too good to be true is confirmed at once, an old one is measured again."""
        return self is Rule.WALK


@dataclass(frozen=True)
class Head:
    """An incumbent that is not confirmed: its first score, the score that it had to beat, and sigma at its decision."""

    score: float | None
    to_beat: float | None
    sigma: float | None


@dataclass(frozen=True)
class RunFacts:
    """The facts that say whether a confirmation comes before the next proposal.

    `outcomes` are those of the candidates since the last recheck, oldest first. `fell_back` is True after a recheck
    that failed. `trials_without_incumbent` and `machine_changed` count from the incumbent's last trial, `keeps` and
    `trial_hours` from the last claim. `goal` says why the run is over, None while it is not.
    """

    rule: Rule
    outcomes: Sequence[Outcome]
    fell_back: bool
    trials_without_incumbent: int
    machine_changed: bool
    head: Head | None
    is_asked_for: bool
    goal: str | None
    experiments_left: int | None
    keeps: int
    trial_hours: float
    claim_hours: float = CLAIM_HOURS


@dataclass(frozen=True)
class Due:
    """A confirmation that comes before the next proposal, and why."""

    kind: CheckKind
    why: str


def pooled_sigma(groups: Sequence[Sequence[float]], floor: float) -> float:
    """Standard deviation over seeds, pooled over all groups of repeats of the same code, never below `floor`."""
    repeated = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in repeated)
    if freedom == 0:
        return floor
    squares = sum((score - mean) ** 2 for group in repeated for mean in [fmean(group)] for score in group)
    return max(floor, math.sqrt(squares / freedom))


def walk_margin(added_lines: int, sigma: float, rule: Rule) -> float:
    """How much lower a score must be: nothing for equal or shorter code, half a sigma at most for more of it."""
    if rule is Rule.GREEDY:
        return 0.0
    return sigma * min(MARGIN_LIMIT, MARGIN_PER_LINE * max(0, added_lines))


def decide(
    outcome: Outcome,
    score: float | None,
    *,
    parent_scores: Sequence[float],
    parent_is_incumbent: bool,
    added_lines: int,
    sigma: float,
    rule: Rule,
    detail: str,
) -> Ruling:
    """The walk's decision on one candidate, which is compared with its parent, whatever the incumbent is by now.

    A candidate that gains on a parent that is no longer the incumbent is discarded: a keep becomes the incumbent, and
    this one does not build on it. `detail` is the trial's own reason, repeated when there is no score.
    """
    if outcome.is_failure:
        return Ruling(Decision.CRASH, f"{outcome.value.replace('_', ' ')}: {detail}")
    if score is None:
        return Ruling(Decision.DISCARD, f"{outcome.value}: {detail}")
    parent = fmean(parent_scores)
    margin = walk_margin(added_lines, sigma, rule)
    gain = parent - score
    size = f"{added_lines:+d} lines" if added_lines else "same length"
    compared = f"{score:.6f} against {parent:.6f}"
    if gain > margin and parent_is_incumbent:
        return Ruling(Decision.KEEP, f"{compared}: better by {gain:.6f} ({size})", score, margin)
    if gain > margin:
        reason = f"{compared}: better by {gain:.6f} ({size}), but its parent is no longer the incumbent"
        return Ruling(Decision.DISCARD, reason, score, margin)
    if gain > 0:
        return Ruling(
            Decision.DISCARD, f"{compared}: better by {gain:.6f}, but {size} ask for {margin:.6f}", score, margin
        )
    return Ruling(Decision.DISCARD, f"{compared}: worse by {-gain:.6f}", score, margin)


def is_implausible(score: float, incumbent: float, sigma: float) -> bool:
    """True for a gain beyond 6 sigma and beyond 3 %: a fluke, a leak or a find; each is to be seen again first."""
    return incumbent - score > max(JUMP_SIGMAS * sigma, JUMP_SHARE * abs(incumbent))


def next_confirmation(facts: RunFacts) -> Due | None:
    """What comes before the next proposal: the incumbent measured again, a claim of the head, or nothing."""
    if needs_recheck(facts.outcomes):
        return Due(CheckKind.RECHECK, f"{FAILURES_BEFORE_RECHECK} failures in a row")
    if facts.fell_back:
        return Due(CheckKind.RECHECK, "the run fell back to it")
    if (stale := _stale(facts)) is not None:
        return Due(CheckKind.RECHECK, stale)
    if facts.head is None:
        return None
    asked = "a person asked for it" if facts.is_asked_for else None
    why = asked or _jump(facts.rule, facts.head) or facts.goal or _checkpoint(facts)
    return None if why is None else Due(CheckKind.CLAIM, why)


def _stale(facts: RunFacts) -> str | None:
    """Machines drift, and the first score of a keep is a lucky one. Failures that may become three come first."""
    failing = bool(facts.outcomes) and facts.outcomes[-1].is_failure
    if failing or facts.goal is not None or not facts.rule.doubts_scores:
        return None
    if facts.machine_changed:
        return "the machine has changed"
    without = facts.trials_without_incumbent
    return f"{without} trials without it" if without >= REMEASURE_EVERY else None


def _jump(rule: Rule, head: Head) -> str | None:
    """A head that looks too good is confirmed before anything is built on it."""
    if not rule.doubts_scores or head.score is None or head.to_beat is None or head.sigma is None:
        return None
    implausible = is_implausible(head.score, head.to_beat, head.sigma)
    return f"a gain of {head.to_beat - head.score:.6f} is hard to believe" if implausible else None


def _checkpoint(facts: RunFacts) -> str | None:
    """Every five keeps and every few hours, unless the end, whose claim serves both, is near."""
    if facts.experiments_left is not None and facts.experiments_left < NEAR_THE_END:
        return None
    if facts.keeps >= KEEPS_BEFORE_CLAIM:
        return f"{KEEPS_BEFORE_CLAIM} keeps since the last one"
    if facts.trial_hours >= facts.claim_hours:
        return f"{facts.claim_hours:g} hours of trials since the last one"
    return None


def judge_claim(head: Sequence[float], base: Sequence[float], sigma: float, unseen_gain: float | None = None) -> Claim:
    """Compare fresh scores of head and base, both non-empty.

    Confirmed when the means differ by more than 2 sigma * sqrt(1/n + 1/m), and the same trials gain `UNSEEN_SHARE` of
    that on unseen text (None: they were not scored there); else one more pair is asked for, once. The reason may be
    read in a prompt, so it names no number of the unseen text.
    """
    head_score, base_score = fmean(head), fmean(base)
    gain = base_score - head_score
    threshold = CLAIM_FACTOR * sigma * math.sqrt(1 / len(head) + 1 / len(base))
    compared = (
        f"{len(head)} fresh seeds give {head_score:.6f} against {base_score:.6f}: "
        f"gain {gain:+.6f}, {threshold:.6f} needed"
    )
    is_gain = gain > threshold
    is_known_text = is_gain and unseen_gain is not None and unseen_gain < UNSEEN_SHARE * gain
    if is_known_text:
        compared += f"; but on unseen text it gains less than {UNSEEN_SHARE:.0%} of that: not confirmed"
    if is_gain and not is_known_text:
        verdict: ConfirmationVerdict | None = ConfirmationVerdict.CONFIRMED
    else:
        verdict = None if len(head) < CLAIM_PAIRS_LIMIT else ConfirmationVerdict.ROLLED_BACK
    return Claim(verdict, gain, threshold, head_score, base_score, compared, unseen_gain)


def mean_gain(head: Sequence[float | None], base: Sequence[float | None]) -> float | None:
    """How much lower the mean of the head's scores is; None unless each of them is known."""
    ours, theirs = ([score for score in scores if score is not None] for scores in (head, base))
    whole = ours and theirs and (len(ours), len(theirs)) == (len(head), len(base))
    return fmean(theirs) - fmean(ours) if whole else None


def is_banned(outcomes: Sequence[Outcome]) -> bool:
    """True for a change that was discarded once or failed twice. `outcomes` are those of the times it was not kept."""
    failures = sum(outcome.is_failure for outcome in outcomes)
    return failures > 1 or any(outcome in (Outcome.OK, Outcome.UNSCORABLE) for outcome in outcomes)


def needs_recheck(outcomes: Sequence[Outcome]) -> bool:
    """True when the last candidates (oldest first) failed three times in a row.

    A rejection ran nothing and what the machine lost says nothing of a candidate: neither counts, neither interrupts.
    """
    spoke = [outcome for outcome in outcomes if outcome is not Outcome.REJECTED and not outcome.is_infrastructure]
    last = spoke[-FAILURES_BEFORE_RECHECK:]
    return len(last) == FAILURES_BEFORE_RECHECK and all(outcome.is_failure for outcome in last)


class CrashReset(StrEnum):
    """Where to fall back to when the incumbent itself fails after three failures in a row."""

    CONFIRMED = "confirmed"
    BASELINE = "baseline"
