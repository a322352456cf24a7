"""Makes the unseen slice of a data folder, by a secret in `private`, where no candidate can read.

`upgrade` adds the slice to a folder of an earlier version, and changes nothing else.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainer.data.durable import beside, commit_file, file_sha256, write_whole
from trainer.data.errors import NotPrepared, TextUnusable
from trainer.data.manifest import (
    FORMAT,
    MANIFEST,
    ROWS,
    TOKEN_BYTES,
    TOKENIZER,
    WITHOUT_UNSEEN,
    Manifest,
    files_digest,
    load_manifest,
    manifest_of,
    write_manifest,
)
from trainer.data.rights import give_rights
from trainer.data.runs import exchanged_runs
from trainer.data.tokenizer import load_tokenizer
from trainer.data.words import exchanged_words

GENERATED = "generated from the held-out rows by a secret of this folder"
SECRET = "private/secret"


def write_generated(folder: Path, bos: int) -> None:
    """Make the file of unseen rows from the other rows. The secret is drawn once, so a lost file is made the same."""
    secret = folder / SECRET
    if not secret.exists():
        write_whole(secret, secrets.token_hex(32).encode())
        secret.chmod(0o600)
    train, heldout = (np.load(folder / ROWS[name], mmap_mode="r") for name in ("train", "heldout"))
    if (folder / TOKENIZER).exists():
        made = exchanged_words(
            train, heldout, load_tokenizer(folder / TOKENIZER), bos, secret.read_text(encoding="utf-8")
        )
    else:
        made = exchanged_runs(train, heldout, bos, secret.read_text(encoding="utf-8"))
    if not len(made):
        raise TextUnusable(f"the held-out slice of {folder} is too short to make an unseen one of it; give more text")
    with beside(folder / ROWS["unseen"]).open("wb") as file:
        np.save(file, made)
    commit_file(folder / ROWS["unseen"])


def row_figures(folder: Path) -> tuple[int, int]:
    """Return the number of rows of the unseen slice, and the number of bytes in the tokens that they predict."""
    rows, lengths = np.load(folder / ROWS["unseen"]), np.load(folder / TOKEN_BYTES)
    return len(rows), int(lengths[rows[:, 1:]].sum(dtype=np.int64))


def upgrade(folder: Path) -> Manifest | None:
    """Add the unseen slice to data of an earlier version, and return the new manifest. For other data return None.

    Raise NotPrepared if data of the earlier version are damaged.
    """
    values = _values(folder / MANIFEST)
    if values is None or values.get("format") != WITHOUT_UNSEEN:
        return None
    old = manifest_of(values | {"format": FORMAT, "unseen": ""}, folder)
    for name, expected in old.sha256.items():
        if not (folder / name).exists() or file_sha256(folder / name) != expected:
            raise NotPrepared(
                f"{folder / name} is not what an earlier version prepared; remove {folder} and run `overnight prepare`"
            )
    write_generated(folder, old.bos)
    rows, text_bytes = row_figures(folder)
    sha256 = old.sha256 | {ROWS["unseen"]: file_sha256(folder / ROWS["unseen"])}
    write_manifest(
        folder,
        replace(
            old,
            rows=old.rows | {"unseen": rows},
            bytes=old.bytes | {"unseen": text_bytes},
            sizes=old.sizes | {ROWS["unseen"]: (folder / ROWS["unseen"]).stat().st_size},
            sha256=sha256,
            digest=files_digest(sha256),
            unseen=GENERATED,
            earlier_digest=old.digest,
        ),
    )
    give_rights(folder)
    return load_manifest(folder)


def _values(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or None; `load_manifest` then reports the error."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
