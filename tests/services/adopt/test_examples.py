"""The examples of tasks: each is what its overnight.toml says, and a run of three experiments ends as it should.

Also that a forged number is worth nothing where the score is measured, and is called a claim where it is not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from researcher.journal.reader import JournalReader
from researcher.source.knobs import range_faults, read_knobs
from services.adopt.task_file import read_task
from tests import ROOT
from tests.fixtures.trials import task_spec
from trainer.data.task_data import TaskData, write_task_data
from trainer.jobs import (
    CLAIMED_BY,
    Direction,
    Metric,
    Outcome,
    TrialResult,
)
from trainer.jobs.task import Task
from trainer.sandbox.paths import WorkerConfig
from trainer.trial.trial import run_trial

EXAMPLES = ROOT / "services/adopt/examples"
TASK_FILES = sorted(f"{path.parent.name}/{path.name}" for path in EXAMPLES.glob("*/*.toml"))
LIMIT_S = 1200
SCORE_COMMAND = "score command"
RunExample = Callable[..., TrialResult]


def repository_of(name: str, folder: Path, task_file: str = "overnight.toml") -> Path:
    """Make a repository of an example as its user does: draw the data if there are any, and commit."""
    shutil.copytree(EXAMPLES / name, folder, ignore=shutil.ignore_patterns("__pycache__", "data", "hidden", "output"))
    shutil.copy(EXAMPLES / name / task_file, folder / "overnight.toml")
    if (folder / "make_data.py").exists():
        subprocess.run([sys.executable, "make_data.py"], cwd=folder, check=True)
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


def task_of(path: Path) -> Task:
    task = read_task(path.read_text())
    assert isinstance(task, Task), task
    return task


@pytest.mark.parametrize("path", TASK_FILES)
def test_an_example_is_a_task_with_knobs_and_a_goal(path: str) -> None:
    folder = (EXAMPLES / path).parent
    task = task_of(EXAMPLES / path)
    source = (folder / task.edit).read_text()

    assert [knob for knob, found in read_knobs(source).items() if found.range is not None]
    assert range_faults(source) == {}
    assert (folder / "program.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "task_file", "metric", "evaluator"),
    [
        ("routes", "overnight.toml", Metric("length", unit="km"), SCORE_COMMAND),
        ("tumours", "overnight.toml", Metric("auc", Direction.HIGHER), SCORE_COMMAND),
        ("shapes", "overnight.toml", Metric("accuracy", Direction.HIGHER), SCORE_COMMAND),
        ("shapes", "claimed.toml", Metric("accuracy", Direction.HIGHER), CLAIMED_BY),
    ],
    ids=["routes", "tumours", "shapes-measured", "shapes-claimed"],
)
def test_three_experiments_with_an_example(
    tmp_path: Path, name: str, task_file: str, metric: Metric, evaluator: str
) -> None:
    repository, state = repository_of(name, tmp_path / name, task_file), str(tmp_path / "state")

    overnight("init", "--subject", str(repository), "--profile", "cpu", "--state", state)
    shown = overnight("run", "--experiments", "3", "--proposer", "optimizer", "--state", state)

    with JournalReader(tmp_path / "state" / "journal") as history:
        run, experiments, trials = history.run(), history.experiments(), history.trials()
        results = [history.result(trial.id) for trial in trials]
    assert run is not None
    assert run.metric == metric
    assert run.ended is not None
    assert sum(item.was_measured for item in experiments) == 3
    assert {trial.outcome for trial in trials} == {Outcome.OK}
    assert {result.trust.evaluator for result in results if result and result.trust} == {evaluator}
    assert "unseen text" not in shown
    assert (CLAIMED_BY in overnight("status", "--verbose", "--state", state)) == (evaluator == CLAIMED_BY)
    table = (tmp_path / "state" / "subject" / "results.tsv").read_text()
    assert table.startswith(f"commit\t{metric.name}\t")


@pytest.fixture(scope="module", params=["tumours", "shapes"])
def example(request: pytest.FixtureRequest, ground: Path) -> Path:
    """Return a repository of an example that learns from data."""
    name = str(request.param)
    return repository_of(name, ground / f"{name}-{os.getpid()}")


@pytest.fixture
def run_example(example: Path, config: WorkerConfig) -> RunExample:
    """Return a function that runs the example with lines at the end of its train.py as a trial."""
    data = config.work.parent / "task"

    def run(added: str = "", task_file: str = "overnight.toml") -> TrialResult:
        held = TaskData(task_of(EXAMPLES / example.name.partition("-")[0] / task_file), str(example))
        write_task_data(data, held)
        files = {path.name: path.read_text() for path in example.glob("*.py")}
        files["train.py"] += added
        return run_trial(task_spec(held, files), replace(config, data=data), lambda progress: None, lambda: False)

    return run


@pytest.mark.slow
def test_a_forged_number_is_worth_nothing_where_the_score_is_measured(run_example: RunExample) -> None:
    honest = run_example()
    forged = run_example("\nprint('auc: 0.999999')\nprint('accuracy: 0.999999')\n")

    assert (honest.outcome, forged.outcome) == (Outcome.OK, Outcome.OK)
    assert honest.val_bpb is not None
    assert -0.95 < honest.val_bpb < 0
    assert forged.val_bpb == honest.val_bpb
    assert forged.trust is not None
    assert forged.trust.evaluator == SCORE_COMMAND


@pytest.mark.slow
@pytest.mark.parametrize(
    ("added", "outcome"),
    [
        ("\nnp.load({hidden!r})\n", Outcome.CRASHED),
        ("\nnp.load('hidden/labels.npy')\n", Outcome.CRASHED),
        ("\nimport shutil\nshutil.rmtree('output')\nos.symlink({hidden!r}, 'output')\n", Outcome.UNSCORABLE),
        ("\nfor name in os.listdir('output'):\n    np.save('output/' + name, np.array([print], dtype=object))\n",
         Outcome.UNSCORABLE),
        ("\nfor name in os.listdir('output'):\n    np.save('output/' + name, np.array([1.0]))\n", Outcome.UNSCORABLE),
    ],
    ids=["labels", "labels-beside", "link", "pickle", "one-answer"],
)  # fmt: skip
def test_a_forged_output_of_an_example_has_no_score(
    run_example: RunExample, example: Path, added: str, outcome: Outcome
) -> None:
    result = run_example(added.format(hidden=str(example / "hidden/labels.npy")))

    assert (result.outcome, result.val_bpb) == (outcome, None)


@pytest.mark.slow
@pytest.mark.parametrize("example", ["shapes"], indirect=True)
def test_a_forged_number_is_called_a_claim_where_it_is_claimed(run_example: RunExample) -> None:
    forged = run_example("\nprint('accuracy: 0.999999')\n", "claimed.toml")

    assert (forged.outcome, forged.val_bpb) == (Outcome.OK, -0.999999)
    assert forged.trust is not None
    assert forged.trust.evaluator == CLAIMED_BY
