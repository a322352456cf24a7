"""The state folder as a run makes it: who may look into it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.machine.state import SETTINGS_FILE, State, StateError


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


GIVEN = {"LLM": "openai", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "MODEL": "small-1", "EXPERIMENTS": "20"}


@pytest.mark.parametrize(
    ("given", "after", "changed"),
    [
        ({}, GIVEN, []),
        ({"EXPERIMENTS": "20"}, GIVEN, []),
        ({"EXPERIMENTS": "40"}, GIVEN | {"EXPERIMENTS": "40"}, ["EXPERIMENTS was 20, and is 40 now"]),
        ({"NUM_CTX": "8192"}, GIVEN | {"NUM_CTX": "8192"}, ["NUM_CTX was not set, and is 8192 now"]),
        (
            {"LLM": "ollama", "MODEL": "large"},
            {"LLM": "ollama", "MODEL": "large", "EXPERIMENTS": "20"},
            [
                "LLM was openai, and is ollama now",
                "OPENAI_BASE_URL was http://127.0.0.1:1/v1, and is not set now",
                "MODEL was small-1, and is large now",
            ],
        ),
    ],
)
def test_a_start_continues_with_the_settings_of_the_one_before_and_says_what_changes(
    tmp_path: Path, given: dict[str, str], after: dict[str, str], changed: list[str]
) -> None:
    state = State(tmp_path / "state")
    state.remember(GIVEN)

    settings = state.settled(given)

    assert (settings.values, list(settings.changes)) == (after, changed)


def test_a_place_where_no_folder_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StateError, match="cannot be made: Not a directory; name another --state"):
        State(tmp_path / "file" / "state").make()


def test_the_first_start_changes_nothing_and_damaged_settings_are_named(tmp_path: Path) -> None:
    state = State(tmp_path / "state")

    first = state.settled(GIVEN)
    state.make()
    (state.journal / SETTINGS_FILE).write_text("[1]")

    assert (first.values, first.changes) == (GIVEN, ())
    with pytest.raises(StateError, match="remove it, and give the options again"):
        state.settled({})
