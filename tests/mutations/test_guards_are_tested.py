"""Take a guard away and its test must fail: the packages are copied, one line is changed, that one test is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mutations.guards import GUARDS, Guard

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("researcher", "trainer", "services", "tests")
NOTHING_LEFT = """\
import os, subprocess, sys
from trainer import guardian, linux

linux.become_subreaper()
done = subprocess.run([sys.executable, *sys.argv[2:]], env=os.environ | {"PYTHONPATH": sys.argv[1]})
guardian.kill_tree()
sys.exit(done.returncode)
"""
TEST_FAILED = 1  # pytest's exit code; a test that cannot be collected has another


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_guard_stands_where_the_table_says_and_its_test_exists(guard: Guard) -> None:
    file, _, test = guard.test.partition("[")[0].partition("::")

    assert (ROOT / guard.file).read_text().count(guard.old) == 1
    assert f"def {test}(" in (ROOT / "tests" / file).read_text()


@pytest.mark.slow
def test_with_all_guards_every_test_passes() -> None:
    with copied() as folder:
        done = run(folder, *sorted({guard.test for guard in GUARDS}))

    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_without_the_guard_its_test_fails(guard: Guard) -> None:
    if "other-uid" in guard.test and os.geteuid() != 0:
        pytest.skip("needs root: only root can start a process under another uid")
    with copied() as folder:
        mutated = folder / guard.file
        mutated.write_text(mutated.read_text().replace(guard.old, guard.new))

        done = run(folder, guard.test)

    assert done.returncode == TEST_FAILED, f"{guard.name}: {done.stdout}{done.stderr}"


@contextmanager
def copied() -> Iterator[Path]:
    """The packages in a folder that every uid may enter."""
    with tempfile.TemporaryDirectory(prefix="overnight-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for package in COPIED:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield folder


def run(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """These tests alone, on the packages in `folder`; what a trainer without its guards leaves running is ended."""
    pytest_argv = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    return subprocess.run(
        [sys.executable, "-P", "-c", NOTHING_LEFT, folder, *pytest_argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
