"""Habitual moves of knobs, as users and models make them, for a proposer that asks no LLM and learns nothing.

It shows the result of a fixed list, and nothing about any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

from researcher.errors import Rejected
from researcher.optimizer.constraints import repaired
from researcher.optimizer.evidence import Measured
from researcher.optimizer.optimizer import Vetted
from researcher.optimizer.space import from_study, values_and_ranges
from researcher.source.proposal import Proposal, ProposerName, SetKnobs

Move = tuple[str, Callable[[Any], Any]]
MOVES: Sequence[Move] = (
    ("DEPTH", lambda value: value + 1),
    ("DEPTH", lambda value: value - 1),
    ("ASPECT_RATIO", lambda value: value * 3 // 2),
    ("ASPECT_RATIO", lambda value: value * 2 // 3),
    ("HEAD_DIM", lambda value: value * 2),
    ("HEAD_DIM", lambda value: value // 2),
    ("WINDOW_PATTERN", lambda _: "L"),
    ("WINDOW_PATTERN", lambda _: "SSSS"),
    ("WINDOW_PATTERN", lambda _: "SLSL"),
    ("ROPE_BASE", lambda value: value * 5),
    ("TOTAL_BATCH_SIZE", lambda value: value * 2),
    ("TOTAL_BATCH_SIZE", lambda value: value // 2),
    ("DEVICE_BATCH_SIZE", lambda value: value * 2),
    ("EMBEDDING_LR", lambda value: value * 1.5),
    ("EMBEDDING_LR", lambda value: value / 1.5),
    ("UNEMBEDDING_LR", lambda value: value * 2.0),
    ("UNEMBEDDING_LR", lambda value: value / 2.0),
    ("MATRIX_LR", lambda value: value * 1.5),
    ("MATRIX_LR", lambda value: value / 1.5),
    ("SCALAR_LR", lambda value: value * 1.5),
    ("SCALAR_LR", lambda value: value / 1.5),
    ("WEIGHT_DECAY", lambda value: value / 2.0),
    ("WEIGHT_DECAY", lambda value: value + 0.1),
    ("WARMUP_RATIO", lambda value: value + 0.05),
    ("WARMDOWN_RATIO", lambda value: value + 0.2),
    ("WARMDOWN_RATIO", lambda value: value - 0.2),
    ("FINAL_LR_FRAC", lambda value: value + 0.1),
)


class ScriptedMoves:
    """The list in the order of `seed`, again and again, always from the present incumbent."""

    def __init__(self, *, seed: int, context: int) -> None:
        self._moves = list(MOVES)
        Random(seed).shuffle(self._moves)
        self._context = context
        self._next = 0

    def learn(self, fresh: Iterable[Measured], scores: Mapping[int, Sequence[float]]) -> None:
        """Learn nothing."""

    def propose(self, source: str, vet: Callable[[Proposal], Vetted]) -> Vetted:
        """Return the result of `vet` for the next move that passes it. Raises Rejected if no move of the list does."""
        values, ranges = values_and_ranges(source)
        for _ in self._moves:
            name, move = self._moves[self._next % len(self._moves)]
            self._next += 1
            value = from_study(move(values[name]), ranges[name]) if ranges[name].kind == "float" else move(values[name])
            if not ranges[name].holds(value):
                continue
            after = repaired(values, values | {name: value}, ranges, self._context)
            if after is None or after == values:
                continue
            moved = {knob: value for knob, value in after.items() if value != values[knob]}
            proposal = Proposal(ProposerName.LLM, f"{name} {values[name]} -> {value}", "habit", (SetKnobs(moved),))
            try:
                return vet(proposal)
            except Rejected:
                continue
        raise Rejected("no move of the list is new and within its range")
