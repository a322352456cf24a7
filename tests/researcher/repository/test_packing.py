"""The run's own repository stays small, and every candidate stays reachable in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from researcher.repository import packing
from researcher.repository.commits import Planned
from researcher.repository.creation import create_repository
from researcher.repository.git_command import damage, refs_of
from researcher.repository.repository import GitState, Workspace

FILES = {"train.py": "A = 1\n", "prepare.py": "B = 1\n"}
BRANCH = "overnight/test"
LOOSE = 5


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    monkeypatch.setattr(packing, "LOOSE_REFS", LOOSE)
    create_repository(tmp_path / "subject", FILES, "The subject")
    with closing(Workspace(tmp_path / "subject")) as opened:
        opened.restore(GitState(BRANCH, opened.head()))
        yield opened


def try_out(workspace: Workspace, numbers: range) -> dict[str, str]:
    """Commit a candidate for each number, and return all candidates so far."""
    for number in numbers:
        plan = Planned(f"refs/{BRANCH}/{number}", workspace.head(), f"A = {number + 1}\n", "try", at=number)
        workspace.commit_candidate(BRANCH, plan)
    return workspace.candidates(BRANCH)


def loose_objects(workspace: Workspace) -> int:
    return sum(len(folder.name) == 2 for folder in (workspace.path / ".git" / "objects").iterdir())


def loose_refs(workspace: Workspace) -> int:
    folder = workspace.path / ".git" / "refs" / BRANCH
    return len([*folder.iterdir()]) if folder.exists() else 0


def test_many_loose_objects_and_refs_are_packed_and_all_candidates_stay(workspace: Workspace) -> None:
    known = try_out(workspace, range(1, LOOSE + 1))

    workspace.keep_small(BRANCH)

    assert (loose_objects(workspace), loose_refs(workspace)) == (0, 0)
    assert workspace.candidates(BRANCH) == known
    assert len(known) == LOOSE
    again = try_out(workspace, range(LOOSE + 1, 2 * LOOSE + 1))
    workspace.keep_small(BRANCH)
    assert loose_refs(workspace) == 0
    assert workspace.candidates(BRANCH) == again
    assert workspace.files(again[f"refs/{BRANCH}/1"])["train.py"] == "A = 2\n"
    assert damage(workspace.path) is None


def test_a_few_loose_refs_are_left_alone(workspace: Workspace) -> None:
    try_out(workspace, range(1, LOOSE))

    workspace.keep_small(BRANCH)

    assert loose_refs(workspace) == LOOSE - 1


def test_a_failure_loses_nothing_and_is_repaired_after_as_many_candidates_again(workspace: Workspace) -> None:
    known = try_out(workspace, range(1, LOOSE + 1))
    lock = workspace.path / ".git" / "packed-refs.lock"
    lock.touch()

    workspace.keep_small(BRANCH)

    assert workspace.candidates(BRANCH) == known
    assert not lock.exists(), "a git that was killed left it"
    try_out(workspace, range(LOOSE + 1, 2 * LOOSE))
    workspace.keep_small(BRANCH)
    assert loose_refs(workspace) == 2 * LOOSE - 1, "it is not tried again at each experiment"
    known = try_out(workspace, range(2 * LOOSE, 2 * LOOSE + 1))
    workspace.keep_small(BRANCH)
    assert loose_refs(workspace) == 0
    assert refs_of(workspace.path, f"refs/{BRANCH}/") == known


def test_a_start_removes_the_unfinished_packs_of_a_killed_git(workspace: Workspace) -> None:
    packs = workspace.path / ".git" / "objects" / "pack"
    packs.mkdir(exist_ok=True)
    halves = [packs / "tmp_pack_Ab12Cd", packs / ".tmp-4711-pack-0123.pack"]
    for half in halves:
        half.write_bytes(b"half")

    workspace.restore(GitState(BRANCH, workspace.head()))

    assert not any(half.exists() for half in halves)
