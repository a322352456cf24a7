"""The image with everything in it, as a cloud starts it: one container, one volume, settings in the environment.

The tests follow one container through its life, in the order of this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.compose.checkout import BASE, OLLAMA
from tests.compose.conftest import timed
from tests.compose.stack import DEADLINE_S, FINISHED, MEASURED, QUERY, run, spoiled
from tests.compose.test_isolation import ABSTRACT, LISTENING, OPEN_SOCKET, TARGETS
from tests.fixtures import battery
from tests.fixtures.battery import Report

pytestmark = pytest.mark.docker

OLLAMA_SHAPED, IMAGE = "overnight-test/ollama-shaped", "overnight-test/allinone"
STATE = "/workspace/overnight"
PROCESSES = """
import os, sys
for entry in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{entry}/cmdline", "rb").read().replace(b"\\0", b" ").decode()
    except OSError:
        continue
    if sys.argv[1] in words and entry != str(os.getpid()):
        print(entry)
"""
# A word of the command line of each process that is kept alive.
CHILDREN = {
    "ollama": "ollama.py serve",
    "sshd": "sshd -D",
    "run": "services.cli run",
    "server": "valkey-server",
    "trainer": "-m trainer --redis",
    "researcher": "-m researcher",
}


@dataclass
class Rented:
    """A container of the image, its volume, and the volume of its backups."""

    name: str
    key: Path

    def start(self, **settings: str) -> None:
        """Rent it: a new container on the volumes as they are."""
        usual = {"PROFILE": "cpu", "BUDGET": "4", "MODEL": "qwen3.5:4b", "TAG": "rented", "BACKUP": "/backup/runs"}
        usual |= {"PUBLIC_KEY": self.key.with_suffix(".pub").read_text()}
        words = [word for name, value in (usual | settings).items() for word in ("--env", f"{name}={value}")]
        volumes = ("--volume", f"{self.name}:/workspace", "--volume", f"{self.name}-backup:/backup")
        run("docker", "run", "--detach", "--name", self.name, *volumes, *words, IMAGE)

    def remove(self, *volumes: str) -> None:
        """The machine is gone, and these volumes with it."""
        run("docker", "rm", "--force", "--volumes", self.name, check=False)
        for volume in volumes:
            run("docker", "volume", "rm", "--force", volume)

    def execute(self, *command: str, check: bool = True, text: str = "") -> str:
        return run("docker", "exec", "--interactive", self.name, *command, check=check, text=text).stdout

    def ask(self, query: str) -> Any:
        """The first value of the journal's answer, None without one."""
        code = QUERY.replace("/state/", f"{STATE}/")
        rows = json.loads(self.execute("python", "-c", code, query, check=False) or "[]")
        return rows[0][0] if rows else None

    def pids(self, words: str) -> list[str]:
        return self.execute("python", "-c", PROCESSES, words).split()

    def wait_until(self, is_there: Callable[[], bool], what: str) -> None:
        """A busy machine may take its time: this fails where no trial ends within the deadline."""
        finished, give_up = 0, time.monotonic() + DEADLINE_S
        while not is_there():
            if time.monotonic() > give_up:
                before, finished = finished, self.ask(FINISHED) or 0
                assert finished > before, f"{what}\n{self.logs()[-6000:]}"
                give_up = time.monotonic() + DEADLINE_S
            time.sleep(0.3)

    def wait_for(self, query: str, wanted: int) -> None:
        self.wait_until(lambda: (self.ask(query) or 0) >= wanted, f"{query}: not {wanted}")

    def logs(self) -> str:
        done = run("docker", "logs", self.name, check=False)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def image(checkout: Path) -> None:
    env = os.environ | {"DOCKER_BUILDKIT": "1"}
    double = ("-f", "tests/compose/ollama/Dockerfile", "--build-arg", f"PYTHON_IMAGE={BASE}", "-t", OLLAMA, "tests")
    run("docker", "build", *double, cwd=ROOT, env=env)
    shaped = ("--build-arg", f"OLLAMA_DOUBLE={OLLAMA}", "-t", OLLAMA_SHAPED, "tests/compose/allinone")
    run("docker", "build", *shaped, cwd=ROOT, env=env)
    arguments = ("--build-arg", f"PYTHON_IMAGE={BASE}", "--build-arg", f"OLLAMA_IMAGE={OLLAMA_SHAPED}")
    with timed("build of the image with everything in it"):
        run(
            "docker", "build", "-f", "services/allinone/Dockerfile", *arguments, "-t", IMAGE, ".", cwd=checkout, env=env
        )


@pytest.fixture(scope="module")
def rented(image: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rented]:
    key = tmp_path_factory.mktemp("ssh") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    made = Rented(f"overnight-test-allinone-{os.getpid()}", key)
    made.start()
    yield made
    made.remove(made.name, f"{made.name}-backup")


