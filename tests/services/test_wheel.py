"""The wheel: what it holds, that a run needs nothing else, and that no message there names a file of a clone."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_string
from fnmatch import fnmatch
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from researcher.journal.reader import JournalReader
from services.doctor import Mode, examine, this_machine
from services.machine.gpus import GpuFault, InstalledGpu
from services.machine.state import CHOICES_FILE, State
from tests import ROOT
from tests.test_other_pythons import FLOOR, VERSIONS

PACKAGES = ("researcher", "trainer", "services")
ONLY_IN_A_CLONE = (
    "services/views/pictures/*",
    "services/ollama/*",
    "services/*/Dockerfile",
    "services/*.yaml",
    "services/cpu.env",
    "services/redis/redis.conf",
    "services/redis/*.sh",
    "services/researcher/overnight",
)
CONSOLE_SCRIPT = "services/machine/console_script.py"
OF_A_CLONE = re.compile(r"scripts/|compose\.yaml|gpu\.env|docker compose")
# These modules speak only to users of the containers. The doctor's checks are tried below.
FOR_CONTAINERS = (
    "services/__main__.py",
    "services/machine/compose.py",
    "services/machine/installation.py",
    "services/machine/gpu_env.py",
    "services/stack/*",
    "services/adopt/packages.py",
    "services/adopt/subject_check.py",
    "services/researcher/*",
    "services/trainer/*",
    "services/doctor/*",
    "researcher/config/setting.py",
)


def built(folder: Path, kind: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"), "wheel")


def test_wheel_holds_the_packages_and_nothing_that_only_a_clone_uses(wheel: Path) -> None:
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = {
        name
        for name in names
        if (ROOT / name).exists() and not any(fnmatch(name, pattern) for pattern in ONLY_IN_A_CLONE)
    }

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.startswith("overnight-")}

    assert held == wanted - {CONSOLE_SCRIPT} | {"overnight_command.py"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= held


def test_wheel_says_what_it_is_and_which_pythons_were_tried(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        named = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        facts = message_from_string(archive.read(named).decode())

    classifiers = facts.get_all("Classifier") or []
    tried = [item.rpartition(" ")[2] for item in classifiers if item.startswith("Programming Language :: Python :: 3.")]
    assert tried == [FLOOR, *VERSIONS]
    assert facts["Requires-Python"] == f">={FLOOR}"
    assert facts["License-Expression"] == "MIT"
    assert facts["Keywords"]
    assert str(facts.get_payload()).lstrip().startswith("# Overnight")


@pytest.mark.parametrize("kind", ["wheel", "wheel:editable"])
@pytest.mark.parametrize("name", ["services.py", "services/__init__.py", "researcher/__init__.py"])
def test_a_module_in_a_folder_of_pythonpath_hides_nothing_of_the_installed_command(
    tmp_path: Path, kind: str, name: str
) -> None:
    """Third-party packages come from this environment, and ours from the installed files alone."""
    site, theirs, script = tmp_path / "site", tmp_path / "theirs", tmp_path / "overnight"
    with zipfile.ZipFile(built(tmp_path, kind)) as archive:
        archive.extractall(site)
    (theirs / name).parent.mkdir(parents=True)
    (theirs / name).write_text("raise SystemExit('hidden')\n")
    entry = EntryPoint("overnight", overnight_of(site), "console_scripts")
    script.write_text(
        f"import site, sys\nsys.path.remove({str(ROOT)!r})\nsite.addsitedir({str(site)!r})\n"
        f"from {entry.module} import {entry.attr}\n{entry.attr}()\n"
    )

    done = subprocess.run(
        [sys.executable, script, "--version"],
        env=os.environ | {"PYTHONPATH": str(theirs)}, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout.partition(" ")[0]) == (0, "overnight"), done.stderr


def test_the_installed_command_puts_the_folder_of_our_packages_first(tmp_path: Path) -> None:
    (tmp_path / "services.py").write_text("raise SystemExit('hidden')\n")
    shutil.copy(ROOT / CONSOLE_SCRIPT, tmp_path / "overnight_command.py")

    done = subprocess.run(
        [sys.executable, "-c", "import overnight_command; overnight_command.main()", "--version"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.startswith("overnight "), done.stderr


def overnight_of(site: Path) -> str:
    """What the command `overnight` of an unpacked wheel calls."""
    text = next(site.glob("overnight-*.dist-info/entry_points.txt")).read_text()
    return text.partition("overnight = ")[2].strip()


def test_texts_of_a_run_without_containers_name_a_file_of_a_clone_only_for_containers() -> None:
    found = [
        (str(module.relative_to(ROOT)), text)
        for package in PACKAGES
        for module in (ROOT / package).rglob("*.py")
        if not any(fnmatch(str(module.relative_to(ROOT)), pattern) for pattern in FOR_CONTAINERS)
        for text in texts(ast.parse(module.read_text()))
        if OF_A_CLONE.search(text) and "containers" not in text
    ]

    assert found == []


def texts(tree: ast.AST) -> Iterator[str]:
    """The strings that are no docstrings; of an f-string, its fixed parts as one text."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.Constant(value=str(text)):
                yield text
            case ast.JoinedStr(values=parts):
                yield "".join(str(part.value) for part in parts if isinstance(part, ast.Constant))
            case _:
                yield from texts(node)


