"""Who can reach what, asked from inside the running containers and from a candidate that tries.

An internal network has no route out, but its gateway address is the host's: a service that listens there on all
addresses answers the trainer's root too. The candidate has no socket that could ask.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests import TESTS
from tests.compose.checkout import BASE
from tests.compose.stack import CPU, Stack, run, spoiled
from tests.fixtures import battery
from tests.fixtures.battery import Report
from trainer.sandbox.landlock import abi

pytestmark = pytest.mark.docker

SUBJECTS = TESTS / "subjects"
USES_TORCH, ONE_FILE = SUBJECTS / "uses_torch.py", SUBJECTS / "fills_the_disk_with_one_file.py"
HOG = "held = []\nwhile True:\n    held.append(b'x' * 2**27)\n"
FORKS = "import subprocess\nkept = [subprocess.Popen(['sleep', '1000']) for _ in range(400)]\nkept[0].wait()\n"
MANY_FILES = "for number in range(10**6):\n    open(f'{number}', 'wb').write(bytes(2**24))\n"
WORK = "/run/overnight/work"
ABSTRACT, OPEN_SOCKET = "overnight-test", "/tmp/open"
TARGETS: dict[str, object] = {
    "abstract": ABSTRACT,
    "path": OPEN_SOCKET,
    "password": "/run/secrets/overnight/password",
    "data": "/state/data",
    "trials": "/state/trials",
    "work": WORK,
    "code": "/opt/overnight/trainer",
    "repository": "/state/subject",
    "shared": "/dev/shm/left-behind",
    "daemon": "98765",
    "neighbour": 1,
}
LISTENING = """
import os, socket, sys
services = []
for address in ("\\0" + sys.argv[1], sys.argv[2]):
    services.append(socket.socket(socket.AF_UNIX))
    services[-1].bind(address)
    services[-1].listen()
os.chmod(sys.argv[2], 0o777)
print("listening", flush=True)
sys.stdin.read()
os.unlink(sys.argv[2])
"""
TRIAL = """
import json, sys
from dataclasses import replace
from pathlib import Path
from services.trainer.start import CANDIDATE_USER, STATE, WORK
from trainer.jobs import Kind, TrialSpec, files_digest, profile_named
from trainer.sandbox.launch import User
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial
profile, files = profile_named("cpu"), {"train.py": sys.argv[1]}
data = json.loads((STATE / "data" / "manifest.json").read_text())["digest"]
budget = replace(profile.budget, setup_s=500, amount=500)  # what it compiles counts as training
spec = TrialSpec("e-1-t1-a1", Kind.BASELINE, "cpu", files, files_digest(files), data, 11, budget, profile.caps)
places = WorkerConfig(STATE / "data", Path("/tmp"), WORK, user=User(CANDIDATE_USER, CANDIDATE_USER))
result = run_trial(spec, places, lambda progress: None, lambda: False)
print(result.reason, result.log.tail)
"""
RESOLVE = "import socket; print(socket.gethostbyname('redis'))"
KILL, SETGID, SETUID = 1 << 5, 1 << 6, 1 << 7
REACH = """
import json, socket, sys
def reach(host, port):
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return type(error).__name__ + " " + str(error)
    return "connected"
print(json.dumps({name: reach(*name.rsplit(":", 1)) for name in sys.argv[1:]}))
"""
MIRROR = """
import socket
from urllib.parse import urlsplit
mirror = urlsplit(open("/etc/apt/sources.list").read().split()[1])
address = mirror.hostname, mirror.port or {"http": 80, "https": 443}[mirror.scheme]
with socket.create_connection(address, timeout=10) as reached:
    print(*reached.getpeername()[:2], sep=":")
"""
NAME = "example.org:80"


@pytest.fixture(scope="module")
def outside(stack: Stack) -> str:
    """An address that a container with a way out has just reached: the machine's package mirror."""
    return run("docker", "run", "--rm", BASE, "python3", "-c", MIRROR).stdout.strip()


@pytest.mark.parametrize(
    ("service", "known", "unknown"),
    [
        ("trainer", "redis:6379", ["ollama:11434"]),
        ("ollama", "ollama:11434", ["redis:6379", "trainer:6379"]),
        ("researcher", "redis:6379", []),
    ],
)
def test_service_reaches_its_neighbours_and_nothing_outside(
    stack: Stack, outside: str, service: str, known: str, unknown: list[str]
) -> None:
    said = stack.execute(service, "python3", "-c", REACH, known, outside, NAME, *unknown)

    reached = json.loads(said)
    assert reached.pop(known) == "connected"
    assert reached.pop(outside) != "connected"
    assert all("gaierror" in answer for answer in reached.values()), reached


def test_researcher_reaches_the_llm(stack: Stack) -> None:
    said = stack.execute("researcher", "python3", "-c", REACH, "ollama:11434")

    assert json.loads(said) == {"ollama:11434": "connected"}


def test_model_was_pulled_where_there_is_a_way_out_and_serving_has_none(stack: Stack) -> None:
    refused = stack.compose("exec", "-T", "ollama", "ollama", "pull", "another:1b", check=False)

    assert refused.returncode != 0
    assert "no such host" in refused.stderr
    assert "qwen3.5:4b" in stack.execute("ollama", "ollama", "list")


