"""What a user gets wrong: one sentence with the next step, exit code 2, and nothing of theirs is lost."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from researcher.journal.writer import Journal
from researcher.repository.creation import create_repository
from services.machine.state import State
from services.machine.subject import render_subject
from tests.fixtures.warm_processes import completed
from trainer.jobs import profile_named


def overnight(*arguments: str, state: Path) -> subprocess.CompletedProcess[str]:
    return completed("services.cli", *arguments, "--state", str(state), env=os.environ | {"COLUMNS": "300"})


def refused(done: subprocess.CompletedProcess[str], *named: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for name in named:
        assert name in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--profile", "9000gb"], ["9000gb", "12gb"]),
        (["run", "--experiments", "0"], ["experiments"]),
        (["run", "--profile", "cpu", "--text", "/nowhere/at/all"], ["/nowhere/at/all"]),
        (["run", "--profile", "cpu", "--subject", "/nowhere/at/all"], ["/nowhere/at/all", "git"]),
        pytest.param(
            ["run", "--profile", "cpu", "--redis-url", "redis://127.0.0.1:9/0"], ["127.0.0.1:9"], marks=pytest.mark.slow
        ),
        (["run", "--profile", "cpu", "--proposer", "oracle"], ["oracle"]),
        (["status"], ["overnight run"]),
        (["idea", "wider"], ["overnight run"]),
        (["submit", "/nowhere/at/all.py"], ["/nowhere/at/all.py"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_refused_in_one_sentence(tmp_path: Path, arguments: list[str], named: list[str]) -> None:
    refused(overnight(*arguments, state=tmp_path / "state"), *named)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tag", "two words"), ("--tag", "a..b"), ("--tag", "../main"), ("--tag", "x.lock"),
        ("--hours", "-1"), ("--max-cost", "nan"), ("--model", "two words"), ("--ollama-host", "a b:1"),
    ],
)  # fmt: skip
def test_a_bad_value_is_refused_in_its_options_name_before_anything_is_made(
    tmp_path: Path, option: str, value: str
) -> None:
    done = overnight("run", "--profile", "cpu", option, value, state=tmp_path / "state")

    refused(done, option)
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("words", "named"), [(["run"], "--state"), (["status"], "--state"), (["export", "--to", "{}"], "--to")]
)
def test_a_file_in_place_of_a_folder_is_refused_in_its_options_name(
    tmp_path: Path, words: list[str], named: str
) -> None:
    file = tmp_path / "a file"
    file.write_text("mine")

    done = overnight(*(word.format(file) for word in words), state=file if named == "--state" else tmp_path)

    refused(done, named)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("content", ["B = 'ä'\n".encode("utf-16"), b"B = '\xe4'\n"], ids=["UTF-16", "Latin-1"])
def test_a_submitted_file_that_is_not_utf8_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "mine.py").write_bytes(content)

    refused(overnight("submit", str(tmp_path / "mine.py"), state=tmp_path / "state"), "mine.py is not text in UTF-8")


def test_a_dirty_subject_is_refused_before_anything_takes_time_and_stays_as_it_is(tmp_path: Path) -> None:
    create_repository(tmp_path / "mine", render_subject(profile_named("cpu")), "mine")
    (tmp_path / "mine" / "train.py").write_text("unsaved")

    done = overnight("run", "--profile", "cpu", "--subject", str(tmp_path / "mine"), state=tmp_path / "state")

    refused(done, "uncommitted changes", "train.py")
    assert (tmp_path / "mine" / "train.py").read_text() == "unsaved"
    assert not (tmp_path / "state" / "data").exists()


@pytest.mark.parametrize("name", ["prepare.py", "overnight.toml"])
def test_a_repository_with_data_of_its_own_is_refused_until_it_is_taken(tmp_path: Path, name: str) -> None:
    create_repository(tmp_path / "mine", {"train.py": "A = 1\n", name: "B = 1\n"}, "mine")

    done = overnight("run", "--profile", "cpu", "--subject", str(tmp_path / "mine"), state=tmp_path / "state")

    refused(done, f"its own {name}", f"overnight init --subject {tmp_path / 'mine'} --state {tmp_path / 'state'}")
    assert not (tmp_path / "state" / "data").exists()


def test_a_state_keeps_its_profile_and_says_so(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.resolve(profile="cpu", detect=lambda: "cpu")
    Journal(state.journal).close()

    refused(overnight("run", "--profile", "12gb", state=state.root), "profile cpu", "another --state")


def test_a_mistyped_start_binds_nothing(tmp_path: Path) -> None:
    refused(overnight("run", "--profile", "12gb", "--subject", "/nowhere", state=tmp_path / "state"), "/nowhere")

    assert State(tmp_path / "state").resolve(profile="cpu", detect=lambda: "cpu").profile == "cpu"


def test_a_damaged_state_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    (tmp_path / "journal" / "night.json").write_text("{half")

    refused(overnight("status", state=tmp_path), "night.json", "another --state")
