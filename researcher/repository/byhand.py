"""What people do to the subject while a night works on it, as git tells it and in words for them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from researcher.repository.commits import EDITABLE

NEEDED = (EDITABLE, "prepare.py")
BY_HAND = "by-hand"
MERGES = ("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD")
NAMED = 5  # of the files that were edited


@dataclass(frozen=True)
class Change:
    """A line of `git status --porcelain=v2`. `staged` is the index's blob; `is_gone`: a needed file was deleted."""

    name: str
    staged: str
    is_gone: bool

    @classmethod
    def of(cls, line: str) -> Change:
        """Ordinary changes have 8 fields before the name, renames 9, conflicts 10."""
        count = {"1": 8, "2": 9, "u": 10}[line[0]]
        fields = line.split(" ", count)
        name = fields[count].partition("\t")[0]
        return cls(name, fields[7], line[0] == "1" and fields[1] == ".D" and name in NEEDED)


def about_edits(path: Path, edited: list[str]) -> str:
    """Files edited, or a merge begun, and how to have them measured or given back."""
    if edited[0] in MERGES:
        return f"a merge is under way in {path}; the night goes on beside it and leaves it alone"
    names = " ".join(edited[:NAMED])
    words = f"{names} in {path} was edited by hand; the night goes on beside it and leaves it alone. To "
    if EDITABLE in edited:
        words += f"have it measured: `overnight submit {path / EDITABLE}`; to "
    return f"{words}give it back to the night: `git -C {path} checkout HEAD -- {names}`"


def about_head(path: Path, on: str, branch: str) -> str:
    """Another branch or commit is checked out than the night's."""
    theirs = ", with what was committed by hand," if on.startswith(f"branch {BY_HAND}/") else ""
    return (
        f"{on}{theirs} is checked out in {path}; the night goes on beside it, on {branch}. "
        f"To see the night there again: `git -C {path} checkout {branch}`"
    )


def about_rebase(path: Path) -> str:
    """A branch that is being rebased must not move."""
    return f"a rebase is under way in {path}; the night goes on beside it. To end it: `git -C {path} rebase --abort`"


def about_lock(path: Path, lock: Path) -> str:
    """Some git is at work, or was killed."""
    return f"a git command is under way in {path}; the night goes on beside it. If none is, delete {lock}"
