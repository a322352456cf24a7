"""The manifest of a data folder: a description of the data, and the digest by which a trial names them.

`read_manifest` is quick and tests existence and sizes; `verify` reads every byte. The manifest is written last, so a
folder without a manifest is not prepared.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from trainer.data.documents import Slice, Split
from trainer.data.durable import file_sha256, write_whole
from trainer.data.errors import NotPrepared

FORMAT = 2
WITHOUT_UNSEEN = 1  # the format of data that have no unseen slice; `generated.upgrade` adds it
BOS = 0
MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"
TOKEN_BYTES = "token_bytes.npy"
STAND_IN = "prepare.py"
ACCESS = "access.json"
_REPAIR = "run `overnight prepare`, which makes it again"
ROWS: dict[Slice, str] = {
    "train": "train.npy",
    "val": "private/val.npy",
    "heldout": "private/heldout.npy",
    "unseen": "private/unseen.npy",
}


@dataclass(frozen=True)
class Manifest:
    """The description of a data folder.

    `source` identifies the text, and `how_split` is the rule of the splits. `bytes` are UTF-8 bytes of the packed
    documents. `left_out` counts documents that are already in another split, `dropped_tokens` the tokens that did not
    fill a row. `unseen` describes the unseen slice. `pinned` is the sha256 of a user's own prepare.py that made the
    data; the folder then holds the prepare.py that trials get instead, and `constants` are those that the profile takes
    from the user's. `earlier_digest` is the digest of the same data before they had an unseen slice.
    """

    profile: str
    text: str
    source: str
    how_split: str
    context: int
    vocab_size: int
    rows: dict[Slice, int]
    documents: dict[Split, int]
    bytes: dict[Slice, int]
    left_out: dict[Split, int]
    dropped_tokens: dict[Split, int]
    sizes: dict[str, int]
    sha256: dict[str, str]
    digest: str
    unseen: str
    bos: int = BOS
    format: int = FORMAT
    pinned: str | None = None
    constants: dict[str, int] | None = None
    earlier_digest: str | None = None


def files_digest(sha256: dict[str, str]) -> str:
    """Return one hash of all names and hashes of files, in the order of the names."""
    return hashlib.sha256(json.dumps(sha256, sort_keys=True).encode()).hexdigest()


def load_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest and no other file. Raise NotPrepared."""
    path = folder / MANIFEST
    try:
        values = from_json(path.read_bytes())
    except FileNotFoundError:
        raise NotPrepared(f"{folder} holds no prepared data; run `overnight prepare`") from None
    except OSError as error:
        raise NotPrepared(f"{path} cannot be read: {error.strerror}; give this user the right to") from error
    except ValueError as error:
        raise _damaged(folder, error) from error
    if isinstance(values, dict) and values.get("format") == WITHOUT_UNSEEN:
        raise NotPrepared(
            f"{folder} was prepared before there was an unseen slice of text, and has none; "
            "run `overnight prepare`, which adds it"
        )
    manifest = manifest_of(values, folder)
    if manifest.format != FORMAT:
        raise NotPrepared(
            f"{folder} has data format {manifest.format}, this version reads {FORMAT}; "
            "remove the folder and run `overnight prepare`"
        )
    return manifest


def manifest_of(values: Any, folder: Path) -> Manifest:
    """Parse the values of a manifest's file. Raise NotPrepared."""
    try:
        return _ADAPTER.validate_python(values)
    except ValidationError as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: ValueError) -> NotPrepared:
    return NotPrepared(f"{folder / MANIFEST} is damaged; remove {folder} and run `overnight prepare`: {error}")


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a folder. Raise NotPrepared unless all files exist in full size."""
    manifest = load_manifest(folder)
    for name, size in manifest.sizes.items():
        found = _size(folder / name)
        if found != size:
            raise NotPrepared(f"{folder / name} has {found} bytes instead of {size}; {_REPAIR}")
    return manifest


def verify(folder: Path) -> Manifest:
    """Read the manifest of a folder. Raise NotPrepared unless all files have the hashes in the manifest."""
    manifest = read_manifest(folder)
    for name, expected in manifest.sha256.items():
        if file_sha256(folder / name) != expected:
            raise NotPrepared(f"{folder / name} is not what was prepared; {_REPAIR}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes `folder` a prepared one."""
    write_whole(folder / MANIFEST, _ADAPTER.dump_json(manifest, indent=1) + b"\n")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise NotPrepared(f"{path} cannot be read ({error.strerror}); {_REPAIR}") from error


_ADAPTER = TypeAdapter(Manifest)
