"""The unseen slice of data whose tokenizer is a user's own: held-out rows with runs of tokens exchanged by a secret.

What `words` does with words is done here without knowing any. A run of less common tokens between two common ones is
exchanged for a run of the same length that stands between the same two somewhere in the training rows, within a row
always in the same way. Same rows and same secret, same slice.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

COMMON_SHARE = 0.4  # of all training tokens; the tokens that make it up are left as they are
MOST_ROWS = 2048
TRAINING_TOKENS = 4_000_000  # as many are looked through for runs
TRIES = 10  # to draw another run than the one that it stands for
Rows = npt.NDArray[np.uint16]
Run = tuple[int, ...]
Place = tuple[int, int, int]


def exchanged_runs(train: Rows, heldout: Rows, bos: int, secret: str) -> Rows:
    """As many rows as are held out, `MOST_ROWS` at most."""
    sample = train[: max(1, TRAINING_TOKENS // train.shape[1])]
    common = _common(sample, bos)
    found = defaultdict[Place, list[Run]](list)
    for row in sample.tolist():
        for start, end in _runs(row, common):
            found[_place(row, start, end)].append(tuple(row[start:end]))
    chance = random.Random(secret)
    made = [_exchanged(row, common, found, chance) for row in heldout[:MOST_ROWS].tolist()]
    return np.array(made, dtype=heldout.dtype).reshape(-1, heldout.shape[1])


def _common(rows: Rows, bos: int) -> frozenset[int]:
    counts = np.bincount(rows.reshape(-1), minlength=bos + 1)
    counts[bos] = 0
    order = np.argsort(-counts, kind="stable")
    enough = int(np.searchsorted(np.cumsum(counts[order]), COMMON_SHARE * counts.sum())) + 1
    return frozenset([bos, *order[:enough].tolist()])


def _exchanged(
    row: list[int], common: frozenset[int], found: dict[Place, list[Run]], chance: random.Random
) -> list[int]:
    made, standing_for = list(row), dict[tuple[Place, Run], Run]()
    for start, end in _runs(row, common):
        place, run = _place(row, start, end), tuple(row[start:end])
        if (place, run) not in standing_for:
            standing_for[place, run] = _drawn(run, found.get(place, []), chance)
        made[start:end] = standing_for[place, run]
    return made


def _drawn(run: Run, group: list[Run], chance: random.Random) -> Run:
    """Another one of the group; itself where there is no other."""
    drawn = (group[int(chance.random() * len(group))] for _ in range(TRIES if group else 0))
    return next((other for other in drawn if other != run), run)


def _runs(row: list[int], common: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Where runs of other than common tokens begin and end, between two that are common."""
    places = [place for place, token in enumerate(row) if token in common]
    for left, right in pairwise(places):
        if right > left + 1:
            yield left + 1, right


def _place(row: list[int], start: int, end: int) -> Place:
    return row[start - 1], row[end], end - start
