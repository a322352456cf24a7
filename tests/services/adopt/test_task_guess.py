"""The guess of a task from a repository without overnight.toml."""

from __future__ import annotations

import pytest

from services.adopt.task_file import read_task, task_text
from services.adopt.task_guess import TaskGuess, guessed_task
from trainer.jobs.metric import Direction

SOLVE = """\
import argparse

MOVES = 100  # moves; range 10..1000 log
TIME_LIMIT = 20

parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int)
print(f"steps: {MOVES}")
print(f"cost: {1.0:.3f}")
"""
SCORE = "cost = 2\nprint(f'cost: {cost}')\n"


def guess(files: dict[str, str], *folders: str) -> TaskGuess:
    found = guessed_task(files, folders)
    assert found is not None
    return found


def test_a_guess_comes_from_the_text_and_names_what_to_check() -> None:
    found = guess({"solve.py": SOLVE, "helpers.py": "A = 1\n", "README.md": "# It\n"}, "data")

    assert (found.task.edit, found.task.command) == ("solve.py", ("python", "solve.py"))
    assert (found.task.metric.name, found.task.metric.direction) == ("cost", Direction.LOWER)
    assert (found.task.seconds, found.task.seed, found.task.readable) == (20.0, "--seed", ("data",))
    assert list(found.task.fixed) == ["helpers.py"]
    assert found.task.score is None
    assert found.unsure == ("sigma_floor",)


def test_a_scorer_and_hidden_data_make_the_guess_a_measured_task() -> None:
    task = guess({"solve.py": SOLVE, "score.py": SCORE}, "data", "hidden").task

    assert task.score is not None
    assert (task.score.command, task.score.readable) == (("python", "score.py"), ("hidden",))
    assert read_task(task_text(task)) == task
    assert max(len(line) for line in task_text(task).splitlines() if line.startswith("#")) <= 80


def test_folders_that_the_scripts_read_are_guessed_before_they_are_there() -> None:
    solve, score = SOLVE + "open('data/rows.txt')\n", SCORE + "open('hidden/labels.txt')\n"

    task = guess({"solve.py": solve, "score.py": score}).task

    assert task.readable == ("data",)
    assert task.score is not None
    assert task.score.readable == ("hidden",)


def test_what_the_text_does_not_tell_is_unsure() -> None:
    found = guess({"run.py": "if __name__ == '__main__':\n    print('done')\n"})

    assert found.task.edit == "run.py"
    assert found.unsure == ("metric.name", "metric.direction", "seconds", "seed", "sigma_floor")


@pytest.mark.parametrize(
    ("name", "direction"),
    [("val_loss", "lower"), ("rmse", "lower"), ("accuracy", "higher"), ("auc", "higher"), ("f1", "higher")],
)
def test_a_direction_follows_from_usual_names(name: str, direction: str) -> None:
    found = guess({"train.py": f"print(f'{name}: {{1.0}}')\n"})

    assert (found.task.metric.name, found.task.metric.direction) == (name, direction)
    assert "metric.direction" not in found.unsure


@pytest.mark.parametrize("files", [{}, {"README.md": "x"}, {"broken.py": "if:"}, {"lib.py": "A = 1\n"}])
def test_nothing_to_edit_gives_no_guess(files: dict[str, str]) -> None:
    assert guessed_task(files) is None
