"""The containers' entry points as processes: what they settle, when they stay, what they refuse."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import git
import pytest

from researcher.journal.reader import JournalReader
from researcher.report.view import now
from researcher.repository.creation import create_repository
from services.machine.state import State
from services.machine.subject import render_subject
from services.researcher import start as researcher_start
from services.trainer import start as trainer_start
from services.views.client import ClientError, ask_and_wait
from tests import ROOT
from tests.doubles.nvml import NvmlGpu, NvmlLibrary, install_nvml
from tests.fixtures.scripted_run import ScriptedRun
from tests.fixtures.trials import wait_for
from trainer.jobs import Status, StatusKind, profile_named
from trainer.worker.heartbeat import IDLE, Heartbeat

TEN_S = 10
HEARTBEAT_CHECK = ROOT / "services" / "stack" / "heartbeat.sh"


@pytest.mark.parametrize(
    ("gpus", "profile"),
    [([("small", 12 * 1024)], "12gb"), ([("L40S", 46068)], "48gb"), ([("old", 2048), ("big", 81920)], "80gb")],
)
def test_gpu_decides_the_profile(gpus: list[tuple[str, int]], profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu(*each) for each in gpus]))

    assert trainer_start.gpu_profile() == profile


@pytest.mark.parametrize(("gpus", "seen"), [([], "sees none"), ([("tiny", 2048)], "tiny with 2048 MiB")])
def test_without_a_fitting_gpu_auto_is_refused_instead_of_falling_back_to_the_processor(
    gpus: list[tuple[str, int]], seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_nvml(monkeypatch, NvmlLibrary([NvmlGpu(*each) for each in gpus]))

    with pytest.raises(trainer_start.NoGpu, match=re.escape(seen)) as refusal:
        trainer_start.gpu_profile()

    assert "scripts/up --cpu" in str(refusal.value)


def test_worker_accepts_the_command_line_that_the_container_gives_it() -> None:
    settings = trainer_start.ContainerSettings(
        redis_url="redis://trainer@redis:6379/0", redis_password_file=Path("/run/secret"), trainer_cap_mib=11264
    )

    line = trainer_start.worker(settings, "24gb", name="trainer-1")
    told = subprocess.run([*line, "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    assert [word for word in line if word.startswith("--") and word not in told] == []
    assert line[line.index("--vram-cap-mib") + 1] == "11264"
    assert line[line.index("--profile") + 1] == "24gb"


def test_trainer_container_names_a_bad_setting_and_an_unknown_profile() -> None:
    def refused(**environment: str) -> str:
        usual = {"REDIS_URL": "redis://h", "REDIS_PASSWORD_FILE": "/none", "PATH": "/usr/bin:/bin"}
        ended = subprocess.run(
            [sys.executable, "-m", "services.trainer.start"],
            env=usual | environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )
        assert ended.returncode == trainer_start.REFUSED
        return ended.stdout

    assert "TRAINER_CAP_MIB=lots is not" in refused(TRAINER_CAP_MIB="lots", PROFILE="cpu")
    assert "profile '13gb' is not known" in refused(PROFILE="13gb")


def test_researcher_container_makes_the_subject_for_the_gpu_the_trainer_found(
    scripted_run: ScriptedRun,
) -> None:
    state = emptied(scripted_run)
    container = scripted_run.start_container()
    wait_for(lambda: "waiting for the trainer" in str(scripted_run.bus.doing("researcher")), TEN_S)

    Heartbeat(scripted_run.bus.connection, "trainer-1", profile="12gb").show(IDLE)

    wait_for(lambda: "run " in scripted_run.output(), TEN_S)
    assert state.choices() is not None
    with git.Repo(scripted_run.subject) as repository:
        assert "profile 12gb" in str(repository.commit("main").message)
    assert re.search(r"^DEPTH = 4\b", (scripted_run.subject / "train.py").read_text(), re.MULTILINE)
    container.send_signal(signal.SIGTERM)
    assert container.wait(TEN_S) == 0


def test_a_health_check_is_about_the_age_of_the_heartbeat_file(tmp_path: Path) -> None:
    file = tmp_path / "heartbeat"
    absent = health(file)
    file.write_text("a job runs")
    fresh = health(file)
    aged(file, 90)
    under_load = health(file)
    aged(file, 150)
    frozen = health(file)

    assert [check.returncode for check in (absent, fresh, under_load, frozen)] == [1, 0, 0, 1]
    assert fresh.stdout == "a job runs"
    assert frozen.stdout.startswith("a job runs (more than two minutes ago")


def test_a_health_check_starts_no_python_and_needs_nothing_but_a_shell_and_find(tmp_path: Path) -> None:
    file, tools = tmp_path / "heartbeat", tmp_path / "tools"
    file.write_text("idle")
    tools.mkdir()
    for name in ("sh", "cat", "find"):
        (tools / name).symlink_to(str(shutil.which(name)))

    assert health(file, PATH=str(tools)).returncode == 0


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status(StatusKind.REFUSED, "begun on another GPU"), 1),
        (Status(StatusKind.HELD, "the disk is full"), 0),
        (Status(StatusKind.ENDED, "12 of 12 experiments are measured"), 0),
    ],
)
def test_a_process_that_refuses_to_run_is_unhealthy_and_one_that_waits_or_has_ended_is_not(
    status: Status, code: int, tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    file.write_text(str(status))

    assert health(file).returncode == code


def test_the_containers_use_the_heartbeat_file_that_the_check_reads() -> None:
    settings = trainer_start.ContainerSettings(redis_url="redis://h", redis_password_file=Path("/none"))
    lines = (trainer_start.worker(settings, "cpu", name="a"), trainer_start.dry_run_worker(settings, name="b"))
    checked = re.search(r"\$\{1:-(.*)\}", HEARTBEAT_CHECK.read_text())

    assert checked is not None
    assert {line[line.index("--heartbeat-file") + 1] for line in lines} == {checked[1]}
    assert f"HEARTBEAT_FILE: {checked[1]}\n" in (ROOT / "compose.yaml").read_text()


def test_the_heartbeat_of_the_researchers_container_is_the_researchers_own_status(
    scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    file = tmp_path / "heartbeat"
    container = scripted_run.start_container(PROFILE="cpu", HEARTBEAT_FILE=file)

    wait_for(lambda: file.exists() and "trial" in file.read_text(), 60)

    assert health(file).returncode == 0
    container.send_signal(signal.SIGTERM)
    assert container.wait(TEN_S) == 0


def test_the_status_shows_the_state_of_the_pull_while_there_is_no_model(
    scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    file = tmp_path / "pull.txt"
    file.write_text("pulling qwen3.5:9b, 37 %\n")

    settings = {"LLM": "ollama", "OLLAMA_HOST": "http://127.0.0.1:9", "PULL_FILE": file}
    container = scripted_run.start_container(PROFILE="cpu", **settings)

    wait_for(lambda: now(None, scripted_run.bus).notes.get("llm") == "none yet: pulling qwen3.5:9b, 37 %", 60)
    container.send_signal(signal.SIGTERM)
    assert container.wait(TEN_S) == 0


def test_trainers_that_agree_decide_the_profile_and_others_are_refused(scripted_run: ScriptedRun) -> None:
    settings = researcher_start.ContainerSettings(
        redis_url=scripted_run.server.url,
        redis_password_file=scripted_run.password_file,
        overnight_state=scripted_run.journal.parent,
    )
    for name, profile in (("trainer-1", "12gb"), ("trainer-2", "12gb"), ("trainer-3", None)):
        Heartbeat(scripted_run.bus.connection, name, profile=profile).show(IDLE)

    agreed = researcher_start.resolve_options(settings, scripted_run.bus)
    Heartbeat(scripted_run.bus.connection, "trainer-2", profile="24gb").show(IDLE)

    assert agreed.profile == "12gb"
    with pytest.raises(researcher_start.ProfilesDiffer, match="trainer-1 fits 12gb, trainer-2 fits 24gb") as refusal:
        researcher_start.resolve_options(settings, scripted_run.bus)
    assert "name the run's PROFILE in gpu.env" in refusal.value.next_step


def test_researcher_container_says_that_it_is_refused_where_trainers_differ(scripted_run: ScriptedRun) -> None:
    for name, profile in (("trainer-1", "12gb"), ("trainer-2", "24gb")):
        Heartbeat(scripted_run.bus.connection, name, profile=profile).show(IDLE)

    file = scripted_run.journal.with_name("heartbeat")
    container = scripted_run.start_container(HEARTBEAT_FILE=file)

    wait_for(lambda: kind_of(scripted_run) is StatusKind.REFUSED and file.exists(), TEN_S)
    assert health(file).returncode == 1
    assert "trainer-1 fits 12gb, trainer-2 fits 24gb" in str(scripted_run.bus.doing("researcher"))
    assert container.poll() is None


def test_researcher_container_takes_the_users_commit_and_pushes_the_branch_of_the_run(
    scripted_run: ScriptedRun,
) -> None:
    theirs = scripted_run.subject.with_name("theirs")
    create_repository(theirs, render_subject(profile_named("cpu")), "Of the user, with Overnight's prepare.py")
    emptied(scripted_run)

    container = scripted_run.start_container(PROFILE="cpu", USER_REPOSITORY=theirs, TAG="night")

    with git.Repo(theirs) as repository:
        wait_for(lambda: "overnight/night" in repository.heads, 60)
        assert repository.heads["overnight/night"].commit == repository.heads["main"].commit
        assert repository.active_branch.name == "main"
    container.send_signal(signal.SIGTERM)
    assert container.wait(TEN_S) == 0


@pytest.mark.slow
def test_a_run_begun_on_another_gpu_is_refused_until_its_profile_is_named(
    scripted_run: ScriptedRun,
) -> None:
    emptied(scripted_run)
    trainer = Heartbeat(scripted_run.bus.connection, "trainer-1", profile="12gb")
    trainer.show(IDLE)
    first = scripted_run.start_container()
    wait_for(lambda: "run " in scripted_run.output(), TEN_S)
    first.send_signal(signal.SIGTERM)
    first.wait(TEN_S)
    trainer.fade()
    Heartbeat(scripted_run.bus.connection, "trainer-2", profile="24gb").show(IDLE)

    second = scripted_run.start_container()

    wait_for(lambda: kind_of(scripted_run) is StatusKind.REFUSED, TEN_S)
    assert "begun with profile 12gb, and the GPU found now is a 24gb" in str(scripted_run.bus.doing("researcher"))
    assert "PROFILE=12gb" in scripted_run.output()
    assert second.poll() is None


@pytest.mark.slow
def test_an_ended_run_keeps_its_container_says_so_and_goes_on_after_a_restart(
    scripted_run: ScriptedRun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scripted_run.start_trainer()
    state = State(scripted_run.journal.parent)
    file = scripted_run.journal.with_name("heartbeat")
    container = scripted_run.start_container(PROFILE="cpu", EXPERIMENTS=1, HEARTBEAT_FILE=file)

    wait_for(lambda: kind_of(scripted_run) is StatusKind.ENDED and "ended" in file.read_text(), 60)

    assert container.poll() is None
    assert health(file).returncode == 0
    monkeypatch.setenv("REDIS_URL", scripted_run.server.url)
    monkeypatch.setenv("REDIS_PASSWORD_FILE", str(scripted_run.password_file))
    with pytest.raises(ClientError, match="ended"):
        ask_and_wait(state, "idea", "too late")
    container.send_signal(signal.SIGTERM)
    assert container.wait(TEN_S) == 0

    scripted_run.start_container(PROFILE="cpu", EXPERIMENTS=2)

    scripted_run.wait_until(lambda history: history.measured_count() == 2, "the second experiment")
    with JournalReader(scripted_run.journal) as history:
        assert len({item.number for item in history.experiments()}) == len(history.experiments())


def emptied(scripted_run: ScriptedRun) -> State:
    """The state as a new volume has it: folders, nothing in them."""
    state = State(scripted_run.journal.parent)
    subprocess.run(["rm", "-rf", str(scripted_run.subject)], check=True)
    scripted_run.subject.mkdir()
    return state


def kind_of(scripted_run: ScriptedRun) -> StatusKind | None:
    status = scripted_run.bus.doing("researcher")
    return None if status is None else status.kind


def health(file: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The health check as a container runs it."""
    return subprocess.run(
        ["/bin/sh", HEARTBEAT_CHECK, file], env=environment or None, check=False, capture_output=True, text=True
    )


def aged(file: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))
