"""What every text is to the rest of the preparation: documents in three splits that share none, and how far we are.

`plays`, `shards` and `owntext` are the texts; nothing here knows them. Documents are read again for every pass, so a
text may be larger than memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

Split = Literal["train", "val", "heldout"]
Slice = Literal[Split, "unseen"]  # the last is not read from the text: it is made
# A later split leaves out what an earlier one holds; training comes last because it can spare a document.
SPLITS: tuple[Split, ...] = ("val", "heldout", "train")


@dataclass(frozen=True)
class PreparationStep:
    """How far a stage is, in `unit`; `total` is None where it is not known. `note` is a sentence for a person."""

    name: str
    done: int
    total: int | None
    unit: str
    note: str = ""


Report = Callable[[PreparationStep], None]


class Text(Protocol):
    """A source of documents. `source` says what exactly is read, before anything is fetched: same source, same data."""

    @property
    def name(self) -> str: ...

    @property
    def source(self) -> str: ...

    @property
    def how_split(self) -> str: ...

    def fetch(self, report: Report) -> None:
        """Bring here whatever is not here yet; afterwards nothing needs the network."""

    def count(self, split: Split) -> int:
        """Documents in a split. Only after `fetch`."""

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of a split, always in the same order. Only after `fetch`."""


@dataclass
class Disjoint:
    """Reads a text so that no document of one split comes again in another; counts what it left out."""

    text: Text

    def __post_init__(self) -> None:
        self._keys: dict[Split, frozenset[bytes]] = {}
        self.left_out: dict[Split, int] = {}

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of `split` without those that an earlier split holds; `left_out` is right after the last."""
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
