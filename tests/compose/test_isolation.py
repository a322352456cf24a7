"""Who can reach what, asked from inside the running containers and from a candidate that tries.

An internal network has no route out, but its gateway address is the host's: a service that listens there on all
addresses answers the trainer's root too. The candidate has no socket that could ask.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compose.checkout import BASE
from tests.compose.stack import Stack, run, spoiled

pytestmark = pytest.mark.docker

ATTACK = Path(__file__).parent / "attack.py"
HOG = "held = []\nwhile True:\n    held.append(b'x' * 2**27)\n"
DENIED = {"Permission denied", "Operation not permitted", "Read-only file system"}
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


@pytest.fixture(scope="module")
def attack(stack: Stack) -> dict[str, Any]:
    """What a candidate that tries everything found, before it went on to train."""
    _, log = stack.submit("attack.py", spoiled(stack.best(), ATTACK.read_text()))
    found = [line for line in log.splitlines() if line.startswith("ATTACK ")]
    assert len(found) == 1, log
    report: dict[str, Any] = json.loads(found[0].removeprefix("ATTACK "))
    return report


def test_candidate_is_nobody(attack: dict[str, Any]) -> None:
    assert attack["uid"] == [64001, 64001, 64001]
    assert attack["groups"] == []
    assert attack["capabilities"] == 0
    assert (attack["no_new_privileges"], attack["seccomp"]) == ("1", "2")


@pytest.mark.parametrize("way", ["outside", "name server", "redis by its name", "datagram", "netlink"])
def test_candidate_has_no_way_to_any_network(attack: dict[str, Any], way: str) -> None:
    denied = "Address family not supported by protocol"  # the filter's answer; names cannot even be asked for
    assert attack["attempts"][way] == ("gaierror" if "name" in way else denied)


@pytest.mark.parametrize(
    "what",
    [
        "password",
        "validation data",
        "another's result",
        "write data",
        "write results",
        "write code",
        "write root",
        "write beside work",
        "become root",
        "signal the worker",
        "signal the first process",
        "user namespace",
    ],
)
def test_candidate_is_denied(attack: dict[str, Any], what: str) -> None:
    assert attack["attempts"][what] in DENIED


def test_candidate_can_still_start_programs_of_its_own(attack: dict[str, Any]) -> None:
    assert attack["attempts"]["another program"] == "done"


def test_candidate_sees_no_environment_but_its_own_and_no_password_there(attack: dict[str, Any]) -> None:
    assert attack["environments"] == []
    assert [name for name in attack["environment"] if "REDIS" in name or "PASSWORD" in name] == []


def test_candidate_writes_only_where_the_next_one_finds_nothing(attack: dict[str, Any], stack: Stack) -> None:
    own = "/run/overnight/work"
    assert {place for place in attack["writable"] if not place.startswith(own)} <= {"/tmp", "/dev/shm", "/dev/mqueue"}

    left = stack.execute("trainer", "find", "/tmp", "/dev/shm", "/dev/mqueue", "-name", "left-behind")

    assert left == ""


def test_candidate_that_takes_all_memory_is_out_of_memory_and_the_worker_lives_on(stack: Stack) -> None:
    worker = stack.container("trainer")["State"]

    outcome, log = stack.submit("hog.py", spoiled(stack.best(), HOG))

    assert outcome == "out_of_memory", log
    after = stack.container("trainer")["State"]
    assert (after["Pid"], after["Running"]) == (worker["Pid"], True)
    assert stack.is_healthy("trainer")


def fields(status: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
