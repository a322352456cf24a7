"""Reads the rows that score a candidate from a data folder: validation, held-out and unseen rows, and bytes per token.

If the data comes from a user's own prepare.py, the folder also holds the prepare.py that trials get in its place.
Promises: all files have the hashes in the folder's manifest, and the manifest has the digest in the trial's spec. Does
not cover making the data.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.jobs import TrialSpec, files_digest
from trainer.sandbox.visible_paths import Access

PREPARE, ACCESS = "prepare.py", "access.json"
Tokens = npt.NDArray[np.uint16]
Lengths = npt.NDArray[np.int32]


class OtherPrepare(Exception):
    """Raised when the trial's prepare.py is not the one that made the data. The message names the next step."""


class DataFault(Exception):
    """Raised when the data folder is missing, damaged, or not the one in the spec. The message says which."""


@dataclass(frozen=True)
class StandIn:
    """The prepare.py that a trial gets in place of the user's own, which has the sha256 `pinned`.

    `access` is what the script may use beside its data.
    """

    pinned: str
    text: str
    access: Access = field(default_factory=Access)

    def into(self, spec: TrialSpec) -> TrialSpec:
        """Return the spec with this prepare.py. Raise OtherPrepare if its own is not the pinned one."""
        files = self.files(spec.files)
        return replace(spec, files=files, files_sha256=files_digest(files))

    def files(self, files: dict[str, str]) -> dict[str, str]:
        """Return the files with this prepare.py. Raise OtherPrepare if their own is not the pinned one."""
        found = hashlib.sha256(files.get(PREPARE, "").encode()).hexdigest()
        if found != self.pinned:
            raise OtherPrepare(
                f"its {PREPARE} ({found[:12]}) is not the one that gave the data ({self.pinned[:12]}) "
                "and is fixed for a run; restore it, or `overnight init` with the edited one into another --state"
            )
        return files | {PREPARE: self.text}


@dataclass(frozen=True)
class ScoringRows:
    """Arrays (rows, T+1) of tokens, and the UTF-8 length (vocabulary,) of every token, 0 for special tokens."""

    val: Tokens
    heldout: Tokens
    unseen: Tokens
    token_bytes: Lengths
    stand_in: StandIn | None = None

    @property
    def access(self) -> Access:
        """What the script may use beside its data."""
        return Access() if self.stand_in is None else self.stand_in.access

    @property
    def context(self) -> int:
        """The number T of inputs in a row."""
        return int(self.val.shape[1]) - 1

    @property
    def vocab(self) -> int:
        """The number of tokens in the vocabulary."""
        return len(self.token_bytes)


def read_rows(folder: Path, digest: str) -> ScoringRows:
    """Read all rows of a data folder. Raise DataFault unless it holds the data of `digest`, undamaged."""
    hashes, found, pinned = _manifest(folder)
    if found != digest:
        raise DataFault(
            f"{folder} holds the data {found[:12]}, the trial was made for {digest[:12]}; "
            "run `overnight prepare` for its profile on this trainer"
        )
    if "private/unseen.npy" not in hashes:
        raise DataFault(f"{folder} was prepared before there was an unseen slice of text; run `overnight prepare`")
    return ScoringRows(
        val=_read(folder, "private/val.npy", hashes).astype(np.uint16, copy=False),
        heldout=_read(folder, "private/heldout.npy", hashes).astype(np.uint16, copy=False),
        unseen=_read(folder, "private/unseen.npy", hashes).astype(np.uint16, copy=False),
        token_bytes=_read(folder, "token_bytes.npy", hashes).astype(np.int32, copy=False),
        stand_in=_stand_in(folder, hashes, pinned),
    )


def read_stand_in(folder: Path) -> StandIn | None:
    """Return the stand-in of a data folder, or None if its data come from no prepare.py of a user.

    Nothing else of the folder is tested. Raise DataFault if the stand-in is damaged.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return None
    return _stand_in(folder, manifest.get("sha256", {}), manifest.get("pinned"))


def _manifest(folder: Path) -> tuple[dict[str, str], str, str | None]:
    """Return the hashes of the files, the digest of the data, and the hash of the user's own prepare.py."""
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_bytes())
        return dict(manifest["sha256"]), str(manifest["digest"]), manifest.get("pinned")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataFault(f"{path} cannot be read ({error}); run `overnight prepare`") from error


def _stand_in(folder: Path, hashes: dict[str, str], pinned: str | None) -> StandIn | None:
    if pinned is None:
        return None
    access = Access.from_json(_raw(folder, ACCESS, hashes)) if ACCESS in hashes else Access()  # an older folder
    return StandIn(str(pinned), _raw(folder, PREPARE, hashes).decode(), access)


def _read(folder: Path, name: str, hashes: dict[str, str]) -> npt.NDArray[np.integer]:
    array: npt.NDArray[np.integer] = np.load(io.BytesIO(_raw(folder, name, hashes)), allow_pickle=False)
    return array


def _raw(folder: Path, name: str, hashes: dict[str, str]) -> bytes:
    """Return the content of a file, and verify its hash every time.

    Where candidates run as the trainer's user, an earlier candidate may have changed the file.
    """
    path = folder / name
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataFault(f"{path} cannot be read ({error}); run `overnight prepare`") from error
    if hashlib.sha256(raw).hexdigest() != hashes.get(name):
        raise DataFault(f"{path} does not have the hash in the manifest; run `overnight prepare` again")
    return raw
