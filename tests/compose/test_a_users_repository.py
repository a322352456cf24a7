"""A user's own repository beside the volume of the run: whose it is, and what is said when it is somebody else's.

Named to run first: the stack of the other tests has a run under way that would take half of the processor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.machine.subject import render_subject
from tests.compose.stack import Stack, removed_at_the_end, run, spoiled
from trainer.jobs import profile_named

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(os.getuid() != 0, reason="only root can make a repository that is somebody else's"),
]

OWNER = 4321


@pytest.fixture
def repository() -> Iterator[Path]:
    """The subject in a repository of a user who is not uid 1000, where that user can reach it."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    for name, text in render_subject(profile_named("cpu")).items():
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
