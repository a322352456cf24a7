"""The shell scripts, run for real on a miniature clone: its torch, tools and package are wheels of a few lines, so the
set-up is pip's own work without a network. The true packages are installed by whoever runs these tests."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.machine.gpus import OLDER_BUILDS, USUAL_BUILD
from tests import ROOT

SCRIPTS = [path for path in sorted((ROOT / "scripts").rglob("*")) if path.is_file()] + [ROOT / ".ci" / "run"]
NEEDED = [
    "env",
    "bash",
    "dirname",
    "realpath",
    "flock",
    "grep",
    "ls",
    "mkdir",
    "touch",
    "cat",
    "sha256sum",
    "head",
    "tail",
    "rm",
    "sed",
]
SAYS_ITS_ARGUMENTS = (
    "import sys\ndef main():\n    print('{name}', *sys.argv[1:])\nif __name__ == '__main__':\n    main()\n"
)
BUILD_BACKEND = """\
from pathlib import Path
import shutil
def build_editable(folder, config_settings=None, metadata_directory=None):
    wheel = Path(__file__).parent / "overnight-1.0-py3-none-any.whl"
    shutil.copy(wheel, folder)
    return wheel.name
"""
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["backend"]
[project]
name = "overnight"
version = "1.0"
[project.optional-dependencies]
trainer = ["torch==2.13.0"]
"""


@dataclass(frozen=True)
class Clone:
    """A folder with our scripts in it, and a home and wheels beside it."""

    root: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def log(self) -> Path:
        return self.venv / "setup.log"

    def environment(self, **changed: str) -> dict[str, str]:
        """An empty home, and pip told by the user's own settings to look beside the clone and nowhere else."""
        kept = {name: os.environ[name] for name in ("PATH", "PYENV_ROOT") if name in os.environ}
        wheels = self.root.parent / "wheels"
        return (
            kept
            | {"HOME": str(self.root.parent / "home"), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}
            | changed
        )

    def run(self, script: str, *arguments: str, **changed: str) -> subprocess.CompletedProcess[str]:
        """From a folder that is not the clone."""
        return subprocess.run(
            [self.root / script, *arguments],
            cwd=self.root.parent,
            env=self.environment(**changed),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """Set up once with the test tools; a test that breaks it repairs it, since that is what is tested."""
    clone = make_clone(tmp_path_factory.mktemp("machine") / "a clone")
    answer = clone.run("scripts/setup", "dev")
    assert answer.returncode == 0, answer.stderr
    assert re.findall(r"\d/\d", answer.stdout) == ["1/4", "2/4", "3/4", "4/4"]
    return clone


@pytest.fixture
def bare(tmp_path: Path) -> Clone:
    """Nothing set up yet."""
    return make_clone(tmp_path / "clone")


@pytest.mark.parametrize("group", ["dev", "run", "operate"])
@pytest.mark.slow
def test_second_set_up_changes_nothing_and_asks_no_network(clone: Clone, group: str) -> None:
    before = clone.log.read_text()

    answer = clone.run("scripts/setup", group, PIP_FIND_LINKS="")

    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert clone.log.read_text() == before


def test_up_sets_up_and_hands_its_options_to_the_command(clone: Clone) -> None:
    answer = clone.run("scripts/up", "--local", "--experiments", "12", "--state", "a folder")

    assert answer.stdout == "overnight run --experiments 12 --state a folder\n"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("up", ()),
        ("up", ("--cpu", "--experiments", "5", "--then", "echo done")),
        ("status", ()),
        ("logs", ("trainer", "--follow")),
        ("down", ()),
        ("doctor", ("--report", "a file")),
        ("results", ("a folder",)),
    ],
)
def test_what_is_for_containers_goes_to_the_operators_commands_whatever_lies_in_the_callers_folder(
    clone: Clone, script: str, arguments: tuple[str, ...]
) -> None:
    (clone.root.parent / "services.py").write_text("raise SystemExit('a stranger')\n")

    answer = clone.run(f"scripts/{script}", *arguments)

    assert answer.stdout.splitlines()[-1] == " ".join(("services", script, *arguments))