def silent_driver() -> list[InstalledGpu]:
    raise GpuFault("the driver does not answer", "reboot")


@pytest.mark.parametrize("damaged", ["data/manifest.json", f"journal/{CHOICES_FILE}", None])
def test_doctor_of_a_wheel_names_nothing_of_a_clone_whatever_is_wrong(tmp_path: Path, damaged: str | None) -> None:
    state = State(tmp_path / "state")
    state.make()
    if damaged is not None:
        (state.root / damaged).parent.mkdir(exist_ok=True)
        (state.root / damaged).write_text("{")
    environment = {"PATH": str(tmp_path), "LLM": "openai", "OPENAI_BASE_URL": "nowhere"}
    facts = replace(this_machine(tmp_path, state, environment), installed_gpus=silent_driver, free_bytes=lambda _: 0)

    lines = [finding.line() for finding in examine(Mode.LOCAL, facts)]

    assert [line for line in lines if OF_A_CLONE.search(line)] == []
    assert len([line for line in lines if line.startswith("FAIL")]) >= 4


@pytest.mark.slow
def test_installed_wheel_runs_and_tells_what_to_do_where_a_package_is_missing(wheel: Path, tmp_path: Path) -> None:
    installed = Installed(tmp_path)
    installed.pip("install", f"{wheel}[trainer]")

    well = installed.run("doctor")
    run = installed.run("run", "--experiments", "2", "--budget", "1")
    containers = installed.python("-m", "services", "up")
    installed.pip("uninstall", "--yes", "torch")
    without_torch = [installed.run("doctor"), installed.run("run"), installed.run("trial", "train.py")]

    assert well.returncode == 0, well.stdout
    assert run.returncode == 0, run.stdout + run.stderr
    with JournalReader(installed.state / "journal") as history:
        assert history.measured_count() == 2
    assert (containers.returncode, "a clone" in containers.stderr) == (2, True)
    assert [answer.returncode for answer in without_torch] == [1, 2, 2]
    wanted = f"{installed.venv}/bin/python -m pip install {required('torch')}"
    assert [wanted in answer.stdout + answer.stderr for answer in without_torch] == [True] * 3
    for answer in (well, run, *without_torch):
        assert not OF_A_CLONE.search(answer.stdout + answer.stderr)
        assert "Traceback" not in answer.stderr


class Installed:
    """An environment of its own and an empty home, seen from an empty folder; pip's settings are the user's."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder / "environment"
        self.home = folder / "home"
        self.home.mkdir()
        self.state = self.home / "state"
        pips = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
        self.environment = pips | {"HOME": str(self.home), "PATH": os.defpath, "COLUMNS": "200"}
        subprocess.run([sys.executable, "-m", "venv", self.venv], check=True)

    def pip(self, *arguments: str) -> None:
        done = self.python("-m", "pip", "--no-input", "--quiet", *arguments)
        assert done.returncode == 0, done.stderr

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._started("overnight", *arguments, "--state", str(self.state))

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._started("python", *arguments)

    def _started(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [self.venv / "bin" / program, *arguments]
        return subprocess.run(command, cwd=self.home, env=self.environment, capture_output=True, text=True, check=False)


def required(package: str) -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(str(item) for item in project["optional-dependencies"]["trainer"] if item.startswith(package))
