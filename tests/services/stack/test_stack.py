"""The operator's modules on a real engine, with a toy stack whose `overnight` is a script; the pure parts as tables.

The tests marked `docker` need an engine and the local base image: scripts/dev/docker-engine makes both.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest
import yaml
from rich.console import Console
from typer.main import get_command

from services.__main__ import app
from services.dashboard.address import LOOPBACK, free_port
from services.doctor import Mode
from services.machine.compose import Container, Stack, StackError
from services.machine.gpu_env import KEYS
from services.stack.end_action import ACTIONS, run_after
from services.stack.follow import Ending, watch_run
from services.stack.results import IMAGE, fetch, unpack
from services.stack.up import PREPARING, REQUIRED, UpOptions, bring_up, changes, container_text, times
from tests import ROOT
from tests.fixtures.warm_processes import completed

TOY = """\
services:
  data:
    image: overnight-test/python:3.11
    command: ["true"]
    restart: "no"
  redis: &idle
    image: overnight-test/python:3.11
    init: true
    command: ["sleep", "infinity"]
    stop_grace_period: 1s
  trainer: *idle
  researcher:
    image: overnight-test/python:3.11
    init: true
    command: ["sleep", "infinity"]
    restart: unless-stopped
    stop_grace_period: 1s
    environment: {EXPERIMENTS: "${EXPERIMENTS:-}"}
    tmpfs: [/tmp]
    volumes: [./shared:/shared, journal:/j, subject:/s, trials:/t, ./overnight:/usr/local/bin/overnight:ro]
    depends_on: {data: {condition: service_completed_successfully}}
    healthcheck: {test: ["CMD", "sh", "-c", "cat /shared/health"], interval: 200ms, retries: 1}
  ollama:
    <<: *idle
    image: ${OLLAMA_IMAGE:-overnight-test/python:3.11}
    depends_on: {data: {condition: service_completed_successfully}}
    profiles: [ollama]
    pull_policy: ${PULL:-missing}
  model:
    <<: *idle
    profiles: [ollama]
    command: ["sh", "-c", "echo pulling a-model, 37 %; exec sleep infinity"]
    volumes: [./shared:/shared]
    healthcheck: {test: ["CMD", "test", "-e", "/shared/pulled"], interval: 200ms, retries: 1, start_period: 1h}
  dashboard:
    <<: *idle
    ports: ["127.0.0.1:${PAGE_PORT:-0}:8642"]
volumes:
  journal: {}
  subject: {}
  trials: {}
"""
OVERNIGHT = """\
#!/bin/sh
case "$1 $2" in
    "status --follow")
        touch /shared/watching
        until [ -e /shared/over ]; do sleep 0.1; done
        exit "$(cat /shared/over)" ;;
    "export --to") mkdir "$3" && echo tsv >"$3/results.tsv" && echo git >"$3/subject.bundle" ;;
    *) echo "overnight: no such run" >&2; exit 2 ;;
esac
"""
BEGAN = datetime(2026, 11, 22, 20, tzinfo=UTC)
WISH = UpOptions(Mode.GPU, {}, None)


class Toy:
    """A folder with a compose.yaml in it, and the stack of that name."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder = folder
        self.stack = stack
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        (folder / "compose.yaml").write_text(TOY)
        (folder / "overnight").write_text(OVERNIGHT)
        (folder / "overnight").chmod(0o755)
        (self.shared / "health").write_text("awake\n")
        (self.shared / "pulled").touch()

    def up(self, **limits: str) -> str:
        """What bringing it up says."""
        return said(lambda console: bring_up(replace(WISH, limits=limits), self.stack, self.folder, console))


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = docker.from_env()
    yield client
    client.close()


@pytest.fixture
def toy(tmp_path: Path, engine: docker.DockerClient, monkeypatch: pytest.MonkeyPatch) -> Iterator[Toy]:
    name = f"overnight-toy-{uuid4().hex[:8]}"
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", name)
    monkeypatch.setenv("COMPOSE_PROFILES", "ollama")
    made = Toy(tmp_path / "toy", Stack(name, engine))
    yield made
    subprocess.run(["docker", "compose", "-p", name, "down", "--volumes"], cwd="/", check=True, capture_output=True)