def test_ci_checks_and_tests_from_any_folder(clone: Clone) -> None:
    answer = clone.run(".ci/run")

    assert answer.stdout.splitlines() == [
        "ruff format --check .",
        "ruff check .",
        "mypy",
        "pytest -q -p no:cacheprovider tests/test_architecture.py tests/test_words.py",
        "pytest -m not slow and not guards and not docker and not gpu -n 3 --dist loadfile",
        "pytest -m slow -n 2 --dist loadfile",
        "docker-engine",
        "pytest -m docker",
    ]


def test_with_arguments_the_tests_are_pytests_alone(clone: Clone) -> None:
    assert clone.run("scripts/test", "tests/trainer", "-x").stdout == "pytest tests/trainer -x\n"


@pytest.mark.slow
def test_test_tools_stay_when_the_run_is_refreshed(clone: Clone) -> None:
    with (clone.root / "pyproject.toml").open("a") as file:
        file.write("# changed\n")

    answer = clone.run("scripts/setup", "run")

    assert answer.returncode == 0, answer.stderr
    assert "1/4" not in answer.stdout
    assert clone.run("scripts/check").stdout.startswith("ruff")


@pytest.mark.slow
def test_environment_for_containers_has_no_torch_until_a_run_without_them_needs_it(bare: Clone) -> None:
    torch = ("-c", "import torch")

    small = bare.run("scripts/setup", "operate")
    had_torch = bare.run(".venv/bin/python", *torch).returncode == 0
    grown = bare.run("scripts/setup", "run")

    assert (small.returncode, grown.returncode) == (0, 0), small.stderr + grown.stderr
    assert "torch" not in small.stdout
    assert not had_torch
    assert "1/4" not in grown.stdout
    assert bare.run(".venv/bin/python", *torch).returncode == 0
    assert bare.run("scripts/setup", "operate").stdout == ""


def test_failed_refresh_shows_why_and_leaves_the_environment_to_be_refreshed_later(clone: Clone) -> None:
    pyproject = clone.root / "pyproject.toml"
    good = pyproject.read_text()
    pyproject.write_text(good.replace("torch==2.13.0", "torch==2.12.99"))

    refused = clone.run("scripts/setup", "dev")
    pyproject.write_text(good)
    repaired = clone.run("scripts/setup", "dev")

    assert refused.returncode == 1
    assert re.search(r"ERROR: .*set-up failed: pip install torch==2.12.99 \(all of it: ", refused.stderr, re.DOTALL)
    assert "the same command again" in refused.stderr
    assert (repaired.returncode, repaired.stdout) == (0, "")


