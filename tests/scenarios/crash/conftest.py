"""A run of forked processes on a server of its own, and the figures of all runs, told at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.redis.server import RedisServer
from tests.scenarios.crash.forked_run import ForkedRun

FIGURES = ("kills", "experiments", "attempts", "unused", "confirmations", "lost", "doubled", "wrong")
TOLD: dict[str, Counter[str]] = {}


def report_found(what: str, found: dict[str, Any], kills: int) -> None:
    """Add a run that was checked to the figures."""
    figures = TOLD.setdefault(what, Counter())
    figures["runs"] += 1
    figures.update({name: (found | {"kills": kills})[name] for name in FIGURES})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, figures in TOLD.items():
        line = ", ".join(f"{figures[name]} {name}" for name in ("runs", *FIGURES))
        terminalreporter.write_line(f"{what}: {line}")


def until_the_test_ends(folder: Path, server: RedisServer) -> Iterator[ForkedRun]:
    made = ForkedRun(folder, server)
    yield made
    made.end()


@pytest.fixture
def scripted_run(tmp_path: Path, server: RedisServer) -> Iterator[ForkedRun]:
    yield from until_the_test_ends(tmp_path, server)
