"""The container `data` takes a user's own repository as `overnight init` does, and the researcher reads the choices."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from services.adopt.own_data import OtherData
from services.adopt.subject_check import ShapeRefused
from services.machine.state import State
from services.machine.subject import render_subject
from services.trainer.prepare import NotReadable, home_of, own_files, require_readable, take_over
from tests.services.adopt.test_adopt import FILES, home, needs_landlock
from trainer.data import verify
from trainer.jobs import Clock, profile_named

__all__ = ["home"]
CPU = profile_named("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The user's repository, with files that are no Python of it."""
    (tmp_path / "repository" / ".venv").mkdir(parents=True)
    for name, text in {**FILES, "program.md": "Better.\n", ".venv/other.py": "x = 1\n"}.items():
        (tmp_path / "repository" / name).write_text(text)
    return tmp_path / "repository"


def test_only_a_prepare_of_ones_own_is_run(folder: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    for name, text in render_subject(CPU).items():
        (ours / name).write_text(text)

    assert own_files(folder) == FILES
    assert own_files(ours) is None
    assert own_files(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("cache", "expected"),
    [("/home/a/.cache/autoresearch", "/home/a"), ("/home/a/.cache", "/home/a"), ("/srv/data", "/srv")],
)
def test_home_of_a_cache_is_where_a_prepare_looks_for_it(cache: str, expected: str) -> None:
    assert home_of(Path(cache)) == Path(expected)


def test_folder_that_is_closed_to_other_users_is_named_with_the_command_that_opens_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_readable({"SUBJECT_DIR": folder})
    closed = {folder / "train.py", folder / ".venv"}
    monkeypatch.setattr(os, "access", lambda path, _: path not in closed)  # root may read everything

    with pytest.raises(NotReadable, match=r"train\.py is closed .* `chmod -R o\+rX` the folder that SUBJECT_DIR names"):
        require_readable({"SUBJECT_DIR": folder})


@needs_landlock
def test_data_are_made_once_with_the_constants_and_other_settings_do_not_replace_them(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    said, state = io.StringIO(), State(tmp_path / "state")
    console, cache = Console(file=said, width=300), str(home / ".cache" / "own-subject")
    state.make()

    take_over(FILES, folder, CPU, state.data, cache, console)
    take_over(FILES, folder, CPU, state.data, cache, console)

    assert said.getvalue().count("runs prepare.py once, without a network") == 1
    assert "nothing to do" in said.getvalue()
    manifest = verify(state.data)
    choices = state.resolve(profile="cpu", detect=lambda: "cpu")
    assert choices.constants == manifest.constants
    profile = choices.trial_profile()
    assert (profile.budget.clock, profile.budget.amount, profile.context) == (Clock.WALL, 2, 16)
    assert profile.vocab_size == manifest.vocab_size
    with pytest.raises(OtherData, match="remove the volumes data, subject and journal"):
        take_over(FILES | {"prepare.py": FILES["prepare.py"] + "\n"}, folder, CPU, state.data, cache, console)
    assert verify(state.data) == manifest


@needs_landlock
def test_downloads_that_are_not_mounted_are_missed_in_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ShapeRefused, match="If its downloads are not there yet, run it first"):
        take_over(FILES, folder, CPU, tmp_path / "data", None, Console(file=io.StringIO()))