@pytest.mark.parametrize("script", ["scripts/up", "./scripts/up", "up"])
def test_a_script_finds_its_clone_wherever_the_users_cd_searches(clone: Clone, script: str) -> None:
    other = clone.root.parent / "other"
    (other / "scripts").mkdir(parents=True, exist_ok=True)
    here = clone.root if "/" in script else clone.root / "scripts"

    answer = subprocess.run(
        ["bash", script, "--local"], cwd=here, env=clone.environment(CDPATH=f"{other}:{other.parent}"),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert (answer.stdout, answer.stderr) == ("overnight run\n", "")


@pytest.mark.parametrize("place", ["variables", "file"])
def test_set_up_uses_the_users_index_and_none_of_pips_settings_that_install_elsewhere(bare: Clone, place: str) -> None:
    elsewhere = bare.root.parent / "elsewhere"
    settings = {"user": "true", "target": str(elsewhere), "no-deps": "true", "require-hashes": "true"}
    if place == "file":
        config = bare.root.parent / "home" / ".config" / "pip" / "pip.conf"
        config.parent.mkdir(parents=True)
        config.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        settings = {}

    answer = bare.run(
        "scripts/setup", "run", **{f"PIP_{name.upper().replace('-', '_')}": v for name, v in settings.items()}
    )

    assert answer.returncode == 0, answer.stderr
    assert not elsewhere.exists()


def test_set_up_takes_nothing_from_a_pythonpath(bare: Clone) -> None:
    shadow = bare.root.parent / "shadow"
    shadow.mkdir()
    (shadow / "typing.py").write_text("raise SystemExit('a stranger')\n")

    answer = bare.run("scripts/setup", "operate", PYTHONPATH=str(shadow))

    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("driver", "changed", "refused"),
    [
        ("550.54.14", {}, "driver 550.54.14 is too old for the usual build of torch, which needs 580"),
        ("520.61.05", {"OVERNIGHT_TORCH_BUILD": "cu126"}, "is too old for the cu126 build of torch, which needs 525"),
        ("580.95.05", {}, None),
        ("550.54.14", {"OVERNIGHT_TORCH_BUILD": "cu126"}, None),
        ("550.54.14", {"CUDA_VISIBLE_DEVICES": ""}, None),
    ],
    ids=["old", "very old", "new", "old with its build", "old and hidden"],
)
def test_driver_that_torch_needs_is_said_before_anything_is_downloaded(
    driver: str, changed: dict[str, str], refused: str | None, bare: Clone
) -> None:
    (bare.root.parent / "bin").mkdir()
    asked = bare.root.parent / "bin" / "nvidia-smi"
    asked.write_text(f"#!/bin/sh\necho {driver}\n")
    asked.chmod(0o755)
    path = f"{asked.parent}:{os.environ['PATH']}"

    answer = bare.run("scripts/setup", "run", PATH=path, OVERNIGHT_PYTHON="python3.98", **changed)

    assert answer.returncode == 1
    assert (refused or "no Python >= 3.11") in answer.stderr
    assert bare.venv.exists() == (refused is None)


def test_required_drivers_are_those_of_the_builds() -> None:
    script = (ROOT / "scripts" / "setup").read_text()

    assert f"needs={USUAL_BUILD.driver} " in script
    assert {f"needs={build.driver};" for build in OLDER_BUILDS.values()} == set(re.findall(r"needs=525;", script))
    assert all(name.startswith("cu12") for name in OLDER_BUILDS)


@pytest.mark.parametrize("left", ["overnight.started", "overnight.stamp"], ids=["interrupted", "moved here"])
def test_environment_that_was_interrupted_or_moved_is_made_anew(bare: Clone, left: str) -> None:
    bare.venv.mkdir()
    (bare.venv / left).write_text("place /elsewhere /elsewhere/.venv\ngroup run\n")
    (bare.venv / "half a package").touch()

    answer = bare.run("scripts/up", "--local", PATH=tools(bare))

    assert "starting afresh" in answer.stdout
    assert not (bare.venv / "half a package").exists()


@pytest.mark.parametrize("left", ["overnight.started", "overnight.stamp"])
@pytest.mark.parametrize("way", ["a link", "the setting"])
def test_environment_of_another_clone_is_left_alone(bare: Clone, left: str, way: str) -> None:
    other = make_clone(bare.root.parent / "another machine" / "clone")
    other.venv.mkdir()
    (other.venv / left).write_text(f"place {other.root} {other.venv}\ngroup dev\n")
    (other.venv / "precious").touch()
    if way == "a link":
        bare.venv.symlink_to(other.venv)

    answer = bare.run("scripts/up", "--local", **({} if way == "a link" else {"OVERNIGHT_VENV": str(other.venv)}))

    assert answer.returncode == 1
    assert f"{other.venv} belongs to the clone {other.root}" in answer.stderr
    assert (other.venv / "precious").exists()


