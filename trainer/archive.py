"""Results on the trainer's own disk: written before anybody is told, so a lost answer can be given again.

Promises: a result file is whole or absent. Does not cover deleting old ones.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from trainer.jobs import TrialResult, TrialSpec


def store(trials: Path, result: TrialResult) -> TrialResult:
    """Write `<trials>/<id>/result.json` and return what was written."""
    folder = trials / result.id
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "result.json.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(result.to_json(), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "result.json")
    _sync(folder)
    return result


def stored(trials: Path, spec: TrialSpec) -> TrialResult | None:
    """The result of this very work under this id, unless the machine failed then: that is measured again."""
    path = trials / spec.id / "result.json"
    try:
        result = TrialResult.from_json(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    return None if result.spec_digest != spec.digest or result.outcome.is_infrastructure else result


def store_log(trials: Path, trial: str, text: str) -> str:
    """Write the kept log; its path relative to the trials folder."""
    folder = trials / trial
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.txt").write_text(text, encoding="utf-8")
    return f"{trial}/log.txt"


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
