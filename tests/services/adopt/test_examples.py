"""The examples of tasks: each is what its overnight.toml says, and a run of three experiments ends as it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from researcher.journal.reader import JournalReader
from researcher.source.knobs import range_faults, read_knobs
from services.adopt.task_file import read_task
from tests import ROOT
from trainer.jobs import Metric, Outcome
from trainer.jobs.task import Task

EXAMPLES = ROOT / "services/adopt/examples"
NAMES = sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir())
LIMIT_S = 240


def repository_of(name: str, folder: Path) -> Path:
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", name]):
        subprocess.run(["git", *who, *command], cwd=folder, check=True)
    return folder


def overnight(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT_S,
        env=os.environ | {"COLUMNS": "200"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_task_with_knobs_and_a_goal(name: str) -> None:
    task = read_task((EXAMPLES / name / "overnight.toml").read_text())
    assert isinstance(task, Task)
    source = (EXAMPLES / name / task.edit).read_text()

    assert [knob for knob, found in read_knobs(source).items() if found.range is not None]
    assert range_faults(source) == {}
    assert (EXAMPLES / name / "program.md").exists()


@pytest.mark.slow
def test_three_experiments_with_the_routes(tmp_path: Path) -> None:
    repository, state = repository_of("routes", tmp_path / "routes"), str(tmp_path / "state")

    overnight("init", "--subject", str(repository), "--profile", "cpu", "--state", state)
    shown = overnight("run", "--experiments", "3", "--proposer", "optimizer", "--state", state)

    with JournalReader(tmp_path / "state" / "journal") as history:
        run, experiments, trials = history.run(), history.experiments(), history.trials()
        results = [history.result(trial.id) for trial in trials]
    assert run is not None
    assert run.metric == Metric("length", unit="km")
    assert run.ended is not None
    assert sum(item.was_measured for item in experiments) == 3
    assert {trial.outcome for trial in trials} == {Outcome.OK}
    assert {result.trust.evaluator for result in results if result and result.trust} == {"score command"}
    assert "unseen text" not in shown
    table = (tmp_path / "state" / "subject" / "results.tsv").read_text()
    assert table.startswith("commit\tlength\t")