def test_folder_that_is_not_ours_is_left_alone(bare: Clone) -> None:
    theirs = bare.root.parent / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()

    answer = bare.run("scripts/up", "--local", OVERNIGHT_VENV="theirs")

    assert answer.returncode == 1
    assert f"{theirs} exists and was not made by scripts/setup" in answer.stderr
    assert [path.name for path in theirs.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    ("python", "said"),
    [
        (None, "no Python >= 3.11.*apt-get install python3 python3-venv"),
        ('case "$2" in *version_info*) exit 1;; esac', "no Python >= 3.11.*apt-get install python3 python3-venv"),
        (
            'case "$2" in *ensurepip*) exit 1;; *print*) echo python3.12-venv;; esac',
            "venv module is missing.*apt-get install python3.12-venv",
        ),
    ],
    ids=["none", "too old", "without venv"],
)
def test_python_that_cannot_be_used_is_said_with_the_line_that_mends_it(
    bare: Clone, python: str | None, said: str
) -> None:
    answer = bare.run("scripts/up", "--local", PATH=tools(bare, python))

    assert answer.returncode == 1
    assert re.search(said, answer.stderr, re.DOTALL), answer.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: others may keep their Python to themselves")
@pytest.mark.parametrize("others", [True, False], ids=["another is there", "it is the only one"])
def test_root_prefers_a_python_that_other_users_can_start(bare: Clone, others: bool) -> None:
    cannot_make = "case $1 in -V) echo Python {}; exit;; -Im) exit 1;; esac; "
    path = tools(bare, cannot_make.format("of root") + "case $2 in *setuid*) exit 1;; esac")
    if others:
        open_to_all = bare.root.parent / "open"
        open_to_all.mkdir()
        (open_to_all / "python3").write_text("#!/bin/sh\n" + cannot_make.format("of all"))
        (open_to_all / "python3").chmod(0o755)
        path += f":{open_to_all}"

    answer = bare.run("scripts/setup", "operate", PATH=path)

    assert f"environment of Python of {'all' if others else 'root'} in" in answer.stdout
    assert ("since no other user can start" in answer.stderr) is others


@pytest.mark.parametrize("named", ["python3.99", "path of it"])
def test_environment_is_made_of_the_python_that_was_named(bare: Clone, named: str) -> None:
    path = tools(bare, "case $1 in -V) echo Python of all; exit;; -m) exit 1;; esac")
    wanted = bare.root.parent / "tools" / "python3.99"
    wanted.write_text("#!/bin/sh\ncase $1 in -V) echo Python that was named; exit;; -m) exit 1;; esac\n")
    wanted.chmod(0o755)
    name = str(wanted) if named == "path of it" else named

    answer = bare.run("scripts/setup", "operate", PATH=path, OVERNIGHT_PYTHON=name)
    missing = bare.run("scripts/setup", "operate", PATH=path, OVERNIGHT_PYTHON="python3.98")

    assert "environment of Python that was named in" in answer.stdout
    assert (missing.returncode, "python3.98" in missing.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [("--help",), ("-h",), ("--local", "--help")])
