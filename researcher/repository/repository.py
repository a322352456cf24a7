"""The run's own git repository. Each experiment has a ref, which keeps its candidate reachable.

The branch `overnight/<tag>` and the work tree show the current candidate, else the incumbent. Overnight rewrites them
from the journal at any time, except for program.md, which users may edit. Trials get copies of files from commits. Only
the modules of this folder use git. No candidate can reach this repository.
"""

from __future__ import annotations

import configparser
import logging
import os
import posixpath
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import git
from git.exc import GitError, InvalidGitRepositoryError, NoSuchPathError, ODBError

from researcher.errors import NotText, SubjectDamaged, SubjectError
from researcher.files import read_text, text_of, write_whole
from researcher.journal.database import SUBJECT_LOCK
from researcher.journal.records import Run
from researcher.repository.commits import EDITABLE, Planned, has_change_of_a_run, make_commit
from researcher.repository.earlier_runs import checked_out, record_kept
from researcher.repository.git_command import (
    GitFailed,
    damage,
    filters_off,
    git_environment,
    git_output,
    git_succeeds,
    lacks_objects,
    refs_of,
    run_git,
    uncommitted,
)
from researcher.repository.packing import Packer, remove_halves
from researcher.repository.publishing import CONFIRMED_TAGS, REFETCH, Pushed, UserRepository
from researcher.repository.worktree import EDITED, REPORTS, GitState, WorkTree
from trainer.jobs import SOURCE_LIMIT_BYTES, TRAIN_LIMIT_BYTES
from trainer.jobs.task import TASK_FILE

logger = logging.getLogger(__name__)

__all__ = ["EDITABLE", "PROGRAM", "GitState", "Workspace"]

PROGRAM = "program.md"
FIXED = "prepare.py"
MENDING, BROKEN = ".git.mending", ".git.broken-*"  # a repository under repair, and a damaged one kept aside
_LFS_POINTER = b"version https://git-lfs."
_LINKS_LIMIT = 40  # as the kernel's


