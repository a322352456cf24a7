"""The branch, the index and the files of the run's own repository. They show the state that the journal implies.

Trials do not need the files, since they get copies from commits. So Overnight rewrites the files at any time.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path

import git

from researcher.errors import SubjectDamaged
from researcher.files import write_whole
from researcher.repository.git_command import git_succeeds
from researcher.repository.publishing import HEADS

logger = logging.getLogger(__name__)

EDITED = "{script}.edited-*"


@dataclass(frozen=True)
class GitState:
    """The branch and the commit that the repository must show."""

    branch: str
    commit: str


class WorkTree:
    """The work tree of one repository. `script` is the name of the edited file."""

    def __init__(self, repository: git.Repo, path: Path, script: str) -> None:
        self._git = repository
        self._path = path
        self._script = script
        self._shown: GitState | None = None

    @property
    def branch(self) -> str:
        """The branch of the run."""
        assert self._shown is not None, "the repository is restored before a candidate is shown"
        return self._shown.branch

    def restore(self, state: GitState) -> None:
        """Show `state`, and rebuild the index and missing files without trusting the state after a killed process."""
        self._git.git.update_ref(HEADS + state.branch, state.commit)
        self.show(state)
        self._git.git.reset("-q")
        missing = [name for name in self._git.git.ls_files("--deleted", "-z").split("\0") if name]
        if missing:
            self._git.git.checkout_index("--", *missing)

    def show(self, state: GitState) -> None:
        """Write the script atomically, then move branch and index in one git process that changes no file."""
        self._shown = state
        if (Path(self._git.git_dir) / "HEAD").read_text(encoding="utf-8").strip() != f"ref: {HEADS}{state.branch}":
            self._git.git.symbolic_ref("HEAD", HEADS + state.branch)
        blob = self._git.commit(state.commit).tree[self._script]
        path, content = self._path / self._script, blob.data_stream.read()
        if not path.exists() or path.read_bytes() != content:
            self._keep_edit(path)
            write_whole(path, content)
            path.chmod(0o755 if blob.mode & 0o100 else 0o644)
        if self._head().hexsha != state.commit:
            self._git.git.reset("-q", state.commit)

    def _keep_edit(self, path: Path) -> None:
        """Keep a script that is in no commit under another name, because a user may have edited it."""
        content = path.read_bytes() if path.exists() else None
        shown = self._head().tree[self._script].data_stream.read()
        if content is None or content == shown or git_succeeds(self._path, "cat-file", "-e", _blob_name(content)):
            return
        edited = EDITED.format(script=self._script)
        names = (path.with_name(edited.replace("*", str(number))) for number in itertools.count(1))
        kept = path.rename(next(name for name in names if not name.exists()))
        logger.warning(
            "%s was edited, and is rewritten, since the folder is Overnight's own; the edit is kept as %s. "
            "To have it measured: `overnight submit %s`", path, kept, kept,
        )  # fmt: skip

    def _head(self) -> git.Commit:
        try:
            return self._git.head.commit
        except AssertionError as error:  # GitPython raises this for an empty file
            raise SubjectDamaged(f"the ref that is checked out in {self._path} is empty") from error


def _blob_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