def test_up_explains_itself_before_any_set_up(bare: Clone, arguments: tuple[str, ...]) -> None:
    answer = bare.run("scripts/up", *arguments)

    assert answer.returncode == 0
    assert answer.stdout.startswith("usage: scripts/up [--cpu]")
    assert not bare.venv.exists()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_script_is_valid_strict_and_can_be_run(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    if script.suffix != ".sh":
        assert "\nset -euo pipefail\n" in script.read_text()
        assert os.access(script, os.X_OK)


@pytest.mark.parametrize(
    ("lock", "extras"), [("base.lock", ()), ("run.lock", ("trainer",)), ("dev.lock", ("trainer", "dev"))]
)
def test_lock_holds_everything_that_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + [item for extra in extras for item in project["optional-dependencies"][extra]]

    missing = {re.split(r"[<>=\[ ]", item)[0] for item in wanted} - {line.partition("==")[0] for line in locked(lock)}

    assert missing <= {"torch"}, "run scripts/lock after a change of pyproject.toml"


def test_each_lock_holds_the_smaller_one_as_it_is_and_the_smallest_has_no_torch() -> None:
    assert locked("base.lock") < locked("run.lock") < locked("dev.lock")
    assert not [line for line in locked("base.lock") if line.startswith(("torch==", "pyarrow=="))]


def locked(lock: str) -> set[str]:
    """NAME==VERSION, and for which platforms."""
    return set(re.findall(r"^([a-z0-9-]+==[^\\\n]*)", (ROOT / "requirements" / lock).read_text(), re.MULTILINE))


def make_clone(root: Path) -> Clone:
    wheels = root.parent / "wheels"
    for folder in (root / "requirements", root / "backend", root / ".ci", wheels, root.parent / "home"):
        folder.mkdir(parents=True)
    shutil.copytree(ROOT / "scripts", root / "scripts")
    (root / "scripts" / "dev" / "docker-engine").write_text("#!/bin/sh\necho docker-engine\n")  # installs nothing here
    shutil.copy(ROOT / ".ci" / "run", root / ".ci" / "run")
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend" / "backend.py").write_text(BUILD_BACKEND)
    (root / "trainer" / "jobs").mkdir(parents=True)
    shutil.copy(ROOT / "trainer" / "jobs" / "environment.py", root / "trainer" / "jobs" / "environment.py")
    command = {
        "services/cli.py": SAYS_ITS_ARGUMENTS.format(name="overnight"),
        "services/__main__.py": SAYS_ITS_ARGUMENTS.format(name="services"),
    }
    make_wheel(root / "backend", "overnight", "1.0", command, {"overnight": "services.cli:main"})
    make_wheel(wheels, "torch", "2.13.0", {f"{name}.py": "" for name in imported_first("run")})
    names = ("ruff", "mypy", "pytest")
    modules = {f"{name}.py": SAYS_ITS_ARGUMENTS.format(name=name) for name in names}
    tools = make_wheel(wheels, "tools", "1.0", modules, {name: f"{name}:main" for name in names})
    parts = make_wheel(wheels, "parts", "1.0", {f"{name}.py": "" for name in imported_first("operate")})
    base = f"parts==1.0 --hash=sha256:{parts}\n"
    (root / "requirements" / "pip.lock").touch()
    (root / "requirements" / "base.lock").write_text(base)
    (root / "requirements" / "run.lock").write_text(base)
    (root / "requirements" / "dev.lock").write_text(f"{base}tools==1.0 --hash=sha256:{tools}\n")
    return Clone(root)


def tools(clone: Clone, python: str | None = None) -> str:
    """A PATH with what every Debian has, and a python3 that runs this shell script, if any."""
    folder = clone.root.parent / "tools"
    folder.mkdir()
    for name in NEEDED:
        (folder / name).symlink_to(str(shutil.which(name)))
    if python is not None:
        (folder / "python3").write_text(f"#!/bin/sh\n{python}\n")
        (folder / "python3").chmod(0o755)
    return str(folder)


def imported_first(group: str) -> list[str]:
    """Files for the modules that the set-up imports at its end."""
    found = re.search(rf'^{group}_imports="([^"]*)"', (ROOT / "scripts" / "setup").read_text(), re.MULTILINE)
    assert found is not None
    dotted = {name for name in found.group(1).split() if "." in name}
    packages = {name.partition(".")[0] for name in dotted}
    plain = {name for name in found.group(1).split() if "." not in name} - packages
    return sorted(plain | {f"{name}/__init__" for name in packages} | {name.replace(".", "/") for name in dotted})


def make_wheel(
    folder: Path, name: str, version: str, files: dict[str, str], scripts: dict[str, str] | None = None
) -> str:
    """Returns its sha256."""
    facts = f"{name}-{version}.dist-info"
    entries = "".join(f"{script} = {target}\n" for script, target in (scripts or {}).items())
    files = files | {
        f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{facts}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{facts}/entry_points.txt": f"[console_scripts]\n{entries}",
    }
    files[f"{facts}/RECORD"] = "".join(f"{path},,\n" for path in files)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in files.items():
            wheel.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()
