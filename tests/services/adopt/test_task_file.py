"""overnight.toml: what is read from it, every fault with its place, and that a written task is read as the same."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.adopt.task_file import read_task, task_text
from trainer.jobs.metric import Degree, Direction, Metric
from trainer.jobs.task import ScoreCommand, Task, faults_in

REPOSITORY = PurePosixPath("/srv/them/routes")
PIN = hashlib.sha256(b"").hexdigest()
CLAIMED = f"""\
edit = "solve.py"
command = ["python", "solve.py"]
seconds = 20
seed = "--seed"
sigma_floor = 0.001
readable = ["data"]

[metric]
name = "accuracy"
direction = "higher"

[fixed]
"score.py" = "{PIN}"
"""
MEASURED = f"""{CLAIMED}
[score]
command = ["python", "score.py"]
output = "output"
readable = ["hidden"]
"""


def read(text: str) -> Task:
    task = read_task(text)
    assert isinstance(task, Task), [str(fault) for fault in task]
    return task


def faults(text: str) -> list[str]:
    found = read_task(text)
    assert not isinstance(found, Task), "there is a fault"
    assert all(fault.fault and fault.next_step for fault in found)
    return [fault.where for fault in found]


def test_a_task_without_a_score_command_is_claimed() -> None:
    task = read(CLAIMED)

    assert (task.edit, task.command, task.seconds) == ("solve.py", ("python", "solve.py"), 20.0)
    assert task.metric == Metric("accuracy", Direction.HIGHER)
    assert (task.readable, task.fixed, task.score) == (("data",), {"score.py": PIN}, None)
    assert task.degree is Degree.CLAIMED


def test_a_task_with_a_score_command_is_measured() -> None:
    task = read(MEASURED)

    assert task.score == ScoreCommand(("python", "score.py"), "output", ("hidden",))
    assert task.degree is Degree.MEASURED


def test_the_seed_goes_through_an_argument_or_a_variable() -> None:
    by_argument = read(CLAIMED)
    by_variable = replace(by_argument, seed="SEED")

    assert by_argument.command_with(7) == ("python", "solve.py", "--seed", "7")
    assert by_argument.variables_with(7) == {}
    assert by_variable.command_with(7) == ("python", "solve.py")
    assert by_variable.variables_with(7) == {"SEED": "7"}


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('edit = "solve.py"', 'edit = "../solve.py"', ["edit"]),
        ('edit = "solve.py"', 'edit = "/solve.py"', ["edit"]),
        ('edit = "solve.py"', 'edit = "a\\\\b.py"', ["edit"]),
        ('edit = "solve.py"', 'edit = ".git/config"', ["edit"]),
        ('edit = "solve.py"', 'edit = ""', ["edit"]),
        ('edit = "solve.py"', "edit = 3", ["edit"]),
        ('edit = "solve.py"', 'edits = "solve.py"', ["edits", "edit"]),
        ('command = ["python", "solve.py"]', "command = []", ["command"]),
        ('command = ["python", "solve.py"]', 'command = ["python", ""]', ["command"]),
        ('command = ["python", "solve.py"]', 'command = "python solve.py"', ["command"]),
        ("seconds = 20", "seconds = 0", ["seconds"]),
        ("seconds = 20", "seconds = nan", ["seconds"]),
        ("seconds = 20", 'seconds = "20"', ["seconds"]),
        ("seconds = 20", "seconds = true", ["seconds"]),
        ("seconds = 20", "seconds = 2020-01-01", ["seconds"]),
        ("seconds = 20", "seconds = 1e9", ["seconds"]),
        ("seconds = 20", "", ["seconds"]),
        ('seed = "--seed"', 'seed = "-1"', ["seed"]),
        ('seed = "--seed"', 'seed = "MY SEED"', ["seed"]),
        ("sigma_floor = 0.001", "sigma_floor = 0", ["sigma_floor"]),
        ("sigma_floor = 0.001", "sigma_floor = inf", ["sigma_floor"]),
        ('readable = ["data"]', 'readable = ["data/../.."]', ["readable"]),
        ('readable = ["data"]', 'readable = ["/data/../etc"]', ["readable"]),
        ('name = "accuracy"', 'name = "the accuracy"', ["metric.name"]),
        ('name = "accuracy"', 'name = "status"', ["metric.name"]),
        ('direction = "higher"', 'direction = "up"', ["metric.direction"]),
        ('direction = "higher"', "", []),
        ('direction = "higher"', 'direction = "higher"\ndirektion = "lower"', ["metric.direktion"]),
        (PIN, "d41d8cd9", ["fixed"]),
        ('"score.py" =', '"solve.py" =', ["fixed"]),
        ("[metric]", "[metric", ["the text"]),
    ],
)
def test_a_fault_has_its_place_and_a_next_step(old: str, new: str, where: list[str]) -> None:
    assert old in CLAIMED
    text = CLAIMED.replace(old, new)

    assert (faults(text) if where else read(text)) == (where or read(text))


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('output = "output"', 'output = "."', ["score.output"]),
        ('output = "output"', 'output = "data/out"', ["score.output"]),
        ('output = "output"', 'output = "hidden"', ["score.output"]),
        ('readable = ["hidden"]', 'readable = ["data/labels"]', ["score.readable"]),
        ('readable = ["hidden"]', 'readable = ["hidden/../data"]', ["score.readable"]),
        ("[fixed]\n", f'[fixed]\n"hidden/labels.py" = "{PIN}"\n', ["score.readable"]),
        ('command = ["python", "score.py"]', 'command = ["python", "./solve.py"]', ["score.command"]),
        ('readable = ["hidden"]\n', "\n[fixed.more]\n", ["fixed.more"]),
        ('output = "output"', 'output = "output"\nhidden = ["x"]', ["score.hidden"]),
    ],
)
def test_a_score_command_is_apart_from_the_candidate(old: str, new: str, where: list[str]) -> None:
    assert old in MEASURED

    assert faults(MEASURED.replace(old, new)) == where


def test_a_similar_key_is_named() -> None:
    (fault,) = (found for found in [read_task(CLAIMED + '\n[scores]\noutput = "x"\n')] if not isinstance(found, Task))

    assert [str(each) for each in fault] == ["overnight.toml, scores: this key is not known; do you mean `score`?"]


def test_files_of_the_repository_are_compared_with_the_pins() -> None:
    task = read(MEASURED)
    there = {"solve.py": "1" * 64, "score.py": PIN}

    assert faults_in(task, there, REPOSITORY) == ()
    assert [each.where for each in faults_in(task, {"score.py": PIN}, REPOSITORY)] == ["edit"]
    assert [each.where for each in faults_in(task, {"solve.py": PIN}, REPOSITORY)] == ["fixed"]
    assert [each.where for each in faults_in(task, there | {"score.py": "0" * 64}, REPOSITORY)] == ["fixed"]
    unpinned = replace(task, fixed={})
    assert [each.where for each in faults_in(unpinned, there, REPOSITORY)] == ["score.command"]


def test_hidden_data_are_not_readable_through_an_absolute_path() -> None:
    task = replace(read(MEASURED), readable=("/srv/them",))

    assert [each.where for each in faults_in(task, {"solve.py": PIN, "score.py": PIN}, REPOSITORY)] == [
        "score.readable"
    ]


@pytest.mark.parametrize("hidden", ["hidden", "/srv/them/routes/hidden", "/srv/them/routes/hidden/labels.py"])
def test_a_task_hides_what_scores_it_by_any_name_of_the_path(hidden: str) -> None:
    task = replace(read(MEASURED), score=ScoreCommand(("python", "score.py"), "output", (hidden,)))

    assert task.hides("hidden/labels.py", REPOSITORY)
    assert not task.hides("helpers.py", REPOSITORY)
    assert not read(CLAIMED).hides("hidden/labels.py", REPOSITORY)


words = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
names = words.filter(lambda text: not {"/", "\\"} & set(text) and text not in (".", ".."))
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
numbers = st.floats(1, 86400)
commands = st.lists(words, min_size=1, max_size=3).map(tuple)
tasks = st.builds(
    Task,
    edit=names.map(lambda name: f"edited/{name}"),
    command=commands,
    seconds=numbers,
    seed=st.sampled_from(["--seed", "-s", "SEED", "seed_1"]),
    sigma_floor=st.floats(1e-12, 1e12),
    metric=st.builds(Metric, st.sampled_from(["cost", "acc@1", "val/loss"]), st.sampled_from(Direction), words),
    fixed=st.dictionaries(names.map(lambda name: f"fixed/{name}"), st.just(PIN), min_size=1, max_size=3),
    readable=st.lists(names.map(lambda name: f"data/{name}"), max_size=2).map(tuple),
    score=st.none() | st.builds(ScoreCommand, commands, st.just("out/here"), st.just(("/hidden",))),
)


@given(tasks)
def test_a_written_task_is_read_as_the_same(task: Task) -> None:
    assert read_task(task_text(task)) == task


@given(tasks, texts)
def test_no_text_of_a_key_breaks_the_file(task: Task, text: str) -> None:
    """Control characters, quotes and line ends are refused as values, or come back; they never change another key."""
    found = read_task(task_text(replace(task, metric=replace(task.metric, unit=text))))

    if isinstance(found, Task):
        assert found.metric.unit == text
    else:
        assert [fault.where for fault in found] == ["metric.unit"]


@given(st.text())
def test_any_text_gives_a_task_or_faults(text: str) -> None:
    assert isinstance(read_task(text), Task | tuple)
