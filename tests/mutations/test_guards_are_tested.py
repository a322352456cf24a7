"""Take a guard away and its test must fail: the packages are copied, one line is changed, that one test is run.

`-m guards` takes away all of them, `-m slow` those of `tests.mutations.choice`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from tests import ROOT
from tests.mutations.guards import GUARDS, Guard
from tests.mutations.history import of_this_run

COPIED = ("researcher", "trainer", "services", "tests")
NOTHING_LEFT = """\
import os, subprocess, sys
from trainer.sandbox import guardian, syscalls

syscalls.become_subreaper()
try:
    code = subprocess.run(
        [sys.executable, *sys.argv[3:]], env=os.environ | {"PYTHONPATH": sys.argv[1]}, timeout=float(sys.argv[2])
    ).returncode
except subprocess.TimeoutExpired:
    code = 99
guardian.kill_tree()
sys.exit(code)
"""
TAKES_AWAY = "test_without_the_guard_its_test_fails["
LIMIT_S = 180.0  # of one test; those that hang without their guard are to be fixed
TEST_FAILED = 1  # pytest's exit code; a test that cannot be collected has another


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.name)
def test_the_guard_stands_where_the_table_says_and_its_test_exists(guard: Guard) -> None:
    file, _, test = guard.test.partition("[")[0].partition("::")

    assert (ROOT / guard.file).read_text().count(guard.old) == 1
    assert f"def {test}(" in (ROOT / "tests" / file).read_text()


@pytest.fixture(scope="session")
def whole() -> Iterator[Path]:
    """A compiled copy of the packages. A test there compiles only the module that lacks its guard."""
    with copied() as folder:
        subprocess.run([sys.executable, "-m", "compileall", "-q", folder], check=True)
        yield folder


@pytest.mark.slow
@pytest.mark.guards
def test_with_all_guards_every_test_passes(whole: Path, request: pytest.FixtureRequest) -> None:
    """The tests of those guards that this run takes away."""
    params = [item.callspec.params for item in request.session.items if item.name.startswith(TAKES_AWAY)]
    taken = [each["guard"] for each in params] or GUARDS

    done = run(whole, *sorted({guard.test for guard in taken}))

    assert done.returncode == 0, done.stdout


@pytest.mark.guards
@pytest.mark.parametrize(
    "guard",
    [
        pytest.param(guard, id=guard.name, marks=pytest.mark.slow if guard.name in of_this_run() else ())
        for guard in GUARDS
    ],
)
def test_without_the_guard_its_test_fails(guard: Guard, whole: Path) -> None:
    if "other-uid" in guard.test and os.geteuid() != 0:
        pytest.skip("needs root: only root can start a process under another uid")
    with taken_away(guard, whole):
        done = run(whole, guard.test)

    assert done.returncode == TEST_FAILED, f"{guard.name}: {done.stdout}{done.stderr}"


@contextmanager
def copied() -> Iterator[Path]:
    """The packages in a folder of their own that every uid may enter."""
    with tempfile.TemporaryDirectory(prefix="overnight-test-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for package in COPIED:
            shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        yield folder


@contextmanager
def taken_away(guard: Guard, folder: Path) -> Iterator[None]:
    """Take a guard away from the packages in `folder`, and put its module back as it was, with its compiled file."""
    path = folder / guard.file
    compiled = Path(cache_from_source(str(path)))
    there = [each for each in (path, compiled) if each.exists()]
    text = path.read_text()
    for each in there:
        each.rename(f"{each}.whole")
    path.write_text(text.replace(guard.old, guard.new))
    shutil.copymode(f"{path}.whole", path)
    try:
        yield
    finally:
        compiled.unlink(missing_ok=True)
        for each in there:
            Path(f"{each}.whole").rename(each)


def run(folder: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """These tests alone, on the packages in `folder`; what a trainer without its guards leaves running is ended."""
    pytest_argv = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *(f"tests/{test}" for test in tests)]
    return subprocess.run(
        [sys.executable, "-P", "-c", NOTHING_LEFT, folder, str(LIMIT_S * len(tests)), *pytest_argv],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