def said(act: Callable[[Console], object]) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    act(console)
    return console.export_text()


@pytest.mark.docker
def test_second_up_changes_nothing_and_says_so_and_a_changed_limit_renews_who_reads_it(toy: Toy) -> None:
    first, second, third = toy.up(), toy.up(), toy.up(EXPERIMENTS="5")

    everything = ("dashboard", "data", "model", "ollama", "redis", "researcher", "trainer")
    assert first.startswith(", ".join(f"{service} started" for service in everything) + "\nup: images ")
    assert second.startswith("already up: nothing changed\npage ")
    assert third.startswith("researcher recreated\n")


@pytest.mark.docker
def test_what_is_optional_may_come_later_and_is_told_with_its_progress(toy: Toy) -> None:
    (toy.shared / "pulled").unlink()

    told = toy.up()

    assert re.search(r"^still coming: model +running, starting: pulling a-model, 37 %$", told, re.MULTILINE)
    assert "the run goes on without them" in told


@pytest.mark.docker
def test_the_page_gets_another_port_if_a_program_has_its_own_and_keeps_that_at_the_next_up(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setenv("PAGE_PORT", str(taken))

        first, second = toy.up(), toy.up()

    page = toy.stack.container("dashboard")
    assert page.port not in (None, 0, taken)
    assert f"page   http://127.0.0.1:{page.port}/" in first
    assert "still coming" not in first
    assert "already up: nothing changed" in second


@pytest.mark.docker
def test_the_page_keeps_the_port_that_it_has_itself(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAGE_PORT", str(port := free_port(0)))

    toy.up()
    second = toy.up()

    assert toy.stack.container("dashboard").port == port
    assert "already up: nothing changed" in second
    assert "taken" not in second


@pytest.mark.docker
def test_an_optional_image_that_cannot_be_had_stops_nothing(toy: Toy) -> None:
    (toy.folder / ".env").write_text("OLLAMA_IMAGE=overnight-test/there-is-none\nPULL=never\n")

    told = toy.up()

    assert re.search(r"^still coming: ollama +not started: .*overnight-test/there-is-none", told, re.MULTILINE)
    assert {each.service for each in toy.stack.containers() if each.state == "running"} >= set(REQUIRED)


@pytest.mark.docker
def test_what_is_up_is_also_what_a_bare_docker_compose_up_wants(toy: Toy) -> None:
    toy.up()
    before = toy.stack.containers()

    subprocess.run(["docker", "compose", "up", "--detach"], cwd=toy.folder, check=True, capture_output=True)

    assert changes(before, toy.stack.containers()) == []


@pytest.mark.docker
def test_what_does_not_get_healthy_is_told_with_what_its_check_said(toy: Toy) -> None:
    (toy.shared / "health").unlink()
    console = Console(width=200, file=io.StringIO(), record=True)

    with pytest.raises(StackError, match="not everything came up"):
        bring_up(WISH, toy.stack, toy.folder, console)

    assert "researcher running, unhealthy: cat: /shared/health: No such file" in console.export_text()


@pytest.mark.docker
def test_down_needs_no_compose_file_and_no_profile_and_keeps_the_volumes(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.up()
    (toy.folder / "compose.yaml").write_text("no longer: valid\n")
    monkeypatch.delenv("COMPOSE_PROFILES")

    code = toy.stack.down()

    assert code == 0
    assert toy.stack.containers() == []
    assert toy.stack.volumes() == ["journal", "subject", "trials"]


@pytest.mark.docker
def test_the_view_goes_on_over_a_restarted_researcher_until_the_run_is_over(toy: Toy) -> None:
    toy.up()
    rests = 0

    def restart() -> None:
        while not (toy.shared / "watching").exists():
            time.sleep(0.05)
        toy.stack.engine.containers.get(toy.stack.container("researcher").id).restart(timeout=0)

    def rest() -> None:
        nonlocal rests
        rests += 1
        (toy.shared / "over").write_text("0")

    thread = threading.Thread(target=restart)
    thread.start()
    ending = watch_run(toy.stack, Console(file=io.StringIO()), terminal=False, rest=rest)
    thread.join()

    assert ending is Ending.OVER
    assert rests >= 1


@pytest.mark.docker
def test_the_view_ends_when_the_stack_is_taken_down(toy: Toy) -> None:
    toy.up()
    toy.stack.down()

    ending = watch_run(toy.stack, Console(file=io.StringIO()), terminal=False, rest=lambda: None)

    assert ending is Ending.GONE


@pytest.mark.docker
def test_how_the_view_ended_is_told_apart(toy: Toy) -> None:
    toy.up()

    for code, ending in ((0, Ending.OVER), (3, Ending.REFUSED), (130, Ending.LEFT)):
        (toy.shared / "over").write_text(str(code))
        assert watch_run(toy.stack, Console(file=io.StringIO()), terminal=False) is ending


@pytest.mark.docker
def test_results_come_out_of_a_folder_in_memory_and_leave_nothing_there(toy: Toy, tmp_path: Path) -> None:
    toy.up()

    names = fetch(toy.stack, tmp_path / "night", "0:0")

    assert names == ["results.tsv", "subject.bundle"]
    assert (tmp_path / "night" / "results.tsv").read_text() == "tsv\n"
    assert toy.stack.output("researcher", "ls", "/tmp") == b""


@pytest.mark.docker
def test_results_of_a_stack_that_is_down_come_from_its_volumes_and_nothing_stays(toy: Toy, tmp_path: Path) -> None:
    toy.up()
    toy.stack.down()
    (toy.folder / "Dockerfile").write_text("FROM overnight-test/python:3.11\nCOPY overnight /usr/local/bin/overnight\n")
    image = f"{toy.stack.project}:test"
    toy.stack.engine.images.build(path=str(toy.folder), tag=image)
    there = len(toy.stack.engine.containers.list(all=True))

    try:
        names = fetch(toy.stack, tmp_path / "down", "1000:1000", image)
    finally:
        toy.stack.engine.images.remove(image)

    assert names == ["results.tsv", "subject.bundle"]
    assert len(toy.stack.engine.containers.list(all=True)) == there
    with pytest.raises(StackError, match="the image overnight-test/there-is-none is not here"):
        fetch(toy.stack, tmp_path / "none", "1000:1000", "overnight-test/there-is-none")


def test_results_are_read_with_the_image_that_compose_builds() -> None:
    assert yaml.safe_load((ROOT / "compose.yaml").read_text())["x-researcher-image"]["image"] == IMAGE


@pytest.mark.docker
def test_a_command_that_fails_inside_is_an_error_with_its_last_words(toy: Toy) -> None:
    toy.up()

    with pytest.raises(StackError, match=r"^overnight: no such run$"):
        toy.stack.output("researcher", "overnight", "log")


@pytest.mark.docker
@pytest.mark.parametrize("verb", [("status",), ("logs",), ("results", "there")])
def test_without_a_stack_a_command_is_one_line_with_the_next_step(verb: tuple[str, ...]) -> None:
    answer = services(*verb, COMPOSE_PROJECT_NAME="overnight-never-up")

    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "next: scripts/" in answer.stderr


@pytest.mark.docker
def test_a_stack_of_the_same_name_from_another_clone_is_left_alone(toy: Toy) -> None:
    toy.up()
    before = [(each.id, each.started_at) for each in toy.stack.containers()]

    answer = services("down", COMPOSE_PROJECT_NAME=toy.stack.project)

    assert answer.returncode == 2
    assert f"is up from {toy.folder}" in answer.stderr
    assert [(each.id, each.started_at) for each in toy.stack.containers()] == before


@pytest.mark.parametrize("verb", [("status",), ("down",), ("logs", "redis"), ("results", "there")])
def test_without_an_engine_every_command_is_one_line_with_the_next_step(verb: tuple[str, ...]) -> None:
    answer = services(*verb, DOCKER_HOST="unix:///no/engine.sock")

    assert answer.returncode == 2
    assert len(answer.stderr.splitlines()) == 1
    assert "none answers at DOCKER_HOST=unix:///no/engine.sock; next: " in answer.stderr


def test_a_command_for_the_end_of_the_run_is_not_taken_by_who_does_not_wait_for_it() -> None:
    answer = services("up", "--cpu", "--detach", "--then", "poweroff")

    assert answer.returncode == 2
    assert "leave --detach out" in answer.stderr


def services(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return completed("services.__main__", *arguments, env=os.environ | environment)


def test_the_command_at_the_end_runs_in_a_shell_and_its_exit_code_is_reported() -> None:
    assert "exit 7: ended with 7" in said(lambda console: run_after("exit 7", console))


def test_the_command_at_the_end_has_the_variables_of_the_users_shell() -> None:
    """Also those of git, which this process has dropped."""
    code = (
        "from services.__main__ import console; from services.stack.end_action import run_after; "
        "run_after('echo $GIT_SSH_COMMAND $MPLBACKEND', console)"
    )
    env = os.environ | {"GIT_SSH_COMMAND": "my-ssh", "MPLBACKEND": "agg"}

    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)

    assert "my-ssh agg" in done.stdout.splitlines()


def container(service: str, **changed: object) -> Container:
    plain = Container(
        service=service,
        id=f"{service}-1",
        image="i",
        state="running",
        exit_code=0,
        health="healthy",
        health_output="",
        is_one_shot=False,
        started_at=BEGAN,
        finished_at=datetime.min.replace(tzinfo=UTC),
        folder=Path("/clone"),
        files=(),
    )
    return replace(plain, **changed)  # type: ignore[arg-type]


LATER = BEGAN + timedelta(seconds=30)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ([], [container("redis")], ["redis started"]),
        ([container("redis")], [container("redis")], []),
        ([container("redis")], [container("redis", id="2")], ["redis recreated"]),
        ([container("redis")], [container("redis", started_at=LATER)], ["redis started again"]),
        ([container("data", is_one_shot=True)], [container("data", is_one_shot=True, started_at=LATER)], []),
        ([container("data", is_one_shot=True)], [container("data", is_one_shot=True, id="2")], ["data recreated"]),
        ([container("ollama"), container("redis")], [container("redis")], ["ollama removed"]),
    ],
)
def test_what_changed_is_told_by_service(before: list[Container], after: list[Container], told: list[str]) -> None:
    assert changes(before, after) == told


def test_times_are_those_of_this_call_and_name_the_one_shots_that_took_long() -> None:
    def second(seconds: float) -> datetime:
        return BEGAN + timedelta(seconds=seconds)

    after = [
        container("redis", started_at=second(-500)),
        container("secrets", is_one_shot=True, state="exited", started_at=second(60), finished_at=second(60.4)),
        container("data", is_one_shot=True, state="exited", started_at=second(61), finished_at=second(92)),
        container("trainer", started_at=second(92)),
    ]

    assert times(BEGAN, second(105), after) == "images 1:00, then healthy after 45 s (data 31 s)"


@pytest.mark.parametrize(
    ("changed", "words", "is_well"),
    [
        ({}, "running, healthy", True),
        ({"health": None}, "running", True),
        ({"health": "unhealthy"}, "running, unhealthy", False),
        ({"health": "starting"}, "running, starting", False),
        ({"state": "exited", "exit_code": 137}, "exited with 137", False),
        ({"state": "exited", "exit_code": 0}, "exited with 0", False),
        ({"state": "exited", "is_one_shot": True}, "done", True),
        ({"state": "exited", "is_one_shot": True, "exit_code": 1}, "exited with 1", False),
        ({"state": "restarting"}, "restarting", False),
        ({"state": "created", "health": None}, "not started: it waits for others", False),
    ],
)
def test_a_container_is_told_in_words(changed: dict[str, object], words: str, is_well: bool) -> None:
    found = container("trainer", **changed)

    assert (found.in_words(), found.is_well) == (words, is_well)


def test_what_comes_out_of_a_container_stays_in_the_folder(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name in ("./results.tsv", "../../outside", "/etc/absolute"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)

    names = unpack(archive.getvalue(), tmp_path / "a" / "folder")

    assert names == ["absolute", "outside", "results.tsv"]
    assert sorted(path.name for path in (tmp_path / "a" / "folder").iterdir()) == names


def shipped() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml as they are written."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def test_nothing_optional_is_a_gate() -> None:
    files = shipped()
    needed, found = set(REQUIRED), set[str]()
    while needed:
        found |= needed
        needed = {other for name in needed for other in files[name].get("depends_on", {})} - found

    assert found == {*REQUIRED, *PREPARING}
    assert not any(files[name].get("profiles") for name in found), "a profile is what can be left out"


def test_no_health_check_starts_python_and_each_has_time_on_a_busy_machine() -> None:
    checks = {name: service["healthcheck"] for name, service in shipped().items() if "healthcheck" in service}

    assert checks.keys() == shipped().keys() - set(PREPARING)
    for name, check in checks.items():
        assert "python" not in " ".join(check["test"]), name
        assert int(check["timeout"].removesuffix("s")) >= 30, name


CLOUD: dict[str, Any] = yaml.safe_load((ROOT / "services" / "stack" / "cloud-init.yaml").read_text())
FILES = {Path(file["path"]).name: file["content"] for file in CLOUD["write_files"]}


def lines_of(unit: str, key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", FILES[unit], re.MULTILINE)


def test_the_cloud_example_calls_what_there_is_and_sets_what_is_read() -> None:
    calls = [*lines_of("overnight.service", "ExecStartPre")[:1], *lines_of("overnight.service", "ExecStart")]
    (name,) = re.findall(r"s/\^(\w+)=", " ".join(CLOUD["runcmd"]))

    known = {option for parameter in get_command(app).commands["up"].params for option in parameter.opts}

    for call in calls:
        script, *arguments = shlex.split(call)
        assert (ROOT / Path(script).relative_to("/opt/overnight")).exists()
        assert {word for word in arguments if word.startswith("--")} <= known
    assert shlex.split(calls[1])[-2:] == ["--then", "poweroff"]
    assert "poweroff" in ACTIONS
    assert name in KEYS


def test_the_cloud_example_powers_off_only_after_a_healthy_start() -> None:
    start, mark = lines_of("overnight.service", "ExecStartPre")
    (failed,) = lines_of("overnight.service", "OnFailure")

    assert "--detach" in start.split(), "it returns once the run is healthy, and fails otherwise"
    assert mark.split()[0] == "/usr/bin/touch"
    assert lines_of(failed, "ConditionPathExists") == mark.split()[1:]
    assert lines_of(failed, "ExecStart") == ["/usr/bin/systemctl poweroff"]
    assert lines_of("overnight.service", "FailureAction") == []
    assert not any("poweroff" in step for step in CLOUD["runcmd"])
    assert "power_state" not in CLOUD


@pytest.mark.parametrize(
    ("there", "installed"),
    [
        (("git", "python3", "dockerd", "docker", "docker-ce"), []),
        (("git", "python3", "dockerd", "docker"), []),
        (("git", "dockerd", "docker", "docker-ce"), ["python3-venv"]),
        (("git", "python3", "dockerd", "docker-ce"), ["docker-compose-plugin", "docker-buildx-plugin"]),
        (("python3", "dockerd"), ["git", "docker-compose-v2", "docker-buildx"]),
        ((), ["git", "python3-venv", "docker.io", "docker-compose-v2", "docker-buildx"]),
    ],
    ids=lambda value: "+".join(value) or "nothing",
)
def test_the_cloud_example_installs_only_what_is_missing(
    there: tuple[str, ...], installed: list[str], tmp_path: Path
) -> None:
    programs = {name: "exit 0" for name in there if name != "docker-ce"}
    programs["dpkg"] = f"exit {int('docker-ce' not in there)}"
    programs["apt-get"] = f'echo "$@" >>{tmp_path}/called'
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)

    subprocess.run(["/bin/sh", "-c", FILES["overnight-install"]], env={"PATH": str(folder)}, check=True)

    called = (tmp_path / "called").read_text().splitlines() if (tmp_path / "called").exists() else []
    assert [line.split()[-len(installed) :] for line in called[1:]] == ([installed] if installed else [])
    assert called[:1] == (["update"] if installed else [])


@pytest.mark.parametrize(
    ("port", "line"),
    [(None, "dashboard  running, healthy"), (8642, "dashboard  running, healthy, http://127.0.0.1:8642/")],
)
def test_the_line_of_a_published_container_has_its_address(port: int | None, line: str) -> None:
    unused: Any = None  # a container that is well has no last message

    assert container_text(unused, container("dashboard", port=port)) == line
