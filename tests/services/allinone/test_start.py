"""What the image with everything in it starts from the container's environment, and how a lost run comes back.

The image itself is built and run in `tests/compose/test_allinone.py`.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import pytest

from researcher.errors import BackupError
from researcher.journal.reader import JournalReader
from researcher.repository.backup import write_backup
from researcher.repository.backup_place import FolderPlace
from services.allinone.run import restore_lost_run, run_options
from services.allinone.start import LogFollower, children_of
from services.machine.state import State
from services.machine.supervisor import Child
from tests import ROOT
from tests.fixtures.loop_in_process import level, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs.environment import python_command


def started(shell: Mapping[str, str], workspace: Path) -> dict[str, Child]:
    return {child.name: child for child in children_of(shell, workspace)}


def settings_of(child: Child) -> Mapping[str, str]:
    assert child.env is not None
    return child.env


def test_ollama_its_model_and_the_run_are_started_below_the_workspace(tmp_path: Path) -> None:
    found = started({"PATH": "/bin", "MODEL": "qwen3.5:4b", "PROFILE": "cpu", "SECRET": "x"}, tmp_path)

    assert list(found) == ["ollama", "model", "run"]
    assert settings_of(found["ollama"])["OLLAMA_MODELS"] == str(tmp_path / "models")
    assert found["model"].argv[-3:] == ("pull", "--profile", "cpu")
    for name in ("model", "run"):
        env = settings_of(found[name])
        assert (env["OVERNIGHT_STATE"], env["MODEL"]) == (str(tmp_path / "overnight"), "qwen3.5:4b")
        assert env["OLLAMA_HOST"] == settings_of(found["ollama"])["OLLAMA_HOST"]
    assert not any("SECRET" in settings_of(child) for child in found.values())
    assert found["ollama"].final_codes == frozenset(), "it is started again, whatever its exit code"


@pytest.mark.parametrize(
    "shell",
    [{"LLM": "none"}, {"PROPOSER": "optimizer"}, {"OLLAMA_HOST": "10.0.0.2"}, {"LLM": "openai"}],
    ids=["none", "no turns", "another machine", "endpoint"],
)
def test_no_ollama_is_started_where_none_is_asked(shell: dict[str, str], tmp_path: Path) -> None:
    assert list(started(shell, tmp_path)) == ["run"]


def test_the_remotes_of_the_backup_reach_the_run_alone(tmp_path: Path) -> None:
    found = started({"RCLONE_CONFIG_BOX_TYPE": "s3", "THEN": "runpod-stop", "RUNPOD_POD_ID": "p1"}, tmp_path)

    assert {name for name, child in found.items() if "RCLONE_CONFIG_BOX_TYPE" in settings_of(child)} == {"run"}
    assert (settings_of(found["run"])["THEN"], settings_of(found["run"])["RUNPOD_POD_ID"]) == ("runpod-stop", "p1")


def test_settings_that_local_mode_takes_as_options_only_become_options() -> None:
    shell = {"HOURS": "8", "UNTIL": "", "PROFILE": "auto", "THEN": "runpod-stop", "SUBJECT_DIR": "/mine", "MODEL": "m"}

    assert run_options(shell) == ["--hours", "8", "--subject", "/mine", "--then", "runpod-stop"]


def test_a_lost_run_is_restored_once_and_a_first_run_begins(scripted_run: ScriptedRun, tmp_path: Path) -> None:
    place, state = tmp_path / "place", State(tmp_path / "lost")
    restore_lost_run(state, {"BACKUP": str(place)})
    assert not state.root.exists(), "nothing is there to restore, so the run begins"
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.7)])
    name = write_backup(scripted_run.journal, scripted_run.subject, FolderPlace(place), 1.0)
    shutil.copyfile(place / name, place / name.replace("-night-", "-other-"))

    with pytest.raises(BackupError, match="--name"):
        restore_lost_run(state, {"BACKUP": str(place)})
    restore_lost_run(state, {"BACKUP": str(place), "TAG": "night"})
    restore_lost_run(state, {"BACKUP": str(place)})

    with JournalReader(state.journal) as history:
        assert history.measured_count() == 1


def test_the_log_of_the_run_is_copied_from_its_present_end_and_again_after_it_was_shortened(tmp_path: Path) -> None:
    log, seen = tmp_path / "run.log", io.BytesIO()
    log.write_bytes(b"of an earlier container\n")
    with closing(LogFollower(log, seen)) as follower:
        with log.open("ab") as file:
            file.write(b"first\n")
        follower.copy_new()
        log.write_bytes(b"second\n")
        follower.copy_new()
        with log.open("ab") as file:
            file.write(b"last\n")

    assert seen.getvalue() == b"first\nsecond\nlast\n"


def test_a_bad_setting_ends_the_container_with_the_reason() -> None:
    done = subprocess.run(
        python_command("services.allinone.start"),
        env={"PATH": os.environ["PATH"], "LLM": "another"}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "LLM" in done.stdout
    assert "Traceback" not in done.stderr


def test_the_versions_of_the_image_are_those_of_the_stack() -> None:
    compose, dockerfile = (ROOT / "compose.yaml").read_text(), (ROOT / "services/allinone/Dockerfile").read_text()
    pinned = {
        name.upper(): image for name, image in re.findall(r"^  (python|ollama): &\S+ (\S+)$", compose, re.MULTILINE)
    }

    assert dict(re.findall(r"^ARG (\w+)_IMAGE=(\S+)$", dockerfile, re.MULTILINE)) == pinned
    torch = (ROOT / "services/trainer/Dockerfile").read_text()
    assert re.findall("ARG TORCH_VERSION=.*", torch) == re.findall("ARG TORCH_VERSION=.*", dockerfile)
