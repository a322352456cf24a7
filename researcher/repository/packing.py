"""Packs the run's own repository: each experiment leaves three loose objects and a ref, which would make git slow.

Git's own upkeep is off, because it would start in the middle of a step. Loose objects go into packs whose sizes grow
geometrically, so that a large history of the user is not packed again. Refs go into git's file of packed refs.
"""

from __future__ import annotations

import logging
from pathlib import Path

from researcher.repository.git_command import GitFailed, GitKilled, remove_locks, run_git

logger = logging.getLogger(__name__)

LOOSE_REFS = 200  # candidates; with so many loose refs the repository is packed
LIMIT_S = 120.0  # for each command
_SETTINGS = {
    "core.fsync": "committed,reference,derived-metadata",  # loose objects go once the disk has the pack and its index
    "pack.threads": "1",
}


class Packer:
    """Packs the repository in the folder `path` when many refs of a run's candidates are loose."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due_at = LOOSE_REFS

    def pack_if_due(self, branch: str) -> None:
        """Pack objects and refs if it is time. Call it when no other git process writes there.

        A failure is logged and loses nothing, since git removes only what a complete pack holds. It is tried again
        after `LOOSE_REFS` further candidates.
        """
        loose = _files_in(self._path / ".git" / "refs" / branch)
        if loose < self._due_at:
            return
        try:
            self._git("repack", "-d", "-l", "-q", "--geometric=2")
            self._git("pack-refs", "--all")
            self._due_at = LOOSE_REFS
        except (GitFailed, GitKilled) as error:
            logger.warning("%s cannot be packed (%s); the run goes on, and tries again later", self._path, error)
            remove_halves(self._path / ".git")
            self._due_at = loose + LOOSE_REFS

    def _git(self, *arguments: str) -> None:
        run_git(self._path, *arguments, settings=_SETTINGS, limit_s=LIMIT_S)


def remove_halves(folder: Path) -> None:
    """Remove locks and unfinished files that a killed git left in a `.git`. No git process may be writing there."""
    remove_locks(folder)
    objects = folder / "objects"
    for half in (*objects.glob("obj?*"), *objects.glob("pack/tmp_*"), *objects.glob("pack/.tmp-*")):
        half.unlink(missing_ok=True)


def _files_in(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
