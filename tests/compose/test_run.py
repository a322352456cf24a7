"""A whole run in containers: from nothing to decided experiments, through the death of every part of it."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.compose.conftest import timed
from tests.compose.stack import FINISHED, MEASURED, STAY_UP, EngineNotOurs, Stack, run

pytestmark = pytest.mark.docker


def test_five_experiments_are_decided_from_nothing(stack: Stack) -> None:
    assert all(stack.is_healthy(service) for service in STAY_UP)

    with timed("five experiments, the baseline before them"):
        stack.wait_for(MEASURED, 5)

    assert stack.ask("SELECT count(*) FROM experiment WHERE llm_answer_tokens > 0"), "the LLM was asked, and answered"
    found = re.search(r"measured +(\d+)\b", stack.execute("researcher", "overnight", "status"))
    assert found is not None
    assert int(found[1]) >= 5


def test_the_page_of_the_run_is_on_the_loopback_interface_and_reads_only(stack: Stack) -> None:
    published = stack.compose("port", "dashboard", "8642").stdout.strip()

    assert published.startswith("127.0.0.1:")
    status = httpx.get(f"http://{published}/status.json", timeout=60).json()
    assert status["state"] == "running"
    assert len(status["rows"]) >= 5
    written = "for folder in journal trials; do touch /state/$folder/x && echo written; done; true"
    assert "written" not in stack.execute("dashboard", "sh", "-c", written)
    assert len(stack.execute("dashboard", "cat", "/run/secrets/overnight/token")) >= 24


def test_up_changes_nothing_of_what_bare_compose_started_and_says_so(stack: Stack) -> None:
    before = {service: started(stack, service) for service in STAY_UP}

    for _ in range(2):
        said = run("scripts/up", "--cpu", "--detach", cwd=stack.root, env=stack.environment()).stdout
        assert "already up: nothing changed" in said, said[-2000:]

    assert {service: started(stack, service) for service in STAY_UP} == before


@pytest.mark.parametrize("killed", [*[(service,) for service in STAY_UP], STAY_UP], ids="+".join)
def test_run_goes_on_after_a_kill(stack: Stack, killed: tuple[str, ...]) -> None:
    before = stack.ask(FINISHED)
    restarts = {service: stack.container(service)["RestartCount"] for service in killed}

    stack.kill(*killed)

    with timed(f"back at work after SIGKILL of {', '.join(killed)}"):
        stack.wait_for(FINISHED, before + 1)
    for service in killed:
        assert stack.container(service)["RestartCount"] > restarts[service]
    stack.wait_until_healthy()
    assert "AOF-loading-client" not in stack.compose("logs", "redis").stdout, "redis lost a part of what it had"


@pytest.mark.parametrize("how", ["--restart", "--power-cut"])
def test_run_goes_on_after_the_engine_is_started_again(stack: Stack, how: str) -> None:
    """Not covered: an engine that dies alone. The next one stops its containers as if somebody had asked for it."""
    before = stack.ask(FINISHED)

    try:
        stack.restart_engine(how)
    except EngineNotOurs as reason:
        pytest.skip(str(reason))

    with timed(f"back at work after the engine's {how.strip('-')}"):
        stack.wait_for(FINISHED, before + 1)
    stack.wait_until_healthy()


def test_down_and_up_resumes_and_the_whole_run_tells_one_story(stack: Stack, tmp_path: Path) -> None:
    measured = stack.ask(MEASURED)

    stack.compose("stop")
    ended = {service: stack.container(service)["State"]["ExitCode"] for service in STAY_UP}
    stack.compose("down")

    assert ended == dict.fromkeys(STAY_UP, 0), "stopped by itself, within its grace"
    assert all(f"{stack.project}_{volume}" in volumes() for volume in ("subject", "journal", "trials", "redis"))

    run("scripts/results", str(tmp_path / "results"), cwd=stack.root, env=stack.environment())
    assert (tmp_path / "results" / "results.tsv").read_text().count("\n") > measured
    with timed("up again, to healthy"):
        stack.up(EXPERIMENTS=str(measured + 1))
    stack.wait_for_end()

    found = stack.audit()
    assert found["faults"] == []
    assert found["experiments"] == measured + 1


def started(stack: Stack, service: str) -> tuple[str, str]:
    described = stack.container(service)
    return described["Id"], described["State"]["StartedAt"]


def volumes() -> set[str]:
    return set(run("docker", "volume", "ls", "--quiet").stdout.split())
