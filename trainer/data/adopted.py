"""Makes a data folder from the raw data of a user's own prepare.py, after it has verified them.

Promises: every row is whole, every token is in the vocabulary, no scored row is among the training rows or occurs
twice, and the manifest pins the prepare.py. The raw files are untrusted.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.data.documents import Slice
from trainer.data.durable import beside, commit_file, file_sha256, write_whole
from trainer.data.errors import TextUnusable
from trainer.data.foreign_prepare import Dumped
from trainer.data.generated import GENERATED, write_generated
from trainer.data.manifest import ACCESS, ROWS, STAND_IN, TOKEN_BYTES, Manifest, files_digest, write_manifest
from trainer.data.rights import give_rights
from trainer.sandbox.visible_paths import Access

LEAST_ROWS = 32
TEXT = "adopted"
_ROWS_AT_ONCE = 4096
Rows = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Adoption:
    """The settings of the data folder. `val` and `heldout` are wanted numbers of rows; fewer are split two to one.

    `constants` are those that a profile takes from the user's prepare.py.
    """

    profile: str
    source: str
    pinned: str
    stand_in: str
    context: int
    val: int
    heldout: int
    access: Access = field(default_factory=Access)
    constants: dict[str, int] | None = None


def write_adopted(folder: Path, dumped: Dumped, adoption: Adoption) -> Manifest:
    """Write the data folder of `adoption` and return its manifest. Raise TextUnusable for data that cannot score."""
    width = adoption.context + 1
    table = _table(dumped)
    train, found = (_rows(path, width, dumped.vocab_size) for path in (dumped.train, dumped.val))
    val = _fresh(found, train)
    for name, rows in (("train", train), ("val", val)):
        if len(rows) < LEAST_ROWS:
            raise TextUnusable(
                f"prepare.py gave {len(rows)} usable rows of {width} tokens for {name}; {LEAST_ROWS} are the least"
            )
    scored = min(adoption.val, max(len(val) - adoption.heldout, len(val) * 2 // 3))
    splits: dict[Slice, Rows] = {"train": train, "val": val[:scored], "heldout": val[scored:][: adoption.heldout]}
    (folder / "private").mkdir(mode=0o700, exist_ok=True)
    for split, rows in splits.items():
        _write(folder / ROWS[split], rows)
    _write(folder / TOKEN_BYTES, table)
    write_generated(folder, dumped.bos)
    splits["unseen"] = np.load(folder / ROWS["unseen"])
    write_whole(folder / STAND_IN, adoption.stand_in.encode())
    write_whole(folder / ACCESS, adoption.access.to_json())
    sha256 = {name: file_sha256(folder / name) for name in (*ROWS.values(), TOKEN_BYTES, STAND_IN, ACCESS)}
    manifest = Manifest(
        profile=adoption.profile,
        text=TEXT,
        source=adoption.source,
        how_split="by the prepare.py that is pinned; what its val gives is scored first and held out after that",
        context=adoption.context,
        vocab_size=dumped.vocab_size,
        rows={split: len(rows) for split, rows in splits.items()},
        documents={},
        bytes={split: _bytes(rows, table) for split, rows in splits.items()},
        left_out={"val": len(found) - len(val)},
        dropped_tokens={},
        sizes={name: (folder / name).stat().st_size for name in sha256},
        sha256=sha256,
        digest=files_digest(sha256),
        unseen=GENERATED,
        bos=dumped.bos,
        pinned=adoption.pinned,
        constants=adoption.constants,
    )
    write_manifest(folder, manifest)
    shutil.rmtree(dumped.val.parent)
    give_rights(folder)
    return manifest


def _table(dumped: Dumped) -> npt.NDArray[np.int32]:
    table: npt.NDArray[np.int32] = np.fromfile(dumped.table, dtype="<i4")
    if not 0 < dumped.vocab_size <= 2**16 or len(table) != dumped.vocab_size:
        raise TextUnusable(f"get_token_bytes has {len(table)} entries for {dumped.vocab_size} tokens")
    if not 0 <= dumped.bos < dumped.vocab_size:
        raise TextUnusable(f"its first token of a row, {dumped.bos}, is not in its vocabulary of {dumped.vocab_size}")
    if table.min() < 0 or table.max() <= 0:
        raise TextUnusable("get_token_bytes has no positive length, or a negative one; bits per byte need lengths")
    return table


def _rows(path: Path, width: int, vocab_size: int) -> Rows:
    size = path.stat().st_size
    if size % (2 * width):
        raise TextUnusable(f"prepare.py gave {size} bytes, no whole number of rows of {width} tokens")
    if not size:
        return np.empty((0, width), dtype="<u2")
    rows: Rows = np.memmap(path, dtype="<u2", mode="r", shape=(size // (2 * width), width))
    for block in _blocks(rows):
        if block.max() >= vocab_size:
            raise TextUnusable(f"prepare.py gave a token {block.max()}, its vocabulary has {vocab_size}")
    return rows


def _fresh(val: Rows, train: Rows) -> Rows:
    """Return the rows of `val` that are not in `train`, each once."""
    seen = set(_digests(val))
    known = seen.intersection(_digests(train))
    kept = []
    for at, digest in enumerate(_digests(val)):
        if digest not in known:
            known.add(digest)
            kept.append(at)
    return val[kept]


def _digests(rows: Rows) -> Iterator[bytes]:
    for block in _blocks(rows):
        for row in block:
            yield hashlib.blake2b(row.tobytes(), digest_size=16).digest()


def _bytes(rows: Rows, table: npt.NDArray[np.int32]) -> int:
    return sum(int(table[block[:, 1:]].sum(dtype=np.int64)) for block in _blocks(rows))


def _blocks(rows: Rows) -> Iterator[Rows]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]


def _write(path: Path, array: npt.NDArray[np.integer]) -> None:
    with beside(path).open("wb") as file:
        np.save(file, array)
    commit_file(path)
