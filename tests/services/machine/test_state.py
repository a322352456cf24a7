"""The state folder as a run makes it: who may look into it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.machine.state import State


@pytest.fixture(params=[0o022, 0o077], ids=["022", "077"])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_whoever_a_candidate_is_passes_through_the_state_and_sees_nothing_of_the_journal(
    umask: None, tmp_path: Path
) -> None:
    state = State(tmp_path / "state")

    state.resolve(profile="cpu", detect=lambda: "cpu")

    assert (mode(state.root), mode(state.journal)) == (0o711, 0o700)


def test_rights_of_a_folder_that_was_there_are_left_alone(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.root.mkdir(mode=0o750)

    state.resolve(profile="cpu", detect=lambda: "cpu")

    assert mode(state.root) == 0o750
