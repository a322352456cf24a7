"""The digests that identify the data of a run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from researcher.errors import SubjectError

_UNSEEN = "private/unseen.npy"


@dataclass(frozen=True)
class DataDigests:
    """The SHA-256 digests of a data folder: of all files, of all but the unseen slice, and of the files before an
    upgrade added that slice.

    A secret of the folder makes the unseen slice, so data that are prepared again differ in it. `without_unseen` is
    None for the data of a user's task, which have no slices, and `earlier` for data that were always whole.
    """

    whole: str
    without_unseen: str | None
    earlier: str | None

    def are_those_of(self, data_sha256: str, without_unseen_sha256: str | None) -> bool:
        """Return True if scores on these data compare with scores on the data that have the given digests."""
        is_prepared_again = self.without_unseen is not None and self.without_unseen == without_unseen_sha256
        return data_sha256 in (self.whole, self.earlier) or is_prepared_again


def read_digests(folder: Path) -> DataDigests:
    """Read the digests from the manifest of a data folder. Raises SubjectError if there is none."""
    try:
        manifest = dict(json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
        whole = str(manifest["digest"])
        files = {str(name): str(value) for name, value in manifest.get("sha256", {}).items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SubjectError(f"no prepared data in {folder} ({error}); run `overnight prepare` first") from error
    earlier = manifest.get("earlier_digest")
    return DataDigests(whole, _without_unseen(files), None if earlier is None else str(earlier))


def _without_unseen(files: dict[str, str]) -> str | None:
    if _UNSEEN not in files:
        return None
    others = {name: value for name, value in files.items() if name != _UNSEEN}
    return hashlib.sha256(json.dumps(others, sort_keys=True).encode()).hexdigest()
