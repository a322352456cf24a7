"""The subject repository. A ref per experiment keeps every candidate reachable; `overnight/<tag>` holds the keeps.

With `commits` (a candidate's), `worktree` (what a person sees and does) and `rescue` (a lost `.git`) the only modules
that use git. Nothing a candidate does can reach this repository: trials get copies of the files.
"""

from __future__ import annotations

import configparser
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import git
from git.exc import GitCommandError, GitError, InvalidGitRepositoryError, NoSuchPathError, ODBError

from researcher.errors import SubjectDamaged, SubjectError
from researcher.repository.byhand import NEEDED
from researcher.repository.commits import EDITABLE, IDENTITY, Planned, make_commit
from researcher.repository.worktree import GitState, WorkTree
from trainer.jobs import SOURCE_LIMIT_BYTES, TRAIN_LIMIT_BYTES

__all__ = ["EDITABLE", "PROGRAM", "GitState", "Workspace", "create_repository", "needs_repository"]

logger = logging.getLogger(__name__)

PROGRAM = "program.md"
LEFT_BY_KILLS = tuple(f".{name}.partial" for name in ("results.tsv", "progress.png", EDITABLE))
MENDING, BROKEN = ".git.mending", ".git.broken-*"  # a repository while it is made again, and what is kept aside then
NOT_OF_THE_SUBJECT = ("results.tsv", "progress.png", *LEFT_BY_KILLS, MENDING, BROKEN)
CONFIRMED_TAGS = "refs/tags/confirmed"
_PARTIAL = ".overnight-partial"


