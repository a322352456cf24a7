"""The default tests on each Python that pyproject.toml names and this machine has, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests import ROOT

FLOOR = "3.11"
VERSIONS = ("3.12", "3.13", "3.14")


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_default_tests_pass_on_another_python(version: str) -> None:
    python = f"python{version}"
    if not starts(python):
        pytest.skip(f"no {python} with a venv module starts from PATH")
    (default,) = re.findall(r'-m "(not slow[^"]*)"', (ROOT / "scripts" / "test").read_text())

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # candidates of another user start this Python, too
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment = inherited | {"OVERNIGHT_PYTHON": python, "OVERNIGHT_VENV": f"{folder}/environment"}
        command = [ROOT / "scripts" / "test", "-q", "-p", "no:cacheprovider", "-m", default, "-n", "2"]
        done = subprocess.run(
            [*command, "--dist", "loadfile"], env=environment, capture_output=True, text=True, check=False
        )
        used = subprocess.run([f"{folder}/environment/bin/python", "-V"], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    assert used.stdout.startswith(f"Python {version}.")


def starts(python: str) -> bool:
    try:
        return (
            subprocess.run([python, "-c", "import ensurepip, venv"], check=False, capture_output=True).returncode == 0
        )
    except OSError:
        return False
