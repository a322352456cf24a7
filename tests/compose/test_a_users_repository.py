"""A user's own repository beside the volume of the run: whose it is, and what is said when it is somebody else's.

Named to run first: the stack of the other tests has a run under way that would take half of the processor.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.machine.subject import render_subject
from tests import ROOT, TESTS
from tests.compose.checkout import make_checkout
from tests.compose.stack import MEASURED, Stack, removed_at_the_end, run, spoiled
from trainer.jobs import profile_named

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can make a repository that is somebody else's"),
]

OWNER = 4321
OWN = TESTS / "subjects" / "own"
ROUTES = ROOT / "services" / "adopt" / "examples" / "routes"
READS = """\
import pathlib
print("advice:", pathlib.Path("advice.txt").read_text())
try:
    print("repository:", *pathlib.Path("/state/user-repository").iterdir())
except OSError as error:
    print("repository:", error.strerror)
"""
LOOKS = """\
import glob
print("validation text:", len(glob.glob("/var/tmp/**/val.txt", recursive=True)), "files")
"""


@contextmanager
def of_the_owner(files: dict[str, str]) -> Iterator[Path]:
    """A repository of a user who is not uid 1000, where that user can reach it."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    for name, text in files.items():
        (folder / name).write_text(text)
    for path in (folder, *folder.iterdir()):
        os.chown(path, OWNER, OWNER)
    identity = ("-c", "user.name=A user", "-c", "user.email=user@example.org")
    for command in (["init", "--initial-branch", "main"], ["add", "."], [*identity, "commit", "-m", "mine"]):
        subprocess.run(
            ["git", *command], cwd=folder, user=OWNER, group=OWNER, extra_groups=[], check=True, capture_output=True,
            env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        )  # fmt: skip
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def repository() -> Iterator[Path]:
    with of_the_owner(render_subject(profile_named("cpu"))) as folder:
        yield folder


