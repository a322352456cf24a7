"""How many true gains are lost because a claim must also gain on the unseen text, and how much known text still passes.

Simulated claims under the real rule, in s, the standard deviation of one code over seeds. `shown` is the share of a
gain that a change shows on unseen text: real honest changes 0.65 to 0.86, known text in literals 0.05 to 0.1
(trainer/README.md). The noise of a seed shows there by the honest share, plus half an s of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from rich.console import Console
from rich.table import Table

from researcher.decision.rules import AGREEING_PAIRS_LIMIT, CLAIM_PAIRS, judge_claim, mean_gain
from researcher.journal.records import ConfirmationVerdict

LUCK_SHOWN = 0.9
OWN_NOISE = 0.5
FLOOR = 0.5  # of sigma
GAINS = (1.6, 2.0, 3.0, 5.0, 10.0)
SHOWN = (0.05, 0.2, 0.4, 0.5, 0.85)


def run(claims: int) -> None:
    """Simulate and print the table."""
    table = Table(title=f"confirmed of {claims} claims, without the rule > with it")
    for name in ("shown", *(f"gain {gain:g} s" for gain in GAINS)):
        table.add_column(name, justify="right")
    for shown in SHOWN:
        pairs = [confirmed(gain, shown, claims) for gain in GAINS]
        table.add_row(f"{shown:g}", *(f"{before:.1%} > {after:.1%}" for before, after in pairs))
    Console(width=100).print(table)


def confirmed(gain: float, shown: float, claims: int) -> tuple[float, float]:
    """Return the share of claims confirmed on the validation rows alone, and under the whole rule."""
    chance = Random(f"{gain} {shown}")
    drawn = [(_side(chance, -gain, shown), _side(chance, 0.0, shown)) for _ in range(claims)]
    alone = sum(_verdict(head, base, lambda *_: None) is ConfirmationVerdict.CONFIRMED for head, base in drawn)
    whole = sum(_verdict(head, base, mean_gain) is ConfirmationVerdict.CONFIRMED for head, base in drawn)
    return alone / claims, whole / claims


Side = list[tuple[float, float]]


def _side(chance: Random, truth: float, shown: float) -> Side:
    """Draw six trials of one code: scores on the validation rows and on the unseen ones."""
    luck = [chance.gauss() for _ in range(AGREEING_PAIRS_LIMIT)]
    return [(truth + one, truth * shown + LUCK_SHOWN * one + chance.gauss(0, OWN_NOISE)) for one in luck]


def _verdict(head: Side, base: Side, unseen: Callable[[list[float], list[float]], float | None]) -> ConfirmationVerdict:
    for pairs in range(CLAIM_PAIRS, AGREEING_PAIRS_LIMIT + 1):
        ours, theirs = head[:pairs], base[:pairs]
        gain = unseen([there for _, there in ours], [there for _, there in theirs])
        verdict = judge_claim([val for val, _ in ours], [val for val, _ in theirs], 1.0, FLOOR, gain).verdict
        if verdict is not None:
            return verdict
    raise AssertionError("after the last pair there is a verdict")
