"""The stack whose LLM's model cannot be pulled: everything else starts, and says so."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compose.checkout import make_checkout
from tests.compose.conftest import SETTINGS
from tests.compose.stack import MEASURED, Stack, removed_at_the_end, run

pytestmark = pytest.mark.docker


@pytest.fixture
def without_model(tmp_path: Path, images: None) -> Iterator[Stack]:
    root = make_checkout(tmp_path / "checkout")
    (root / "gpu.local.env").write_text(f"{SETTINGS}MODEL=unknown:1b\n")
    with removed_at_the_end(Stack(f"overnight-pull-{os.getpid()}", root)) as stack:
        yield stack


def test_trainer_and_researcher_start_and_measure_while_the_pull_fails(without_model: Stack) -> None:
    up = run("scripts/up", "--cpu", "--detach", cwd=without_model.root, env=without_model.environment())

    assert re.search(r"^still coming: model +running, starting", up.stdout, re.MULTILINE), up.stdout
    without_model.open_eye()
    without_model.wait_for(MEASURED, 1)
    assert "none yet: unknown:1b cannot be pulled" in " ".join(
        without_model.execute("researcher", "overnight", "status").split()
    )
    assert all(without_model.is_healthy(service) for service in ("redis", "trainer", "researcher"))
    assert without_model.container("model")["State"]["Running"]
