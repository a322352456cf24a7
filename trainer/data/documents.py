"""The interface of a text: documents in three disjoint splits, and the progress of a preparation.

`plays`, `shards` and `owntext` implement it. Documents are read again for each pass, so a text may be larger than
memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "val", "heldout"]
Slice = Literal[Split, "unseen"]  # the unseen slice is made, not read from the text
# A later split leaves out documents of an earlier one. Training comes last, because it can spare a document.
SPLITS: tuple[Split, ...] = ("val", "heldout", "train")


@dataclass(frozen=True)
class PreparationStep:
    """The progress of a step: `done` of `total` in `unit`. `total` is None if unknown. `note` is a text for users."""

    name: str
    done: int
    total: int | None
    unit: str
    note: str = ""


Report = Callable[[PreparationStep], None]


class Text(Protocol):
    """A source of documents. `source` identifies the data before anything is fetched: same source, same data."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def how_split(self) -> str: ...

    def fetch(self, report: Report) -> None:
        """Fetch all missing files. Afterwards the text needs no network."""

    def count(self, split: Split) -> int:
        """Return the number of documents in a split. Call `fetch` first."""

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the documents of a split, always in the same order. Call `fetch` first."""


@dataclass
class Disjoint:
    """Reads a text so that no document is in two splits, and counts the documents left out of each split."""

    text: Text

    def __post_init__(self) -> None:
        self._keys: dict[Split, frozenset[bytes]] = {}
        self.left_out: dict[Split, int] = {}

    def documents(self, split: Split) -> Iterator[str]:
        """Yield the documents of a split without those of earlier splits. `left_out` is set after the last one."""
        earlier = frozenset[bytes]().union(*(self._known(other) for other in SPLITS[: SPLITS.index(split)]))
        left_out = 0
        for document in self.text.documents(split):
            if _key(document) in earlier:
                left_out += 1
            else:
                yield document
        self.left_out[split] = left_out

    def _known(self, split: Split) -> frozenset[bytes]:
        if split not in self._keys:
            self._keys[split] = frozenset(map(_key, self.text.documents(split)))
        return self._keys[split]


def _key(document: str) -> bytes:
    return hashlib.blake2b(document.encode(), digest_size=16).digest()