@pytest.mark.parametrize(
    ("service", "uid", "capabilities"),
    [
        ("redis", 999, 0),
        ("ollama", 64002, 0),
        ("trainer", 0, KILL | SETGID | SETUID),
        ("researcher", 1000, 0),
    ],
)
def test_service_runs_as_whom_it_should_with_no_right_to_spare(
    stack: Stack, service: str, uid: int, capabilities: int
) -> None:
    status = fields(stack.execute(service, "cat", "/proc/1/status"))

    assert {int(each) for each in status["Uid"].split()} == {uid}
    for kind in ("CapEff", "CapPrm", "CapInh"):
        assert int(status[kind], 16) & ~capabilities == 0, kind
    assert int(status["CapBnd"], 16) == capabilities
    assert status["NoNewPrivs"] == "1"
    for place in ("/x", "/opt/x", "/etc/x"):
        refused = stack.compose("exec", "-T", service, "touch", place, check=False)
        assert "Read-only file system" in refused.stderr


def test_one_service_does_not_see_the_password_of_another(stack: Stack) -> None:
    passwords = {
        service: stack.execute(service, "cat", "/run/secrets/overnight/password")
        for service in ("trainer", "researcher")
    }

    assert len(set(passwords.values())) == 2
    assert "password" not in stack.execute("redis", "ls", "/run/secrets/overnight").split()


@contextmanager
def listening(stack: Stack) -> Iterator[None]:
    """A service of root's in the trainer's container, on two unix sockets, until its stdin ends."""
    command = ("docker", "compose", *CPU, "exec", "-T", "trainer", "python3", "-c", LISTENING, ABSTRACT, OPEN_SOCKET)
    with subprocess.Popen(
        command, cwd=stack.root, env=stack.environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        assert service.stdout.readline() == "listening\n"
        yield
        service.stdin.close()


@pytest.fixture(scope="module")
def attack(stack: Stack) -> Report:
    """What a candidate that tries everything found, before it went on to train."""
    targets = TARGETS | {"server": [stack.execute("trainer", "python3", "-c", RESOLVE).strip(), 6379]}
    with listening(stack):
        _, log = stack.submit("attacks.py", spoiled(stack.best(), battery.source(targets)))
    return Report.read(log)


def test_candidate_finds_the_battery_as_the_table_has_it(attack: Report) -> None:
    assert attack.unlike("container") == []


def test_candidate_is_nobody(attack: Report) -> None:
    nature = attack.nature
    assert nature["uids"] == nature["gids"] == [64001, 64001, 64001]
    assert nature["groups"] == []
    assert nature["capabilities"] == 0
    assert (nature["no_new_privileges"], nature["seccomp"]) == ("1", "2")


def test_candidate_writes_only_where_the_next_one_finds_nothing(attack: Report, stack: Stack) -> None:
    elsewhere = {place for place in attack.nature["writable"] if not place.startswith(WORK)}
    assert "/dev/shm" in elsewhere
    assert elsewhere <= {"/dev/shm"} if abi() else {"/tmp", "/dev/shm", "/dev/mqueue"}

    left = stack.execute("trainer", "find", "/tmp", "/dev/shm", "/dev/mqueue", "-user", "64001")

    assert left == ""


def test_daemon_of_a_candidate_is_dead_when_its_trial_is_over(attack: Report, stack: Stack) -> None:
    assert attack.answers["leave a daemon"] == "done"

    running = stack.execute("trainer", "sh", "-c", "cat /proc/[0-9]*/cmdline").split("\0")

    assert "python" in " ".join(running)
    assert TARGETS["daemon"] not in running


def test_compiling_loading_with_workers_and_saving_work_inside(stack: Stack) -> None:
    """In a container of its own, with minutes instead of the profile's one: a busy machine compiles slowly."""
    beside = ("run", "--rm", "--no-deps", "-T", "trainer", "python", "-c", TRIAL, USES_TORCH.read_text())

    assert "all of it works" in stack.compose(*beside).stdout


@pytest.mark.parametrize(
    ("name", "source", "outcome"),
    [
        ("forks.py", FORKS, "crashed"),
        ("one-file.py", ONE_FILE.read_text(), "crashed"),
        ("many-files.py", MANY_FILES, "out_of_memory"),  # a tmpfs is memory, of which this container has less
    ],
    ids=["forks", "one-file", "many-files"],
)
def test_candidate_that_takes_too_much_is_ended_and_the_worker_lives_on(
    stack: Stack, name: str, source: str, outcome: str
) -> None:
    worker = stack.container("trainer")["State"]

    seen, log = stack.submit(name, spoiled(stack.best(), source))

    assert seen == outcome, log
    after = stack.container("trainer")["State"]
    assert (after["Pid"], after["Running"]) == (worker["Pid"], True)
    assert int(stack.execute("trainer", "df", "--output=used", WORK).split()[-1]) < 2**18, "KiB of files are left"


def test_candidate_that_takes_all_memory_is_out_of_memory_and_the_worker_lives_on(stack: Stack) -> None:
    worker = stack.container("trainer")["State"]

    outcome, log = stack.submit("hog.py", spoiled(stack.best(), HOG))

    assert outcome == "out_of_memory", log
    after = stack.container("trainer")["State"]
    assert (after["Pid"], after["Running"]) == (worker["Pid"], True)
    assert stack.is_healthy("trainer")


def fields(status: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