class Workspace:
    """One open repository; `close` it, each open one holds two git processes."""

    def __init__(self, path: Path, base: str = "HEAD") -> None:
        """Raises SubjectError when `path` is no git repository with the files a subject needs in the commit `base`."""
        self.path = path
        self.repository = _open(path)
        if base == "HEAD" and (self.repository.bare or not self.repository.head.is_valid()):
            raise SubjectError(f"{path} has no commit yet; commit your subject first")
        self._tree = WorkTree(self.repository, path)
        for name in NEEDED:
            if not self._tracked(name, base):
                raise SubjectError(f"{path} has no {name} in its last commit; a subject needs {' and '.join(NEEDED)}")

    def close(self) -> None:
        """End git's helper processes."""
        self.repository.close()

    def require_clean(self) -> None:
        """Raises SubjectError when tracked files differ from the last commit: a run would throw the changes away."""
        changed = self.repository.git.status("--porcelain", "--untracked-files=no")
        if changed:
            names = ", ".join(line[3:] for line in changed.splitlines()[:5])
            raise SubjectError(f"{self.path} has uncommitted changes ({names}); commit or stash them, then start again")

    def head(self) -> str:
        """The commit that is checked out."""
        return self.repository.head.commit.hexsha

    def branches(self) -> set[str]:
        """Local branch names."""
        return {head.name for head in self.repository.heads}

    def files(self, commit: str) -> dict[str, str]:
        """The Python files of a commit, by path: what a trial needs. Raises SubjectError where one is not UTF-8."""
        found: dict[str, str] = {}
        with self._damage_told():
            blobs = [item for item in self.repository.commit(commit).tree.traverse() if isinstance(item, git.Blob)]
            contents = {str(blob.path): blob.data_stream.read() for blob in blobs if blob.name.endswith(".py")}
        for name, content in contents.items():
            try:
                found[name] = content.decode("utf-8")
            except UnicodeDecodeError as error:
                raise SubjectError(f"{name} in {self.path} is not UTF-8 ({error}); convert it") from error
        return found

    def require_portable(self, commit: str) -> None:
        """Raises SubjectError when the Python files are more than a trial carries to a trainer."""
        sizes = {name: len(text.encode()) for name, text in self.files(commit).items()}
        besides = sum(sizes.values()) - sizes[EDITABLE]
        room = SOURCE_LIMIT_BYTES - TRAIN_LIMIT_BYTES
        if sizes[EDITABLE] > TRAIN_LIMIT_BYTES or besides > room:
            raise SubjectError(
                f"{self.path} has {sizes[EDITABLE]} bytes of {EDITABLE} and {besides} bytes of other Python files; "
                f"a trial carries at most {TRAIN_LIMIT_BYTES} and {room}: keep only what {EDITABLE} needs"
            )

    def program(self) -> str:
        """The human's goal, from the work tree: they may edit it during the night."""
        path = self.path / PROGRAM
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def restore(self, state: GitState) -> None:
        """Make head, branch and files what the journal implies, whatever a killed process left.

        Holding the journal's lock, any lock file inside .git belongs to the dead. What people did stays.
        """
        with self._damage_told():
            for lock in Path(self.repository.git_dir).rglob("*.lock"):
                logger.warning("removing %s, left by a killed git", lock)
                lock.unlink()
            halves = Path(self.repository.odb.root_path()).glob("obj?*")
            for half in (*halves, *(self.path / name for name in LEFT_BY_KILLS)):
                half.unlink(missing_ok=True)
            if self.repository.git.ls_files("--", PROGRAM):
                # The human may edit the goal during the night; that is no edit to go on beside.
                self.repository.git.update_index("--skip-worktree", PROGRAM)
            self._exclude_what_is_ours()
            if not self.repository.git.for_each_ref("--count=1", f"refs/{state.branch}/"):
                self._tree.take_head(state)
            self._tree.look_after(state)
            if CONFIRMED_TAGS in self._confirmed_tags():
                raise SubjectError(
                    f"the tag `confirmed` in {self.path} leaves no room for tags confirmed/<n>; rename it"
                )

    def commit_candidate(self, branch: str, plan: Planned) -> str:
        """Commit a candidate and show it on the branch; the same plan gives the same sha."""
        with self._damage_told():
            commit = make_commit(self.repository, plan)
            self._tree.show(GitState(branch, commit))
        return commit

    def settle(self, commit: str) -> None:
        """The branch and the files show `commit`."""
        with self._damage_told():
            self._tree.show(GitState(self._tree.branch, commit))

    def look(self) -> str:
        """What a person did in the subject that the night goes on beside, or what is wrong there; "" for nothing.

        Shows the night's state where nothing is in the way any more.
        """
        try:
            with self._damage_told():
                words = self._tree.look()
        except SubjectDamaged as damaged:
            return f"{damaged}; it is made again before the next step"
        kept = ", ".join(sorted(str(path) for path in self.path.glob(BROKEN)))
        return words or (
            kept and f"the git repository was damaged and is made again; delete {kept} if nothing is missed"
        )

    def candidates(self, branch: str) -> dict[str, str]:
        """The refs of a night's candidates, and the commits they name."""
        with self._damage_told():
            lines = self.repository.git.for_each_ref(
                "--format=%(refname) %(objectname)", f"refs/{branch}/"
            ).splitlines()
        return dict(line.split() for line in lines)

    def commit_again(self, plan: Planned, commit: str | None) -> None:
        """A candidate's commit that is lost; nothing is shown. Raises SubjectDamaged if it is another one now."""
        with self._damage_told():
            make_commit(self.repository, plan, commit)

    def reopen(self) -> None:
        """After `.git` was made again."""
        self.repository.close()
        self.repository = _open(self.path)
        self._tree = WorkTree(self.repository, self.path)

    def tag_confirmed(self, run: str, number: int, commit: str) -> None:
        """Tag a run's confirmed state `confirmed/<number>`; again it changes nothing.

        Where another run's tag of that name points elsewhere, ours gets the run's name in front of the number.
        """
        with self._damage_told():
            tags = self._confirmed_tags()
            name = f"{CONFIRMED_TAGS}/{number}"
            if tags.get(name, commit) != commit:
                name = f"{CONFIRMED_TAGS}/{run}-{number}"
            if tags.get(name) != commit:
                # `git tag` would sign, or ask for a text, where the user's does
                self.repository.git.update_ref(name, commit)

    def diff(self, old: str, new: str) -> str:
        """Unified diff between two commits: all of it, whatever the repository's attributes say of its files."""
        return str(self.repository.git.diff("--text", "--no-ext-diff", "--no-textconv", old, new))

    def bundle(self, branch: str, to: Path) -> None:
        """Write a run's branch, its tags and every candidate into one file that `git clone` reads."""
        self.repository.git.bundle(
            "create", to.resolve(), "HEAD", branch, "--tags=confirmed/*", f"--glob=refs/{branch}/*"
        )

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """Raises SubjectDamaged for an error that the repository's state explains; any other stays what it is."""
        try:
            yield
        except (ODBError, ValueError) as error:  # an object or a ref that the journal names cannot be read
            raise SubjectDamaged(damage(self.path) or f"{error}") from error
        except (GitError, OSError) as error:
            found = damage(self.path)
            if found is None:
                raise
            raise SubjectDamaged(found) from error

    def _confirmed_tags(self) -> dict[str, str]:
        lines = self.repository.git.for_each_ref("--format=%(refname) %(objectname)", CONFIRMED_TAGS).splitlines()
        return dict(line.split() for line in lines)

    def _exclude_what_is_ours(self) -> None:
        exclude = Path(self.repository.common_dir) / "info" / "exclude"
        exclude.parent.mkdir(parents=True, exist_ok=True)
        lines = exclude.read_text().splitlines() if exclude.exists() else []
        missing = [name for name in NOT_OF_THE_SUBJECT if name not in lines]
        if missing:
            exclude.write_text("\n".join([*lines, *missing]) + "\n")

    def _tracked(self, name: str, commit: str) -> bool:
        try:
            self.repository.git.cat_file("-e", f"{commit}:{name}")
        except GitCommandError:
            return False
        return True


