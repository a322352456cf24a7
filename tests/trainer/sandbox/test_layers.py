"""The table of layers: what results report is what was really put on, and every act of the table is tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trainer.sandbox.test_guardian import guarded
from trainer.sandbox.landlock import abi
from trainer.sandbox.launch import MARKER, can_own_root
from trainer.sandbox.layers import LAYERS

ALWAYS = {
    *("own-session", "rlimits", "closed-descriptors", "parent-death-signal", "no-new-privileges", "no-capabilities"),
    *("clean-environment", "seccomp", "subreaper"),
}
LANDLOCK = {f"landlock-{abi()}"} if abi() else set()


def test_what_was_put_on_is_reported_and_nothing_else(tmp_path: Path) -> None:
    _, ending = guarded(tmp_path, ["/bin/true"])

    assert ending.exit_code == 0
    assert set(ending.layers) == ALWAYS | LANDLOCK


@pytest.mark.skipif(not can_own_root(), reason="needs the right to mount, or to make a user namespace")
def test_a_root_of_its_own_is_reported_where_it_was_ordered(tmp_path: Path) -> None:
    _, ending = guarded(tmp_path, ["/bin/true"], own_root=True)

    assert set(ending.layers) == ALWAYS | LANDLOCK | {"read-only-mounts", "own-shared-memory"}


def test_a_program_that_never_became_the_candidate_is_behind_nothing(tmp_path: Path) -> None:
    said, ending = guarded(tmp_path, [str(tmp_path / "absent")])

    assert not ending.started, said
    assert ending.layers == ()


def test_layers_and_acts_have_names_of_their_own() -> None:
    names = [layer.name for layer in LAYERS if layer.name is not None]
    acts = [act.words for layer in LAYERS for act in layer.acts]

    assert len(set(names)) == len(names)
    assert len(set(acts)) == len(acts)
    assert not {layer.name for layer in LAYERS if layer.acts} - set(names)


def test_the_environment_that_a_candidate_gets_is_the_ordered_one(tmp_path: Path) -> None:
    said, ending = guarded(tmp_path, ["/usr/bin/env"])

    assert ending.exit_code == 0
    assert [line.partition("=")[0] for line in said.splitlines()] == [MARKER]