class Workspace:
    """An open repository. Call `close` at the end, because each open one runs two git processes."""

    def __init__(
        self, path: Path, base: str = "HEAD", user: UserRepository | None = None, script: str = EDITABLE
    ) -> None:
        """Open the repository. `user` is the repository to push to, if any, and `script` its name for train.py.

        Raises SubjectError if `path` is no git repository, or if its commit `base` lacks the files that a subject
        needs.
        """
        self.path = path
        self.repository = _open(path)
        if base == "HEAD" and lacks_objects(path, checked_out(path)):
            raise SubjectError(
                f"{path} is a partial clone without some files of its last commit. {REFETCH.format(path)}"
            )
        self.user = user
        self.lost_time = ""  # describes what a journal that was restored from a backup does not know
        self.script = script
        self._tree = WorkTree(self.repository, path, script)
        self._packer = Packer(path)
        self._to_push: Pushed | None = None
        self._made: dict[str, str] = {}  # refs and tags since the last push
        self._program: str | None = None
        self._program_fault = ""
        self._base = base
        self._recorded: str | None = None
        other = TASK_FILE if git_succeeds(path, "cat-file", "-e", f"{base}:{TASK_FILE}") else FIXED
        for name in (script, other):
            if not git_succeeds(path, "cat-file", "-e", f"{base}:{name}"):
                raise SubjectError(f"{path} has no {name} in its last commit; a subject needs {script} and {other}")
        kinds = {name: self.repository.commit(base).tree[name] for name in (script, other)}
        if kinds[script].mode == git.Blob.link_mode:
            raise SubjectError(
                f"{script} in the last commit of {path} is a symbolic link; commit the file itself in its place"
            )
        for name in (name for name, found in kinds.items() if not isinstance(found, git.Blob)):
            raise SubjectError(f"{name} in the last commit of {path} is no file; commit a file of this name")

    def close(self) -> None:
        """End git's helper processes."""
        self.repository.close()

    def require_clean(self) -> None:
        """Raise SubjectError if tracked files differ from the last commit, because a run would ignore the changes.

        Overnight's own reports are not meant, even where the user has committed earlier ones.
        """
        path = self.path if self.user is None else self.user.path
        changed = [name for name in uncommitted(path) if name not in REPORTS]
        if changed:
            names = ", ".join(changed[:5])
            raise SubjectError(f"{path} has uncommitted changes ({names}); commit or stash them, then start again")

    def head(self) -> str:
        """Return the sha of the checked-out commit."""
        return checked_out(self.path)

    def branches(self) -> set[str]:
        """Return local branch names, here and in the user's repository."""
        own = {head.name for head in self.repository.heads}
        return own if self.user is None else own | self.user.branches()

    def files(self, commit: str) -> dict[str, str]:
        """Return the Python files of a commit by path, for a trial; the edited script is `train.py` there.

        Raises SubjectError if a file or its name is not UTF-8, or if Git LFS keeps it elsewhere.
        """
        found: dict[str, str] = {}
        with self.damage_reported():
            blobs = [item for item in self.repository.commit(commit).tree.traverse() if isinstance(item, git.Blob)]
            files = {str(blob.path): blob for blob in blobs}
            contents = {name: self._followed(name, files) for name in files if name.endswith(".py")}
        for name, content in contents.items():
            try:
                name.encode()  # git allows any bytes in a name, and a trial's files are JSON
                found[name] = content.decode("utf-8-sig")
            except UnicodeEncodeError as error:
                raise SubjectError(f"the file name {name!r} in {self.path} is not UTF-8; rename the file") from error
            except UnicodeDecodeError as error:
                raise SubjectError(f"{name} in {self.path} is not UTF-8 ({error}); convert it") from error
            if content.startswith(_LFS_POINTER):
                raise SubjectError(f"{name} in {self.path} is kept in Git LFS; commit the file itself")
        found[EDITABLE] = found.pop(self.script)
        return found

    def _followed(self, name: str, files: Mapping[str, git.Blob]) -> bytes:
        """Return the content of a file of a commit; of a symbolic link, the content of the file that it leads to."""
        end, steps = name, 0
        while end in files and files[end].mode == git.Blob.link_mode and steps < _LINKS_LIMIT:
            target = os.fsdecode(files[end].data_stream.read())
            end, steps = posixpath.normpath(posixpath.join(posixpath.dirname(end), target)), steps + 1
        if end not in files or files[end].mode == git.Blob.link_mode:
            raise SubjectError(
                f"{name} in {self.path} is a symbolic link that leads to no file of the commit; commit the file itself"
            )
        return bytes(files[end].data_stream.read())

    def require_portable(self, commit: str) -> None:
        """Raise SubjectError if the Python files are larger than a trial may be."""
        sizes = {name: len(text.encode()) for name, text in self.files(commit).items()}
        besides = sum(sizes.values()) - sizes[EDITABLE]
        room = SOURCE_LIMIT_BYTES - TRAIN_LIMIT_BYTES
        if sizes[EDITABLE] > TRAIN_LIMIT_BYTES or besides > room:
            raise SubjectError(
                f"{self.path} has {sizes[EDITABLE]} bytes of {self.script} and {besides} bytes of other Python files; "
                f"a trial carries at most {TRAIN_LIMIT_BYTES} and {room}: keep only what {self.script} needs"
            )

    def require_free_names(self, commit: str, tag: str) -> None:
        """Raise SubjectError if a ref, or a folder of the commit, has a name that the run `tag` needs."""
        refs = {"refs/overnight", f"refs/overnight/{tag}", CONFIRMED_TAGS}
        for ref in sorted(refs & refs_of(self.path, *refs).keys()):
            raise SubjectError(
                f"the ref {ref} in {self.path} is in the way of the run's refs; rename it: "
                f"`git -C {self.path} update-ref {ref}-mine {ref}`, then `git -C {self.path} update-ref -d {ref}`"
            )
        for folder in (tree for tree in self.repository.commit(commit).tree.trees if tree.name in REPORTS):
            raise SubjectError(
                f"{folder.name} in the last commit of {self.path} is a folder, and Overnight writes a file of this "
                f"name; rename the folder, for example with `git mv {folder.name} earlier`, and commit it"
            )

    def program(self) -> str:
        """Return the user's goal, which may change during a run: program.md of the user's repository or of this one.

        A file that is not text is reported, and the last goal that was text stays in force, at first the committed one.
        """
        try:
            self._program, self._program_fault = self._read_program(), ""
        except NotText as error:
            if self._program is None:
                with suppress(NotText):
                    self._program = self._committed_program(self._base)
            if not self._program_fault:
                logger.warning("%s. Until then the run goes on with the goal that was there before", error)
            self._program_fault = str(error)
        return self._program or ""

    def require_text_program(self, commit: str) -> None:
        """Raise SubjectError if the goal of a new run is not text."""
        try:
            self._committed_program(commit)
            self._read_program()
        except NotText as error:
            raise SubjectError(f"{error}, commit it, then start again") from error

    def _read_program(self) -> str:
        theirs = None if self.user is None else self.user.text_of(PROGRAM)
        path = self.path / PROGRAM
        if theirs is not None:
            return theirs
        return read_text(path) if path.exists() else ""

    def _committed_program(self, commit: str) -> str:
        if not git_succeeds(self.path, "cat-file", "-e", f"{commit}:{PROGRAM}"):
            return ""
        content = self.repository.commit(commit).tree[PROGRAM].data_stream.read()
        return text_of(content, f"{PROGRAM} in the last commit of {self.path}")

    def restore(self, state: GitState) -> None:
        """Make head, branch, index and files show `state`, whatever a killed process left.

        The caller holds the journal's lock, so any lock file inside .git belongs to a process that is dead.
        """
        with self.damage_reported():
            remove_halves(Path(self.repository.git_dir))
            for name in self._left_by_kills:
                (self.path / name).unlink(missing_ok=True)
            self._exclude_what_is_ours()
            self._tree.restore(state)

    def commit_candidate(self, branch: str, plan: Planned) -> str:
        """Commit a candidate and show it on the branch. The same plan gives the same sha."""
        with self.damage_reported():
            commit = make_commit(self.repository, plan, script=self.script)
            self._made[plan.ref] = commit
            self._tree.show(GitState(branch, commit))
        return commit

    def checkout(self, commit: str) -> None:
        """Make the branch and the files show `commit`."""
        with self.damage_reported():
            self._tree.show(GitState(self._tree.branch, commit))

    def publish(self, run: Run, commit: str) -> None:
        """Push a run's branch at `commit`, its tags and its refs to the user's repository, if there is one.

        `commit` is the incumbent; it is recorded in this repository, too.
        """
        if self._recorded != commit:
            with self.damage_reported():
                record_kept(self.path, run, commit)
            self._recorded = commit
        self._to_push = Pushed(self.path, run.branch, run.base_commit, commit, self._made)
        self._made = {}
        self._push()

    def keep_small(self, branch: str) -> None:
        """Pack objects and refs if many are loose. Call it between two experiments, when nothing waits for git."""
        self._packer.pack_if_due(branch)

    def is_of_users(self, commit: str) -> bool:
        """Return whether no run has changed the script in a commit's history."""
        return not has_change_of_a_run(self.path, commit, self.script)

    def inspect(self) -> str:
        """Describe a failed push, a repaired damage or a restored journal as text; "" if there is none.

        Retries a failed push.
        """
        kept = ", ".join(sorted(str(path) for path in self.path.glob(BROKEN)))
        if self.user is not None and self.user.message:
            try:
                self._push()
            except SubjectDamaged as damaged:
                return f"{damaged}; it is made again before the next step"
        message = "" if self.user is None else self.user.message
        again = kept and f"the git repository was damaged and is made again; delete {kept} if nothing is missed"
        return "; ".join(filter(None, (message, self._program_fault, self.lost_time))) or again

    def candidates(self, branch: str) -> dict[str, str]:
        """Return the refs of a run's candidates with their commits."""
        with self.damage_reported():
            return refs_of(self.path, f"refs/{branch}/")

    def read_candidates(self, run: Run) -> None:
        """Read all objects of the candidates, so that a start finds damage at once. Raises SubjectDamaged."""
        revisions = [*self.candidates(run.branch).values(), f"^{run.base_commit}"]
        pack = ("pack-objects", "-q", "--revs", "--stdout", "--window=0")
        with self.damage_reported():
            run_git(self.path, *pack, stdin="\n".join(revisions).encode())

    def commit_again(self, plan: Planned, commit: str | None) -> None:
        """Recreate a candidate's lost commit without showing it. Raises SubjectDamaged if the new sha differs."""
        with self.damage_reported():
            make_commit(self.repository, plan, commit, script=self.script)

    def reopen(self) -> None:
        """Open the repository again after a repair."""
        self.repository.close()
        self.repository = _open(self.path)
        self._tree = WorkTree(self.repository, self.path, self.script)
        self._recorded = None

    def tag_confirmed(self, run: str, number: int, commit: str) -> None:
        """Tag a run's confirmed version as `confirmed/<number>`; repeated calls change nothing.

        If another run's tag has that name, the tag becomes `confirmed/<run>-<number>`.
        """
        with self.damage_reported():
            tags = refs_of(self.path, CONFIRMED_TAGS)
            name = f"{CONFIRMED_TAGS}/{number}"
            if tags.get(name, commit) != commit:
                name = f"{CONFIRMED_TAGS}/{run}-{number}"
            if tags.get(name) != commit:
                self.repository.git.update_ref(name, commit)
                self._made[name] = commit

    @contextmanager
    def damage_reported(self) -> Iterator[None]:
        """Turn an error into SubjectDamaged if the repository is damaged; raise any other error unchanged."""
        try:
            yield
        except (ODBError, ValueError) as error:  # an object or a ref of the journal is unreadable
            raise SubjectDamaged(damage(self.path) or f"{error}") from error
        except (GitError, OSError) as error:
            found = damage(self.path)
            if found is None:
                raise
            raise SubjectDamaged(found) from error

    def diff(self, old: str, new: str) -> str:
        """Return the unified diff between two commits, complete even if the repository's attributes exclude files."""
        return str(self.repository.git.diff("--text", "--no-ext-diff", "--no-textconv", old, new))

    def bundle(self, branch: str, to: Path) -> None:
        """Write a run's branch, its tags and every candidate into one file that `git clone` reads."""
        self.repository.git.bundle(
            "create", to.resolve(), "HEAD", branch, "--tags=confirmed/*", f"--glob=refs/{branch}/*"
        )

    def _push(self) -> None:
        if self.user is not None and self._to_push is not None:
            with self.damage_reported():
                self.user.push(self._to_push)

    @property
    def _left_by_kills(self) -> tuple[str, ...]:
        return tuple(f".{name}.partial" for name in (*REPORTS, self.script))

    def _exclude_what_is_ours(self) -> None:
        exclude = Path(self.repository.common_dir) / "info" / "exclude"
        exclude.parent.mkdir(parents=True, exist_ok=True)
        lines = exclude.read_bytes().splitlines() if exclude.exists() else []  # users write there, in any encoding
        edited = EDITED.format(script=self.script)
        ours = (*REPORTS, *self._left_by_kills, MENDING, BROKEN, edited, SUBJECT_LOCK)
        missing = [name.encode() for name in ours if name.encode() not in lines]
        if missing:
            write_whole(exclude, b"\n".join([*lines, *missing]) + b"\n")


def _open(path: Path) -> git.Repo:
    try:
        repository = git.Repo(path)
    except (InvalidGitRepositoryError, NoSuchPathError, configparser.Error):
        raise SubjectError(f"{path} is no git repository; make one there, or leave --subject out") from None
    if git_output(path, "rev-parse", "--show-object-format") == "sha256":
        repository.close()
        raise SubjectError(
            f"{path} names its commits by SHA-256, and Overnight reads only repositories that name them by SHA-1. "
            f"Next: convert a copy: `git init --object-format=sha1 COPY`, then "
            f"`git -C {path} fast-export --all | git -C COPY fast-import`"
        )
    try:
        repository.git.update_environment(**git_environment(path, filters_off(path)))
    except GitFailed as error:
        repository.close()
        raise SubjectError(f"git cannot read the settings of {path}: {error.message}") from error
    return repository