def _open(path: Path) -> git.Repo:
    try:
        repository = git.Repo(path)
    except (InvalidGitRepositoryError, NoSuchPathError, configparser.Error):
        raise SubjectError(f"{path} is no git repository; make one there, or leave --subject out") from None
    repository.git.update_environment(**git_environment(path))
    return repository


def git_environment(path: Path) -> dict[str, str]:
    """What git is told beside its settings: to trust this folder, whoever owns it, and to run and ask nothing."""
    settings = {"safe.directory": str(path.resolve()), "core.hooksPath": os.devnull, "gc.auto": "0"}
    named = {f"GIT_CONFIG_KEY_{number}": name for number, name in enumerate(settings)}
    valued = {f"GIT_CONFIG_VALUE_{number}": value for number, value in enumerate(settings.values())}
    return {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",  # a look is in nobody's way
        "GIT_CEILING_DIRECTORIES": str(path.resolve().parent),  # never a repository around one that is lost
        "GIT_CONFIG_COUNT": str(len(settings)),
        **named,
        **valued,
    }


def damage(path: Path) -> str | None:
    """What is wrong with the repository in `path`, as git finds it; None when it is whole."""
    if not (path / ".git").exists() and not (path / "objects").exists():
        return f"{path / '.git'} is gone"
    checker = git.Git(path)
    checker.update_environment(**git_environment(path))
    code, out, err = checker.execute(
        ["git", "fsck", "--no-dangling", "--no-progress"], with_extended_output=True, with_exceptions=False
    )
    return None if code == 0 else next(iter(f"{err}\n{out}".split("\n")), "").strip() or f"git fsck ends with {code}"


def needs_repository(path: Path) -> bool:
    """True for a folder that is missing, empty, or in which making a repository was interrupted."""
    return not path.exists() or not any(path.iterdir()) or (path / _PARTIAL).exists()


def create_repository(path: Path, files: dict[str, str], message: str) -> None:
    """A new subject repository with `files` in its first commit; interrupted, it is made again by the next call.

    It is built inside `path`, which may be a volume's root and then cannot be renamed to.
    """
    partial = path / _PARTIAL
    if partial.exists():
        shutil.rmtree(partial)
    with git.Repo.init(partial, mkdir=True, initial_branch="main") as repo:
        for name, text in files.items():
            (partial / name).write_text(text, encoding="utf-8")
        repo.index.add(list(files))
        repo.index.commit(message, author=IDENTITY, committer=IDENTITY)
    for entry in partial.iterdir():
        target = path / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.rename(target)
    partial.rmdir()
