"""Dockerfiles and compose files are clean for their linters, but for the rules named here with a reason."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.compose.checkout import ROOT
from tests.compose.stack import CPU, run

pytestmark = pytest.mark.docker

DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("tests/compose/*/Dockerfile")])
# Debian keeps only a package's newest version, so a pinned one cannot be installed a month later.
NOT_FOR_DOCKERFILES = ("DL3008",)
# Order is by meaning; what Compose prints of the merged files is in its own.
NOT_FOR_COMPOSE = ("service-keys-order", "top-level-properties-order")
DCLINT = "dclint@3.1.0"


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_dockerfile_is_clean(dockerfile: Path) -> None:
    ignored = [word for rule in NOT_FOR_DOCKERFILES for word in ("--ignore", rule)]

    run(str(Path(sys.executable).parent / "hadolint"), "--no-color", *ignored, str(dockerfile))


@pytest.mark.parametrize("files", [CPU[:2], CPU], ids=["gpu", "cpu"])
def test_merged_compose_files_are_clean(files: tuple[str, ...], tmp_path: Path) -> None:
    npx = shutil.which("npx")
    if npx is None:
        pytest.skip("dclint is a Node package, and there is no npx here")
    merged = tmp_path / "compose.yaml"
    merged.write_text(run("docker", "compose", *files, "config", cwd=ROOT).stdout)

    run(npx, "--yes", DCLINT, str(merged), "--max-warnings", "0", "--disable-rule", *NOT_FOR_COMPOSE)
