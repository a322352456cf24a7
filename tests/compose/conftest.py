"""One stack of containers for the tests that need one, and the times it took, told at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.compose.checkout import BASE, OLLAMA, ROOT, make_checkout
from tests.compose.stack import Stack, removed_at_the_end, run
from tests.scenarios.crash import conftest as crash_summary

TIMES: list[str] = []
SETTINGS = "BUDGET=4\n"  # processor seconds: few, and still some when the machine is shared


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    TIMES.append(f"{what}: {time.monotonic() - began:.1f} s")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if TIMES:
        terminalreporter.section("times of the container stack")
        for line in TIMES:
            terminalreporter.write_line(line)
    if not terminalreporter.config.pluginmanager.is_registered(crash_summary):  # where only these tests were asked for
        crash_summary.pytest_terminal_summary(terminalreporter)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ships, with stand-ins for what cannot be pulled, and a budget that suits a test."""
    root = make_checkout(tmp_path_factory.mktemp("checkout"))
    (root / "gpu.local.env").write_text(SETTINGS)
    return root


@pytest.fixture(scope="session")
def images(checkout: Path) -> None:
    """Built once. A first build takes minutes; what did not change comes from the engine's cache."""
    stand_in = ("-f", "tests/compose/ollama/Dockerfile", "--build-arg", f"PYTHON_IMAGE={BASE}", "-t", OLLAMA, "tests")
    run("docker", "build", *stand_in, cwd=ROOT, env=os.environ | {"DOCKER_BUILDKIT": "1"})
    with timed("build"):
        Stack(f"overnight-test-{os.getpid()}", checkout).compose("build")


@pytest.fixture(scope="session")
def stack(checkout: Path, images: None) -> Iterator[Stack]:
    """Up and healthy, with a run under way that has no end."""
    with removed_at_the_end(Stack(f"overnight-test-{os.getpid()}", checkout)) as stack:
        with timed("up to healthy, from nothing"):
            stack.up()
        stack.open_eye()
        yield stack
