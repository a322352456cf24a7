"""overnight.toml: reads a task from its text, and writes one as text that a user can edit.

Reading returns all faults at once, with the names of the keys. What `task_text` writes is read as the same task.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trainer.jobs.task import ScoreCommand, Task, TaskFault, faults_of

_ADAPTER = TypeAdapter(Task)


def read_task(text: str) -> Task | tuple[TaskFault, ...]:
    """Return the task of an overnight.toml, or its faults in the order of the file's keys."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return (TaskFault("the text", f"it is no TOML: {error}", "correct that place"),)
    unknown = tuple(_unknown_keys(values, Task, ""))
    try:
        task = _ADAPTER.validate_json(json.dumps(values, default=str), strict=True)  # lists are tuples in JSON
    except ValidationError as error:
        return (*unknown, *map(_fault, error.errors(include_url=False)))
    return unknown or faults_of(task) or task


def _unknown_keys(values: dict[str, Any], known: type, prefix: str) -> Iterator[TaskFault]:
    """Yield a fault for each key that no dataclass has, with the most similar key."""
    hints = get_type_hints(known)
    names = [each.name for each in fields(known)]
    for key, value in values.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, 1)
            step = f"do you mean `{near[0]}`?" if near else f"the keys here are {', '.join(names)}"
            yield TaskFault(f"{prefix}{key}", "this key is not known", step)
        elif isinstance(value, dict):
            tables = [kind for kind in (hints[key], *get_args(hints[key])) if is_dataclass(kind)]
            for table in tables:
                assert isinstance(table, type)
                yield from _unknown_keys(value, table, f"{prefix}{key}.")


def _fault(error: ErrorDetails) -> TaskFault:
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return TaskFault(where, "this key is missing", f"add it; {_MEANINGS.get(where, 'see the example')}")
    return TaskFault(where, error["msg"][0].lower() + error["msg"][1:], _MEANINGS.get(where, "correct its value"))


_MEANINGS = {
    "edit": "the file that candidates may change",
    "command": "the command of a trial, word by word; `python` is the interpreter of the trial",
    "seconds": "the wall seconds of one trial",
    "seed": "the argument (`--seed`) or the variable (`SEED`) that carries the seed",
    "sigma_floor": "half of the smallest gain that matters; decisions assume at least this noise",
    "readable": "files and folders outside of the commit that the command may read",
    "metric": "the table of the metric",
    "metric.name": "the name in the line `name: number` of the output",
    "metric.direction": "`lower` or `higher`: what is better",
    "metric.unit": "the unit, for people",
    "fixed": "the files that no candidate may change, with their sha256",
    "score": "a second command measures what the first one left in a folder",
    "score.command": "the command that prints the metric, and runs only fixed files",
    "score.output": "the folder that the first command fills",
    "score.readable": "the data that only this command may read",
}


def task_text(task: Task) -> str:
    """Return a task as the text of an overnight.toml."""
    lines = [
        *_lines("", edit=task.edit, command=task.command, seconds=task.seconds, seed=task.seed),
        *_lines("", sigma_floor=task.sigma_floor, readable=task.readable),
        "\n[metric]",
        *_lines("metric.", name=task.metric.name, direction=task.metric.direction.value, unit=task.metric.unit),
        f"\n# {_MEANINGS['fixed']}\n[fixed]",
        *(f"{_text(path)} = {_text(digest)}" for path, digest in task.fixed.items()),
        *([] if task.score is None else _score_lines(task.score)),
    ]
    return "\n".join(lines) + "\n"


def _score_lines(score: ScoreCommand) -> list[str]:
    head = f"\n# {_MEANINGS['score']}\n[score]"
    return [head, *_lines("score.", command=score.command, output=score.output, readable=score.readable)]


def _lines(prefix: str, **values: str | float | Sequence[str]) -> list[str]:
    return [f"# {_MEANINGS[prefix + key]}\n{key} = {_value(value)}" for key, value in values.items()]


def _value(value: str | float | Sequence[str]) -> str:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Sequence):
        return f"[{', '.join(map(_text, value))}]"
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def _text(text: str) -> str:
    """Return a basic string of TOML, which has the escapes of JSON and needs one for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