@pytest.fixture
def adopted(checkout: Path, images: None) -> Iterator[tuple[Stack, Path]]:
    """A stack for a repository with a prepare.py of its own, whose downloads lie in its owner's cache; not started."""
    home = Path(tempfile.mkdtemp(dir="/var/tmp"))
    home.chmod(0o755)
    files = {name: (OWN / name).read_text() for name in ("train.py", "prepare.py")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        runpy.run_path(str(OWN / "prepare.py"), run_name="__main__")
    shell = {"SUBJECT_CACHE": str(home / ".cache" / "own-subject"), "RESEARCHER_USER": f"{OWNER}:{OWNER}"}
    shell |= {"LLM": "none", "EXPERIMENTS": "1"}
    with of_the_owner(files | {"program.md": "Better.\n"}) as folder:
        folder.chmod(0o755)
        shell["SUBJECT_DIR"] = str(folder)
        stack = Stack(f"overnight-adopted-{os.getpid()}", checkout, shell, user=f"{OWNER}:{OWNER}")
        with removed_at_the_end(stack):
            yield stack, folder
    shutil.rmtree(home)


@pytest.fixture
def task(tmp_path: Path, images: None) -> Iterator[tuple[Stack, Path]]:
    """A stack for the example with the round trip, whose script also reads an uncommitted file; not started. It has a
    checkout of its own, without a BUDGET."""
    checkout = make_checkout(tmp_path / "checkout")
    files = {path.name: path.read_text() for path in ROUTES.iterdir() if path.is_file()}
    files["overnight.toml"] = files["overnight.toml"].replace("readable = []", 'readable = ["advice.txt"]', 1)
    files["plan.py"] += READS
    files[".gitignore"] = "advice.txt\n"
    shell = {"RESEARCHER_USER": f"{OWNER}:{OWNER}", "LLM": "none", "EXPERIMENTS": "2"}
    with of_the_owner(files) as folder:
        folder.chmod(0o755)
        (folder / "advice.txt").write_text("go round")
        shell["SUBJECT_DIR"] = str(folder)
        stack = Stack(f"overnight-task-{os.getpid()}", checkout, shell, user=f"{OWNER}:{OWNER}")
        with removed_at_the_end(stack):
            yield stack, folder


@pytest.fixture
def own(checkout: Path, images: None, repository: Path) -> Iterator[Stack]:
    """Not started. No LLM: the optimiser alone."""
    shell = {"SUBJECT_DIR": str(repository), "RESEARCHER_USER": f"{OWNER}:{OWNER}", "LLM": "none", "EXPERIMENTS": "1"}
    stack = Stack(f"overnight-own-{os.getpid()}", checkout, shell, user=f"{OWNER}:{OWNER}")
    with removed_at_the_end(stack):
        yield stack


def test_run_on_ones_own_repository_pushes_commits_that_are_the_owners(own: Stack, repository: Path) -> None:
    before = (repository / "train.py").read_text()

    own.up()
    own.open_eye()
    own.submit("worse.py", spoiled(before))  # not kept, so there is no claim to measure
    own.wait_for_end()

    assert own.audit()["faults"] == []
    assert own.container("researcher")["Config"]["User"] == f"{OWNER}:{OWNER}"
    assert {path.lstat().st_uid for path in (repository, *repository.rglob("*"))} == {OWNER}
    assert git(repository, "show", "main:train.py") == before, "the user's own branch is as it was"
    assert git(repository, "status", "--porcelain", "--branch") == "## main\n"
    assert git(repository, "for-each-ref", "refs/heads/overnight", "refs/overnight").count("\n") == 2


def test_repository_with_a_prepare_of_its_own_is_measured_in_the_sandbox(adopted: tuple[Stack, Path]) -> None:
    stack, folder = adopted
    before = (folder / "train.py").read_text()

    stack.up()
    stack.open_eye()
    outcome, log = stack.submit("worse.py", spoiled(before, before=LOOKS))
    stack.wait_for_end()

    said = stack.compose("logs", "--no-log-prefix", "data").stdout
    assert "runs prepare.py once, without a network" in said
    assert outcome == "ok"
    assert "longest_word:     12" in log, "the stand-in has the constants of the user's prepare.py"
    assert "validation text: 0 files" in log
    assert stack.audit()["faults"] == []
    assert git(folder, "status", "--porcelain", "--branch") == "## main\n"
    stack.compose("up", "--detach", "--wait")
    assert "data: nothing to do" in stack.compose("logs", "--no-log-prefix", "data").stdout


def test_a_task_is_measured_in_the_sandbox_and_its_run_is_not_resumed_on_another_metric(
    task: tuple[Stack, Path],
) -> None:
    stack, folder = task

    stack.up()
    stack.open_eye()
    stack.wait_for_end()

    said = stack.compose("logs", "--no-log-prefix", "data").stdout
    assert "edits plan.py, runs `python plan.py` for at most 20 s" in said
    assert "length: km, lower is better" in said
    assert stack.rows("SELECT DISTINCT outcome FROM trial WHERE experiment = 1") == [["ok"]]
    log = stack.seen("sh", "-c", "cat /state/trials/*-0-t*/log.txt")
    assert "advice: go round" in log
    assert "repository: No such file or directory" in log
    assert stack.audit()["faults"] == []
    assert stack.seen("head", "-1", "/state/subject/results.tsv").startswith("commit\tlength\t")
    assert "length" in stack.execute("researcher", "overnight", "status", "--verbose")
    measured = stack.ask(MEASURED)
    assert measured == 2
    assert git(folder, "status", "--porcelain", "--branch") == "## main\n"

    text = (folder / "overnight.toml").read_text()
    (folder / "overnight.toml").write_text(text.replace('direction = "lower"', 'direction = "higher"'))
    refused = stack.compose("up", "--detach", "--wait", check=False)
    assert refused.returncode != 0
    assert "metric.direction was lower, and is higher now" in stack.compose("logs", "--no-log-prefix", "data").stdout
    (folder / "overnight.toml").write_text(text)
    stack.compose("up", "--detach", "--wait")
    assert "data: nothing to do" in stack.compose("logs", "--no-log-prefix", "data").stdout
    assert stack.ask(MEASURED) == measured


def git(repository: Path, *arguments: str) -> str:
    return run("git", "-c", f"safe.directory={repository}", "-C", str(repository), *arguments).stdout


def test_repository_of_somebody_else_is_refused_in_one_line_with_the_command_that_mends_it(
    own: Stack, repository: Path
) -> None:
    refused = own.compose("up", "--detach", "--wait", check=False, RESEARCHER_USER="1000:1000")

    assert refused.returncode != 0
    said = own.compose("logs", "--no-log-prefix", "secrets").stdout.strip().splitlines()[-1]
    assert "SUBJECT_DIR" in said
    assert f"RESEARCHER_USER={OWNER}:{OWNER}" in said
    assert {path.lstat().st_uid for path in repository.rglob("*")} == {OWNER}