def test_three_experiments_are_decided_from_nothing(rented: Rented) -> None:
    with timed("three experiments in the image with everything in it, the baseline before them"):
        rented.wait_for(MEASURED, 3)

    rented.wait_for("SELECT count(*) FROM experiment WHERE llm_answer_tokens > 0", 1)
    assert "measured" in rented.execute("overnight", "status")
    assert "qwen3.5:4b" in rented.execute("ls", "/workspace/models")
    assert "backup overnight-rented-" in rented.execute("cat", f"{STATE}/logs/researcher.log")


def test_its_owner_logs_in_by_key_and_finds_the_run(rented: Rented) -> None:
    rented.execute("sh", "-c", "umask 077; cat >/tmp/key", text=rented.key.read_text())
    usual = ("-i", "/tmp/key", "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes", "root@127.0.0.1")

    assert "rented" in rented.execute("ssh", *usual, "overnight", "runs")

    rented.execute("rm", "/tmp/key")
    stranger = run("docker", "exec", rented.name, "ssh", *usual[2:], "true", check=False)
    assert "Permission denied (publickey)" in stranger.stderr


@pytest.mark.parametrize("child", CHILDREN)
def test_run_goes_on_after_the_kill_of_a_child(rented: Rented, child: str) -> None:
    before, killed = rented.ask(FINISHED), rented.pids(CHILDREN[child])
    assert killed

    rented.execute("kill", "-KILL", *killed)

    with timed(f"back at work after SIGKILL of {child} in the image with everything in it"):
        rented.wait_for(FINISHED, before + 1)
        rented.wait_until(lambda: bool(rented.pids(CHILDREN[child])), f"{child} does not come back")
    assert not set(killed) & set(rented.pids(CHILDREN[child]))


@contextmanager
def listening(rented: Rented) -> Iterator[None]:
    """A service of root's on two unix sockets, until its stdin ends."""
    command = ("docker", "exec", "--interactive", rented.name, "python", "-c", LISTENING, ABSTRACT, OPEN_SOCKET)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        assert service.stdout.readline() == "listening\n"
        yield
        service.stdin.close()


def test_candidate_finds_the_battery_as_the_table_has_it(rented: Rented) -> None:
    (server, *_) = rented.pids(CHILDREN["server"])
    address = rented.execute("cat", f"/proc/{server}/cmdline").split("127.0.0.1:")[1]
    places = {name: f"{STATE}/{name}" for name in ("data", "trials", "work")}
    targets = (
        TARGETS
        | places
        | {
            "password": f"{STATE}/redis/researcher.password",
            "repository": f"{STATE}/subject",
            "server": ["127.0.0.1", int(address.split("\0")[0])],
        }
    )
    source = spoiled(rented.execute("overnight", "best", "--source"), battery.source(targets))
    rented.execute("sh", "-c", "cat >/tmp/attacks.py", text=source)
    title = "title = 'submitted: attacks.py' AND experiment.state = 'applied'"

    with listening(rented):
        rented.execute("overnight", "submit", "/tmp/attacks.py")
        rented.wait_for(f"SELECT count(*) FROM experiment WHERE {title}", 1)

    trial = rented.ask(
        "SELECT run.tag || '-' || experiment.number || '-t' || trial.number || '-a' || attempt FROM trial"
        f" JOIN experiment ON experiment.id = trial.experiment JOIN run ON run.id = trial.run WHERE {title}"
    )
    report = Report.read(rented.execute("cat", f"{STATE}/trials/{trial}/log.txt"))
    assert report.unlike("other_uid") == []
    assert report.nature["capabilities"] == 0
    assert 0 not in report.nature["uids"]


def test_stop_is_clean_and_the_next_container_on_the_volume_goes_on(rented: Rented) -> None:
    run("docker", "stop", "--time", "60", rented.name)
    state = json.loads(run("docker", "inspect", rented.name).stdout)[0]["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert "goes on from here" in rented.logs()
    rented.remove()

    rented.start()

    rented.wait_until(lambda: rented.ask(FINISHED) is not None, "the journal is not read again")
    rented.wait_for(FINISHED, rented.ask(FINISHED) + 1)


def test_a_machine_that_is_lost_with_its_disk_costs_one_trial(rented: Rented) -> None:
    measured, finished = rented.ask(MEASURED), rented.ask(FINISHED)
    rented.remove(rented.name)

    rented.start(EXPERIMENTS=str(measured + 1))
    rented.wait_until(lambda: (rented.ask(FINISHED) or 0) >= finished - 1, "the run is not restored")

    rented.wait_until(lambda: "the run has ended; the container stays" in rented.logs(), "the run does not end")
    assert "run rented is restored" in rented.logs()
    assert rented.ask("SELECT count(*) FROM run") == 1
    assert rented.ask(MEASURED) >= measured + 1
