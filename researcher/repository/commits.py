"""Candidates' commits: plans them from the journal, and stores their objects without a git process or a work tree.

The same plan gives the same sha, whatever the user's git settings: parent, text and date come from the journal, and the
identity is fixed. So a lost commit can be recreated. Objects are not synced to the disk one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import git
from gitdb import IStream, LooseObjectDB

from researcher.errors import SubjectDamaged, SubjectError
from researcher.journal.reader import JournalReader
from researcher.journal.records import Experiment, Run
from researcher.repository.git_command import IDENTITY

EDITABLE = "train.py"
_SHA_BYTES = 20


@dataclass(frozen=True)
class Planned:
    """A commit of `source` as train.py on `parent`, dated `at` in seconds since the epoch.

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


def make_commit(repository: git.Repo, plan: Planned, expected: str | None = None) -> str:
    """Store the commit, point its ref at it, and return its sha. Raises SubjectDamaged if the sha is not `expected`."""
    parent = repository.commit(plan.parent)
    blob = _store(repository, "blob", plan.source.encode())
    tree = _store(repository, "tree", _replaced(parent.tree.data_stream.read(), EDITABLE.encode(), blob))
    author = f"{IDENTITY.name} <{IDENTITY.email}> {int(plan.at)} +0000"
    head = f"tree {tree.hex()}\nparent {parent.hexsha}\nauthor {author}\ncommitter {author}\n\n"
    commit = repository.commit(_store(repository, "commit", (head + plan.message).encode()).hex())
    if expected is not None and commit.hexsha != expected:
        raise SubjectDamaged(
            f"{plan.ref} is lost, and what the journal makes of it is {commit.hexsha}, not {expected}. "
            f"Next: get {plan.ref} from the subject.bundle of an export with `git fetch`"
        )
    git.Reference(repository, plan.ref).set_reference(commit)
    return commit.hexsha


def _store(repository: git.Repo, kind: str, content: bytes) -> bytes:
    loose = LooseObjectDB(repository.odb.root_path())  # GitPython's own store starts a process for each object
    stored: bytes = loose.store(IStream(kind.encode(), len(content), BytesIO(content))).binsha
    return stored


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
