"""Packs each slice of a data folder into a file of rows, and records its hash, so that a restart finds it.

`preparation` determines the order. Does not cover fetching, the tokenizer or the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter
from tokenizers import Tokenizer

from trainer.data.documents import Disjoint, PreparationStep, Report, Slice, Split
from trainer.data.durable import file_sha256, write_whole
from trainer.data.errors import TextUnusable
from trainer.data.generated import GENERATED, row_figures, write_generated
from trainer.data.manifest import BOS, ROWS
from trainer.data.owntext import OwnText, whole
from trainer.data.pack import pack, write_rows
from trainer.data.tokenizer import encode


@dataclass(frozen=True)
class Plan:
    """The inputs of a folder's data. Equal plans make equal files."""

    text: str
    source: str
    context: int
    vocab_size: int
    unseen: str = GENERATED

    def __str__(self) -> str:
        shape = f"rows of {self.context} tokens, vocabulary {self.vocab_size}"
        return f"{self.text} ({self.source}; {shape}; unseen text {self.unseen})"


@dataclass(frozen=True)
class Packed:
    """The record of a finished slice."""

    sha256: str
    rows: int
    documents: int
    bytes: int
    left_out: int
    dropped_tokens: int


@dataclass(frozen=True)
class Packing:
    """A locked data folder, and the plan of its data."""

    folder: Path
    plan: Plan
    report: Report

    @property
    def work(self) -> Path:
        return self.folder / "private" / "work"


def pack_split(packing: Packing, disjoint: Disjoint, tokenizer: Tokenizer, split: Split) -> Packed:
    """Write the rows of a split of the text, unless they are finished, and return their record."""
    done = _packed(packing, split)
    if done is not None:
        return done
    documents = _Counted(disjoint.documents(split))
    packed = _pack(packing, tokenizer, split, documents, disjoint.text.count(split))
    return _recorded(packing, split, replace(packed, left_out=disjoint.left_out[split]))


def pack_unseen(packing: Packing, tokenizer: Tokenizer, private: OwnText | None) -> Packed:
    """Write the unseen slice from a private text, or generate it from the held-out rows. Return its record."""
    done = _packed(packing, "unseen")
    if done is not None:
        return done
    if private is not None:
        documents = _Counted(whole(private))
        return _recorded(packing, "unseen", _pack(packing, tokenizer, "unseen", documents, None))
    if packing.plan.unseen != GENERATED:
        raise TextUnusable(
            f"the unseen slice of {packing.folder} was a private text ({packing.plan.unseen}); "
            "name its folder again: `overnight prepare --unseen DIR`"
        )
    packing.report(PreparationStep("generate unseen", 0, 1, "slice"))
    write_generated(packing.folder, BOS)
    packing.report(PreparationStep("generate unseen", 1, 1, "slice"))
    rows, text_bytes = row_figures(packing.folder)
    sha256 = file_sha256(packing.folder / ROWS["unseen"])
    return _recorded(packing, "unseen", Packed(sha256, rows, 0, text_bytes, left_out=0, dropped_tokens=0))


def _packed(packing: Packing, name: Slice) -> Packed | None:
    """Return the record of a slice that was finished earlier and whose file is unchanged, or None."""
    path, record = packing.folder / ROWS[name], packing.work / f"{name}.json"
    if record.exists():
        packed = _PACKED.validate_json(record.read_bytes())
        if path.exists() and file_sha256(path) == packed.sha256:
            return packed
    return None


def _recorded(packing: Packing, name: Slice, packed: Packed) -> Packed:
    write_whole(packing.work / f"{name}.json", _PACKED.dump_json(packed))
    return packed


def _pack(packing: Packing, tokenizer: Tokenizer, name: Slice, counted: _Counted, total: int | None) -> Packed:
    path = packing.folder / ROWS[name]
    tokens = encode(tokenizer, watched(counted, PreparationStep(f"pack {name}", 0, total, "documents"), packing.report))
    width = packing.plan.context + 1
    written = write_rows(pack(tokens, width, BOS), width, BOS, path, packing.work / f"{name}.rows")
    if not written.rows:
        raise TextUnusable(
            f"the {name} slice of the text has {written.dropped_tokens} tokens, one row takes {width}; give more text"
        )
    return Packed(
        sha256=file_sha256(path),
        rows=written.rows,
        documents=counted.documents,
        bytes=counted.bytes,
        left_out=0,
        dropped_tokens=written.dropped_tokens,
    )


class _Counted:
    """Yields documents and counts them."""

    def __init__(self, documents: Iterator[str]) -> None:
        self._source = documents
        self.documents = 0
        self.bytes = 0

    def __iter__(self) -> Iterator[str]:
        for document in self._source:
            self.documents += 1
            self.bytes += len(document.encode())
            yield document


def watched(documents: Iterable[str], step: PreparationStep, report: Report) -> Iterator[str]:
    """Yield documents, and report the progress after each hundredth of the total."""
    every = max(1, (step.total or 0) // 100)
    done = 0
    report(step)
    for document in documents:
        yield document
        done += 1
        if done % every == 0:
            report(replace(step, done=done))
    report(replace(step, done=done))


_PACKED = TypeAdapter(Packed)
