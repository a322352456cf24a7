"""Makes the unseen slice for a user's own tokenizer: held-out rows whose runs of tokens are exchanged by a secret.

This is like `words`, but without knowing words. A run of less common tokens between two common ones is exchanged for a
run of the same length that is between the same two tokens in the training rows, always the same one within a row. The
same rows and the same secret give the same slice.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

COMMON_SHARE = 0.4  # the most common tokens, up to this share of all training tokens, are not exchanged
MOST_ROWS = 2048
TRAINING_TOKENS = 4_000_000  # the number of tokens that are searched for runs
TRIES = 10  # draws, until one differs from the original run
Rows = npt.NDArray[np.uint16]
Run = tuple[int, ...]
Place = tuple[int, int, int]


def exchanged_runs(train: Rows, heldout: Rows, bos: int, secret: str) -> Rows:
    """Return one row (rows, T+1) for each held-out row, at most `MOST_ROWS`."""
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
    """Return another run of the group, or the run itself if no draw differs."""
    drawn = (group[int(chance.random() * len(group))] for _ in range(TRIES if group else 0))
    return next((other for other in drawn if other != run), run)


def _runs(row: list[int], common: frozenset[int]) -> Iterator[tuple[int, int]]:
    """Yield start and end of each run of less common tokens between two common ones."""
    places = [place for place, token in enumerate(row) if token in common]
    for left, right in pairwise(places):
        if right > left + 1:
            yield left + 1, right


def _place(row: list[int], start: int, end: int) -> Place:
    return row[start - 1], row[end], end - start
