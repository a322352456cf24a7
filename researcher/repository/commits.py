"""Candidates' commits: plans them from the journal, and stores their objects without a git process or a work tree.

The same plan gives the same sha, whatever the user's git settings: parent, text and date come from the journal, and the
identity is fixed. So a lost commit can be recreated. Each object is synced to the disk, since a decision rests on it.
"""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import git

from researcher.errors import SubjectDamaged, SubjectError
from researcher.files import sync
from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment, Run
from researcher.repository.git_command import IDENTITY, git_output

EDITABLE = "train.py"
_SHA_BYTES = 20


@dataclass(frozen=True)
class Planned:
    """A commit of `source` as the edited script on `parent`, dated `at` in seconds since the epoch.

    `ref` keeps the commit reachable.
    """

    ref: str
    parent: str
    source: str
    message: str
    at: float


def candidate_ref(run: Run, experiment: Experiment) -> str:
    """Return the name of the ref that keeps a candidate reachable, whatever the decision."""
    return f"refs/{run.branch}/{experiment.number}"


def planned(history: JournalReader, run: Run, experiment: Experiment) -> Planned:
    """Plan the commit of an experiment's candidate from the journal alone."""
    parent = None if experiment.parent is None else history.experiment(experiment.parent).commit_sha
    return Planned(
        ref=candidate_ref(run, experiment),
        parent=parent or run.base_commit,
        source=history.source(experiment.id),
        message=f"{experiment.title}\n\n{experiment.hypothesis}\n\nExperiment: {experiment.number}\n"
        f"Proposer: {experiment.proposer}\n",
        at=experiment.proposed_at,
    )


def has_change_of_a_run(path: Path, commit: str, script: str) -> bool:
    """Return whether a commit's history contains a change of the script that a run made; True if git cannot tell.

    Such a change may be a model's. A history that users squashed does not show it.
    """
    by_run = (f"--author=<{IDENTITY.email}>", "--grep=^Proposer: ", "--format=%H", "--max-count=1")
    return git_output(path, "log", *by_run, commit, "--", script) != ""


def make_commit(repository: git.Repo, plan: Planned, expected: str | None = None, *, script: str = EDITABLE) -> str:
    """Store the commit, point its ref at it, and return its sha. `script` is the name of the edited file.

    Raises SubjectDamaged if the sha is not `expected`.
    """
    parent = repository.commit(plan.parent)
    blob = _store(repository, "blob", plan.source.encode())
    tree = _store(repository, "tree", _replaced(parent.tree.data_stream.read(), script.encode(), blob))
    author = f"{IDENTITY.name} <{IDENTITY.email}> {int(plan.at)} +0000"
    head = f"tree {tree.hex()}\nparent {parent.hexsha}\nauthor {author}\ncommitter {author}\n\n"
    commit = repository.commit(_store(repository, "commit", (head + plan.message).encode()).hex())
    if expected is not None and commit.hexsha != expected:
        raise SubjectDamaged(
            f"{plan.ref} is lost, and what the journal makes of it is {commit.hexsha}, not {expected}. "
            f"Next: get {plan.ref} from the subject.bundle of an export with `git fetch`"
        )
    repository.git.update_ref(plan.ref, commit.hexsha)
    return commit.hexsha


def _store(repository: git.Repo, kind: str, content: bytes) -> bytes:
    """Store a loose object and return its sha, as bytes. An empty object, which a power loss leaves, is written again.

    GitPython's own store starts a process for each object.
    """
    stored = f"{kind} {len(content)}".encode() + b"\0" + content
    sha = hashlib.sha1(stored, usedforsecurity=False)
    root, name = Path(repository.odb.root_path()), sha.hexdigest()
    target, partial = root / name[:2] / name[2:], root / f"obj-{name}"
    if not target.exists() or not target.stat().st_size:
        target.parent.mkdir(exist_ok=True)
        partial.unlink(missing_ok=True)
        partial.write_bytes(zlib.compress(stored, zlib.Z_BEST_SPEED))
        partial.chmod(0o444)
        sync(partial)
        partial.replace(target)
        sync(target.parent)
    return sha.digest()


def _replaced(tree: bytes, name: bytes, sha: bytes) -> bytes:
    """Return a tree object with the entry `name` pointing at `sha`.

    Each entry is `MODE NAME`, a zero byte and the sha.
    """
    start = 0
    while start < len(tree):
        end = tree.index(b"\0", start) + 1
        if tree[start : end - 1].partition(b" ")[2] == name:
            return tree[:end] + sha + tree[end + _SHA_BYTES :]
        start = end + _SHA_BYTES
    raise SubjectError(f"the commit that a candidate builds on has no {name.decode()}")
