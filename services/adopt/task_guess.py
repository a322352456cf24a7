"""Guesses the task of a repository that has no overnight.toml, by reading it; nothing is run.

Each guess comes with the reason for it, and names the keys for which the text gave none, so that the user can check
them before a run. A repository with no Python file that could be edited has no guess.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from researcher.errors import EditError
from researcher.source.knobs import read_knobs
from researcher.source.syntax import parse
from trainer.jobs.metric import Direction, Metric
from trainer.jobs.task import PYTHON, ScoreCommand, Task

USUAL_EDITED = ("train.py", "solve.py", "solution.py", "main.py")
USUAL_SCORERS = ("score.py", "evaluate.py", "eval.py")
USUAL_DATA = ("data", "dataset", "datasets", "input")
USUAL_HIDDEN = ("hidden", "labels", "private")
OUTPUT = "output"
_LOWER = re.compile(
    r"loss|cost|err|bpb|ppl|perplexity|rmse|mae|mse|time|seconds|latency|length|distance", re.IGNORECASE
)
_HIGHER = re.compile(r"acc|auc|f1|score|reward|return|precision|recall|r2|map|iou|bleu|gain|throughput", re.IGNORECASE)
_SECONDS = re.compile(r"(?:TIME_(?:BUDGET|LIMIT)|BUDGET|SECONDS)(?:_S(?:ECONDS)?)?")
_PRINTED = re.compile(r"^\s*([A-Za-z][\w.@/-]*)\s*[:=]\s*$", re.ASCII)


@dataclass(frozen=True)
class TaskGuess:
    """A guessed task. `found` are the reasons, one line for each key; the user must check the keys `unsure`."""

    task: Task
    found: tuple[str, ...]
    unsure: tuple[str, ...]


@dataclass(frozen=True)
class _Guessed:
    """The guess of one key, and the line of its reason; the text of the repository gave none if it is not `sure`."""

    value: str
    reason: str
    sure: bool = True


def guessed_task(files: Mapping[str, str], folders: tuple[str, ...] = ()) -> TaskGuess | None:
    """Return the guess for the tracked text files and the folders of a repository, or None without a Python file."""
    trees = {path: tree for path, text in files.items() if path.endswith(".py") if (tree := _tree(path, text))}
    edit = _edited(files, trees)
    if edit is None:
        return None
    scorer = next((path for path in USUAL_SCORERS if path in trees and path != edit.value), None)
    hidden = _folders_read(trees.get(scorer or ""), USUAL_HIDDEN, folders)
    metric = _metric(trees[scorer or edit.value], scorer or edit.value)
    direction = _direction(metric.value)
    direction = replace(direction, sure=direction.sure and metric.sure)
    seconds = _seconds(trees)
    seed = _seed(trees[edit.value])
    score = None if scorer is None else ScoreCommand((PYTHON, scorer), OUTPUT, hidden)
    task = Task(
        edit=edit.value,
        command=(PYTHON, edit.value),
        seconds=float(seconds.value),
        seed=seed.value,
        sigma_floor=0.0001,
        metric=Metric(metric.value, Direction(direction.value)),
        fixed={path: _sha256(text) for path, text in sorted(files.items()) if path in trees and path != edit.value},
        readable=_folders_read(trees[edit.value], USUAL_DATA, folders),
        score=score,
    )
    guesses = {"edit": edit, "metric.name": metric, "metric.direction": direction, "seconds": seconds, "seed": seed}
    found = [f"{key} = {guess.value}: {guess.reason}" for key, guess in guesses.items()]
    found.append(
        "score: none, so the value is claimed: the command itself prints it"
        if score is None
        else f"score: {scorer} measures the files that the command leaves in {OUTPUT}/"
    )
    unsure = [key for key, guess in guesses.items() if not guess.sure]
    return TaskGuess(task, tuple(found), (*unsure, "sigma_floor"))


def _tree(path: str, text: str) -> ast.Module | None:
    try:
        return parse(text, path)
    except EditError:
        return None


def _folders_read(tree: ast.Module | None, usual: tuple[str, ...], folders: tuple[str, ...]) -> tuple[str, ...]:
    """Return the usual names that are folders, or that begin a path in the script, such as `data/rows.npy`."""
    nodes = () if tree is None else ast.walk(tree)
    texts = (node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))
    named = {text.partition("/")[0] for text in texts if "/" in text}
    return tuple(name for name in usual if name in named or name in folders)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _edited(files: Mapping[str, str], trees: Mapping[str, ast.Module]) -> _Guessed | None:
    """Return the file with most ranges, else one with a usual name, else the only one that runs as a script."""
    ranges = {path: sum(knob.range is not None for knob in read_knobs(files[path]).values()) for path in trees}
    best = max(ranges, key=lambda path: ranges[path], default=None)
    if best is not None and ranges[best] > 0:
        return _Guessed(best, f"it has {ranges[best]} knobs with ranges")
    for name in USUAL_EDITED:
        if name in trees:
            return _Guessed(name, "its name")
    scripts = [path for path, tree in trees.items() if _is_script(tree) and not _is_test(path)]
    return _Guessed(scripts[0], "it runs as a script", sure=len(scripts) == 1) if scripts else None


def _is_script(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) for node in tree.body)


def _is_test(path: str) -> bool:
    return PurePosixPath(path).name.startswith(("test_", "conftest"))


def _metric(tree: ast.Module, path: str) -> _Guessed:
    """Return the name in the last `print(f"name: {...}")` whose direction is known, else in the last of all."""
    names = list(_printed_names(tree))
    known = [name for name in names if _direction(name).sure]
    if known or names:
        return _Guessed((known or names)[-1], f"{path} prints it", sure=len(set(known)) == 1)
    return _Guessed("score", f"{path} prints no line `name: number`", sure=False)


def _printed_names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "print" and node.args):
            continue
        first = node.args[0]
        text = first.values[0] if isinstance(first, ast.JoinedStr) and first.values else first
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and (named := _PRINTED.match(text.value)):
            yield named[1]


def _direction(name: str) -> _Guessed:
    is_lower, is_higher = _LOWER.search(name) is not None, _HIGHER.search(name) is not None
    if is_higher and not is_lower:
        return _Guessed(Direction.HIGHER, f"the name {name}")
    return _Guessed(Direction.LOWER, f"the name {name}" if is_lower else "a guess", sure=is_lower != is_higher)


def _seconds(trees: Mapping[str, ast.Module]) -> _Guessed:
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name, value = node.targets[0].id, node.value
                if _SECONDS.fullmatch(name) and isinstance(value, ast.Constant) and type(value.value) in (int, float):
                    return _Guessed(str(value.value), f"{name} in {path}")
    return _Guessed("60", "a guess", sure=False)


def _seed(tree: ast.Module) -> _Guessed:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value == "--seed":
            return _Guessed("--seed", "an argument of the script")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.upper() == "SEED":
            return _Guessed(node.value, "a text in the script")
    return _Guessed("SEED", "the script names no seed; read this variable in it", sure=False)
