"""The subject repository: the only module that runs git.

Commits are made so that a redo gives the same sha: parent, text and date come from the journal, the identity is fixed.
A ref per experiment keeps every candidate reachable; the branch `overnight/<tag>` holds the keeps. Nothing a candidate
does can reach this repository: trials get copies of the files.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import git
from git.exc import GitCommandError, InvalidGitRepositoryError, NoSuchPathError

from researcher.errors import SubjectError
from trainer.jobs import SOURCE_LIMIT_BYTES, TRAIN_LIMIT_BYTES

logger = logging.getLogger(__name__)

EDITABLE = "train.py"
NEEDED = (EDITABLE, "prepare.py")
PROGRAM = "program.md"
PROJECTIONS = ("results.tsv", ".results.tsv.partial", "progress.png", ".progress.png.partial")
CONFIRMED_TAGS = "refs/tags/confirmed"
_PARTIAL = ".overnight-partial"
_IDENTITY = git.Actor("Overnight", "overnight@localhost")


@dataclass(frozen=True)
class GitState:
    """Where the repository must stand: the branch and the commit its head and files show."""

    branch: str
    commit: str


class Workspace:
    """One open repository; `close` it, each open one holds two git processes."""

    def __init__(self, path: Path) -> None:
        """Raises SubjectError when `path` is no git repository with the files a subject needs."""
        self.path = path
        try:
            self._repo = git.Repo(path)
        except (InvalidGitRepositoryError, NoSuchPathError):
            raise SubjectError(f"{path} is no git repository; make one there, or leave --subject out") from None
        if self._repo.bare or not self._repo.head.is_valid():
            raise SubjectError(f"{path} has no commit yet; commit your subject first")
        self._repo.git.update_environment(
            GIT_TERMINAL_PROMPT="0",
            GIT_CONFIG_COUNT="3",
            GIT_CONFIG_KEY_0="safe.directory",
            GIT_CONFIG_VALUE_0=str(path.resolve()),
            GIT_CONFIG_KEY_1="core.hooksPath",
            GIT_CONFIG_VALUE_1="/dev/null",
            GIT_CONFIG_KEY_2="gc.auto",
            GIT_CONFIG_VALUE_2="0",
        )
        for name in NEEDED:
            if not self._tracked(name, "HEAD"):
                raise SubjectError(f"{path} has no {name} in its last commit; a subject needs {' and '.join(NEEDED)}")

    def close(self) -> None:
        """End git's helper processes."""
        self._repo.close()

    def require_clean(self) -> None:
        """Raises SubjectError when tracked files differ from the last commit: a run would throw the changes away."""
        changed = self._repo.git.status("--porcelain", "--untracked-files=no")
        if changed:
            names = ", ".join(line[3:] for line in changed.splitlines()[:5])
            raise SubjectError(f"{self.path} has uncommitted changes ({names}); commit or stash them, then start again")

    def head(self) -> str:
        """The commit that is checked out."""
        return self._repo.head.commit.hexsha

    def branches(self) -> set[str]:
        """Local branch names."""
        return {head.name for head in self._repo.heads}

    def files(self, commit: str) -> dict[str, str]:
        """The Python files of a commit, by path: what a trial needs. Raises SubjectError where one is not UTF-8."""
        found: dict[str, str] = {}
        for blob in self._repo.commit(commit).tree.traverse():
            if isinstance(blob, git.Blob) and blob.name.endswith(".py"):
                try:
                    found[str(blob.path)] = blob.data_stream.read().decode("utf-8")
                except UnicodeDecodeError as error:
                    raise SubjectError(f"{blob.path} in {self.path} is not UTF-8 ({error}); convert it") from error
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

        Holding the journal's lock, any lock file inside .git belongs to the dead.
        """
        for lock in Path(self._repo.git_dir).rglob("*.lock"):
            logger.warning("removing %s, left by a killed git", lock)
            lock.unlink()
        self._repo.git.update_ref(f"refs/heads/{state.branch}", state.commit)
        self._repo.git.symbolic_ref("HEAD", f"refs/heads/{state.branch}")
        self._repo.git.reset("--hard", state.commit)
        if self._tracked(PROGRAM, state.commit):
            # The human may edit the goal during the night; without this every reset would take their words away.
            self._repo.git.update_index("--skip-worktree", PROGRAM)
        self._exclude_projections()
        if CONFIRMED_TAGS in self._confirmed_tags():
            raise SubjectError(f"the tag `confirmed` in {self.path} leaves no room for tags confirmed/<n>; rename it")

    def commit_candidate(self, *, branch: str, parent: str, source: str, message: str, at: float, ref: str) -> str:
        """Commit `source` as train.py on top of `parent`, dated `at`; the same arguments give the same sha."""
        self._repo.git.reset("--hard", parent)
        (self.path / EDITABLE).write_text(source, encoding="utf-8")
        self._repo.git.add(EDITABLE)
        date = f"{int(at)} +0000"
        commit = git.Commit.create_from_tree(
            self._repo,
            self._repo.tree(self._repo.git.write_tree()),
            message,
            parent_commits=[self._repo.commit(parent)],
            author=_IDENTITY,
            committer=_IDENTITY,
            author_date=date,
            commit_date=date,
        )
        self._repo.git.update_ref(ref, commit.hexsha)
        self._repo.git.update_ref(f"refs/heads/{branch}", commit.hexsha)
        return commit.hexsha

    def settle(self, commit: str) -> None:
        """`git reset --hard`: the branch and the files show `commit`."""
        self._repo.git.reset("--hard", commit)

    def tag_confirmed(self, run: str, number: int, commit: str) -> None:
        """Tag a run's confirmed state `confirmed/<number>`; again it changes nothing.

        Where another run's tag of that name points elsewhere, ours gets the run's name in front of the number.
        """
        tags = self._confirmed_tags()
        name = f"{CONFIRMED_TAGS}/{number}"
        if tags.get(name, commit) != commit:
            name = f"{CONFIRMED_TAGS}/{run}-{number}"
        if tags.get(name) != commit:
            self._repo.git.update_ref(name, commit)  # `git tag` would sign, or ask for a text, where the user's does

    def diff(self, old: str, new: str) -> str:
        """Unified diff between two commits."""
        return str(self._repo.git.diff(old, new))

    def bundle(self, branch: str, to: Path) -> None:
        """Write a run's branch, its tags and every candidate into one file that `git clone` reads."""
        self._repo.git.bundle("create", to.resolve(), "HEAD", branch, "--tags=confirmed/*", f"--glob=refs/{branch}/*")

    def _confirmed_tags(self) -> dict[str, str]:
        lines = self._repo.git.for_each_ref("--format=%(refname) %(objectname)", CONFIRMED_TAGS).splitlines()
        return dict(line.split() for line in lines)

    def _exclude_projections(self) -> None:
        exclude = Path(self._repo.common_dir) / "info" / "exclude"
        exclude.parent.mkdir(parents=True, exist_ok=True)
        lines = exclude.read_text().splitlines() if exclude.exists() else []
        missing = [name for name in PROJECTIONS if name not in lines]
        if missing:
            exclude.write_text("\n".join([*lines, *missing]) + "\n")

    def _tracked(self, name: str, commit: str) -> bool:
        try:
            self._repo.git.cat_file("-e", f"{commit}:{name}")
        except GitCommandError:
            return False
        return True


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
        repo.index.commit(message, author=_IDENTITY, committer=_IDENTITY)
    for entry in partial.iterdir():
        target = path / entry.name
        if target.is_dir():
            shutil.rmtree(target)
        entry.rename(target)
    partial.rmdir()
