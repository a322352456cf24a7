"""Trials of a user's own task: claimed by the script, or measured by a second command behind the same sandbox."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import ROOT
from tests.fixtures.trials import as_user, everything_dead, task_spec
from trainer.data.task_data import TaskData, write_task_data
from trainer.jobs import Direction, Metric, Outcome, TrialResult, files_digest
from trainer.jobs.task import ScoreCommand, Task
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

HELPERS = "def double(number):\n    return 2 * number\n"
SCORE = """\
import pathlib, sys

answers = (pathlib.Path(sys.argv[1]) / "answers.txt").read_text().split()
truth = pathlib.Path("hidden/truth.txt").read_text().split()
print("accuracy:", sum(map(str.__eq__, answers, truth)) / len(truth))
"""
OTHERS = {"helpers.py": HELPERS, "score.py": SCORE}
RIGHT = "import pathlib\npathlib.Path('output/answers.txt').write_text('1 0 1 1')\n"
CLAIMED = Task(
    edit="solve.py",
    command=("python", "solve.py"),
    seconds=20,
    seed="--seed",
    sigma_floor=0.001,
    metric=Metric("accuracy", Direction.HIGHER),
    fixed={name: hashlib.sha256(text.encode()).hexdigest() for name, text in OTHERS.items()},
    readable=("data",),
)
MEASURED = replace(CLAIMED, score=ScoreCommand(("python", "score.py"), "output", ("hidden",)))
RunTask = Callable[..., TrialResult]


@pytest.fixture
def run_task(ground: Path, config: WorkerConfig) -> RunTask:
    """Return a function that runs a solve.py as a trial of a task."""
    repository, data = config.work.parent / "repository", config.work.parent / "task"
    for name, text in {"data/numbers.txt": "3 4", "hidden/truth.txt": "1 0 1 0"}.items():
        path = repository / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    config = replace(config, data=data)

    def run(solve: str, task: Task = CLAIMED, **fields: Any) -> TrialResult:
        held = TaskData(task, str(repository))
        write_task_data(data, held)
        spec = task_spec(held, {"train.py": solve, **OTHERS})
        result = run_trial(replace(spec, **fields), config, lambda progress: None, lambda: False)
        assert everything_dead(config.work)
        return result

    return run


def test_a_claimed_value_becomes_a_score_that_is_called_claimed(run_task: RunTask) -> None:
    result = run_task("print('accuracy: 0.75')\n")

    assert (result.outcome, result.val_bpb) == (Outcome.OK, -0.75)
    assert result.reason == "accuracy 0.750000"
    assert result.trust is not None
    assert result.trust.evaluator == "claimed by the script"
    assert "seccomp" in result.layers


def test_a_command_gets_its_seed_its_helpers_and_its_data(run_task: RunTask) -> None:
    result = run_task(
        "import json, pathlib, sys\n"
        "from helpers import double\n"
        "numbers = pathlib.Path('data/numbers.txt').read_text().split()\n"
        "print(json.dumps({'accuracy': double(int(sys.argv[2])) + int(numbers[0]), 'at': sys.argv[1]}))\n"
    )

    assert (result.val_bpb, result.outcome) == (-17.0, Outcome.OK)


def test_a_seed_may_be_a_variable(run_task: RunTask) -> None:
    result = run_task("import os\nprint('accuracy:', os.environ['SEED'])\n", replace(CLAIMED, seed="SEED"))

    assert result.val_bpb == -7.0


@pytest.mark.parametrize(
    ("solve", "outcome", "reason"),
    [
        ("print('loss: 0.5')\n", Outcome.UNSCORABLE, "it printed no line `accuracy: number`"),
        ("print('accuracy: nan')\n", Outcome.UNSCORABLE, "it printed accuracy: nan"),
        ("print('accuracy: 1')\nraise SystemExit(3)\n", Outcome.CRASHED, "exit code 3: accuracy: 1"),
        ("import helpers\nopen(helpers.__file__, 'a').write('#')\nprint('accuracy: 1')\n", Outcome.UNSCORABLE,
         "it changed helpers.py, which is pinned"),
        ("import os\nos.remove('score.py')\nos.symlink('helpers.py', 'score.py')\nprint('accuracy: 1')\n",
         Outcome.UNSCORABLE, "it changed score.py, which is pinned"),
        ("open('hidden/truth.txt')\n", Outcome.CRASHED, None),
        ("import socket\nsocket.create_connection(('127.0.0.1', 9))\n", Outcome.CRASHED, None),
    ],
)  # fmt: skip
def test_what_gives_no_value(run_task: RunTask, solve: str, outcome: Outcome, reason: str | None) -> None:
    result = run_task(solve)

    assert (result.outcome, result.val_bpb) == (outcome, None)
    assert reason in (None, result.reason)


def test_a_command_ends_after_its_seconds(run_task: RunTask) -> None:
    result = run_task("import time\ntime.sleep(600)\n", replace(CLAIMED, seconds=1))

    assert (result.outcome, result.reason) == (Outcome.TIMED_OUT, "it was not done after 1 s")


@as_user
def test_a_measured_value_is_that_of_the_score_command(run_task: RunTask) -> None:
    result = run_task(f"{RIGHT}print('accuracy: 1.0')\n", MEASURED)

    assert (result.outcome, result.val_bpb) == (Outcome.OK, -0.75)
    assert result.trust is not None
    assert result.trust.evaluator == "score command"


@pytest.mark.parametrize(
    ("solve", "reason"),
    [
        ("print('accuracy: 1.0')\n", "it left nothing to be scored"),
        (
            "import os\nos.symlink(os.path.realpath('data') + '/../hidden/truth.txt', 'output/answers.txt')\n",
            "it left 'answers.txt', which is neither a file nor a folder",
        ),
        ("import os\nos.mkfifo('output/answers.txt')\n", "it left 'answers.txt', which is neither a file nor a folder"),
        (
            "import os\nos.rmdir('output')\nos.symlink('data', 'output')\n",
            "it left 'output', which is neither a file nor a folder",
        ),
        ("import os\nos.rmdir('output')\n", "it left nothing to be scored"),
        ("import os\nos.rename('../subject', '../gone')\n", "it changed helpers.py, which is pinned"),
        ("open('output/other.txt', 'w')\n", "the score command failed on its output (crashed)"),
        (f"{RIGHT}open('score.py', 'w').write('print(1)')\n", "it changed score.py, which is pinned"),
    ],
)
def test_a_forged_output_has_no_score(run_task: RunTask, solve: str, reason: str) -> None:
    result = run_task(solve, MEASURED)

    assert (result.outcome, result.val_bpb) == (Outcome.UNSCORABLE, None)
    assert result.reason == reason


BOUNDED = """\
import ctypes, os, sys
for capability in (1, 2):  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, from the bounding set
    assert ctypes.CDLL(None).prctl(24, capability, 0, 0, 0) == 0
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""
LOOKS = """\
import sys
from pathlib import Path
from trainer.sandbox.launch import User
from trainer.trial.output_folder import fault_as_user
print(fault_as_user(Path(sys.argv[1]), {}, "output", 1, User.parse(sys.argv[2])))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be denied what root usually may")
def test_a_worker_without_the_rights_of_root_sees_what_a_candidate_left(ground: Path) -> None:
    work = ground / "closed-work"
    (work / "output").mkdir(parents=True)
    for path in (work, work / "output"):
        os.chown(path, 64_321, 64_321)
        path.chmod(0o700)
    looks = [sys.executable, "-c", BOUNDED, LOOKS, str(work), "64321"]

    def seen() -> str:
        return subprocess.run(looks, cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert seen() == "it left nothing to be scored\n"
    (work / "output" / "answers.txt").write_text("1 0 1 1")
    assert seen() == "None\n"
    (work / "output").chmod(0)
    assert seen() == "it left a folder that cannot be read (Permission denied)\n"


def test_a_candidate_reads_nothing_that_scores_it(run_task: RunTask) -> None:
    forged = "import os\ntruth = os.path.realpath('data') + '/../hidden/truth.txt'\nprint(open(truth).read())\n"

    result = run_task(f"{RIGHT}{forged}", MEASURED)

    assert result.outcome is Outcome.CRASHED
    assert "1 0 1 0" not in result.reason


def test_a_committed_file_that_scores_is_kept_from_the_candidate(run_task: RunTask) -> None:
    solve = "import hidden.labels\nprint('accuracy: 1.0')\n"
    files = {"train.py": solve, **OTHERS, "hidden/labels.py": "TRUTH = [1, 0, 1, 0]\n"}

    result = run_task(solve, MEASURED, files=files, files_sha256=files_digest(files))

    assert result.outcome is Outcome.CRASHED
    assert "No module named 'hidden'" in result.reason


def test_a_trainer_with_another_task_does_not_answer(run_task: RunTask) -> None:
    result = run_task("print('accuracy: 1')\n", data_sha256="0" * 64)

    assert (result.outcome, result.reason) == (Outcome.LOST, "this trainer has another task")


def test_a_spec_with_another_fixed_file_has_no_score(run_task: RunTask) -> None:
    files = {"train.py": "print('accuracy: 1')\n", **OTHERS, "helpers.py": "other = 1\n"}

    result = run_task(files["train.py"], files=files, files_sha256=files_digest(files))

    assert (result.outcome, result.reason) == (Outcome.UNSCORABLE, "helpers.py is not the pinned one")
