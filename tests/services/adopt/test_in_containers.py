"""The container `data` takes a user's own repository as `overnight init` does, and the researcher reads the choices."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from researcher.errors import SubjectError
from services.adopt.own_data import OtherData
from services.adopt.subject_check import ShapeRefused
from services.machine.state import RunConfig, State
from services.machine.subject import has_own_prepare, render_subject, require_its_data, require_taken
from services.trainer.prepare import home_of, python_files, take_over
from tests import ROOT
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


def test_only_the_files_of_the_repository_are_read(folder: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    for name, text in render_subject(CPU).items():
        (ours / name).write_text(text)

    assert python_files(folder) == FILES
    assert has_own_prepare(folder)
    assert not has_own_prepare(ours)
    assert not has_own_prepare(tmp_path / "nowhere")


def test_a_prepare_of_ones_own_that_gave_no_data_is_refused(folder: Path, tmp_path: Path) -> None:
    ours = RunConfig("cpu", None, "subject", None)
    require_its_data(folder, replace(ours, constants={"MAX_SEQ_LEN": 256}))
    require_its_data(tmp_path / "nowhere", ours)
    require_its_data(None, ours)

    with pytest.raises(SubjectError, match=re.escape("`chmod -R o+rX`")):
        require_its_data(folder, ours)


def test_a_repository_that_init_has_not_taken_begins_no_run(folder: Path, tmp_path: Path) -> None:
    ours = RunConfig("cpu", None, "subject", None)
    require_taken(folder, replace(ours, constants={"MAX_SEQ_LEN": 256}), tmp_path)
    require_taken(None, ours, tmp_path)

    with pytest.raises(
        SubjectError, match=f"its own prepare.py.*overnight init --subject {folder} --state {tmp_path}$"
    ):
        require_taken(folder, ours, tmp_path)
    (folder / "overnight.toml").touch()
    with pytest.raises(SubjectError, match=r"its own overnight\.toml"):
        require_taken(folder, ours, tmp_path)


@pytest.mark.parametrize(
    ("cache", "expected"),
    [("/people/a/.cache/autoresearch", "/people/a"), ("/people/a/.cache", "/people/a"), ("/srv/data", "/srv")],
)
def test_home_of_a_cache_is_where_a_prepare_looks_for_it(cache: str, expected: str) -> None:
    assert home_of(Path(cache)) == Path(expected)


def test_what_a_container_lacks_is_told_with_the_setting_that_gives_it(folder: Path) -> None:
    loads = "from huggingface_hub import snapshot_download\nsnapshot_download('example/x')\nimport skimage\n"
    files = FILES | {"train.py": loads + FILES["train.py"]}

    with pytest.raises(ShapeRefused) as refusal:
        take_over(files, folder, CPU, folder / "data", None, Console(file=io.StringIO()))

    assert "add scikit-image to SUBJECT_PACKAGES in gpu.env" in str(refusal.value)
    assert "load it once: python3 -c " in str(refusal.value)
    assert " on the host, then name its cache in gpu.env: KERNELS_CACHE" in str(refusal.value)


ASK = """\
import sys
from pathlib import Path
from rich.console import Console
from services.trainer.prepare import is_closed
from trainer.sandbox.syscalls import drop_capabilities
drop_capabilities()
print(is_closed(Path(sys.argv[1]), Console()))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files that are somebody else's")
@pytest.mark.parametrize("closed", [".", "prepare.py"])
def test_a_closed_repository_gets_the_data_of_overnight_and_the_command_that_opens_it(
    folder: Path, closed: str
) -> None:
    asks = [sys.executable, "-c", ASK, str(folder)]

    def answer() -> str:
        return subprocess.run(asks, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert answer() == "False\n"
    os.chown(folder / closed, 4321, 4321)
    (folder / closed).chmod(0o700)
    said = answer()
    assert said.endswith("True\n")
    assert "`chmod -R o+rX`" in said


LOOK = """\
import sys
from pathlib import Path
from services.trainer.prepare import require_readable
from trainer.sandbox.syscalls import drop_capabilities
drop_capabilities()
require_readable({"SUBJECT_DIR": Path(sys.argv[1])})
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make files that are somebody else's")
def test_folder_that_is_closed_to_other_users_is_named_with_the_command_that_opens_it(folder: Path) -> None:
    (folder / ".venv").chmod(0o700)
    looks = [sys.executable, "-c", LOOK, str(folder)]

    def closed(path: Path) -> str:
        os.chown(path, 4321, 4321)
        path.chmod(0o600)
        return subprocess.run(looks, cwd=ROOT, capture_output=True, text=True, check=False).stderr

    assert closed(folder / ".venv") == "", "a hidden folder is no part of the subject"
    said = closed(folder / "train.py")
    assert f"{folder}/train.py is closed to other users" in said
    assert "`chmod -R o+rX` the folder that SUBJECT_DIR names" in said


@needs_landlock
def test_data_are_made_once_with_the_constants_and_other_settings_do_not_replace_them(
    folder: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    said, state = io.StringIO(), State(tmp_path / "state")
    console, cache = Console(file=said, width=300), home / ".cache" / "own-subject"
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
