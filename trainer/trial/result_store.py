"""Results on the trainer's own disk. They are written before they are sent, so a lost answer can be sent again.

Promises: a result file is whole or absent; a result that cannot be written becomes `lost`; the score of an earlier
attempt at the same work is found; at most `KEPT` trials stay. Does not cover results on another trainer's disk.
Candidates can neither read nor write here: the folder is closed to their user, or Landlock hides it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

from trainer.jobs import Outcome, TrialResult, TrialSpec
from trainer.sandbox.paths import COMPILED

log = logging.getLogger(__name__)

KEPT = 5_000  # trials; the journal keeps each result, too, with the end of its log
_FORGOTTEN_AT_ONCE = 100


def store(trials: Path, result: TrialResult) -> TrialResult:
    """Write `<trials>/<id>/result.json` and return the result. If writing fails, the returned result is `lost`."""
    try:
        _write(trials / result.id, result)
    except OSError as fault:
        reason = f"its result could not be stored: {fault}"
        log.error("%s: %s", result.id, reason)
        return replace(result, outcome=Outcome.LOST, reason=reason, val_bpb=None, heldout_bpb=None, unseen_bpb=None)
    _forget_oldest(trials)
    return result


def _write(folder: Path, result: TrialResult) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "result.json.new"
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(result.to_json(), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(folder / "result.json")
    _sync(folder)


def _forget_oldest(trials: Path) -> None:
    """Delete the oldest trials once there are more than `KEPT`. A failure is logged, and the next trial tries again."""
    try:
        if len(os.listdir(trials)) > KEPT:
            kept = [folder for folder in trials.iterdir() if folder.name != COMPILED]
            aged = sorted((folder.stat().st_mtime, folder) for folder in kept)
            for _, folder in aged[: len(aged) - KEPT + _FORGOTTEN_AT_ONCE]:
                shutil.rmtree(folder)
    except OSError as fault:
        log.warning("old results could not be deleted: %s", fault)


def stored(trials: Path, spec: TrialSpec) -> TrialResult | None:
    """Return the stored result of the same work, or None if it must be measured.

    An infrastructure failure is not returned, so that trial is measured again. If another attempt at the same work got
    a score that never reached the researcher, for example because Redis was frozen, that score is the answer, and is
    stored under this id too. A second measurement would be another draw of the same random score.
    """
    own = _read(trials / spec.id)
    if own is not None and own.spec_digest == spec.digest and not own.outcome.is_infrastructure:
        return own
    for folder in _other_attempts(trials, spec):
        result = _read(folder)
        if result is not None and result.spec_digest == spec.digest and result.outcome is Outcome.OK:
            log.info("%s: answered by what %s measured of the same work", spec.id, result.id)
            return store(trials, replace(result, id=spec.id))
    return None


def _read(folder: Path) -> TrialResult | None:
    try:
        return TrialResult.from_json(json.loads((folder / "result.json").read_bytes()))
    except FileNotFoundError:
        return None


def _other_attempts(trials: Path, spec: TrialSpec) -> list[Path]:
    """Return the folders of the other attempts at this trial, the earliest first."""
    name, _, _ = spec.id.rpartition("-a")
    found = [path for path in trials.glob(f"{name}-a*") if path.name != spec.id]
    attempts = {int(number): path for path in found if (number := path.name.rpartition("-a")[2]).isdecimal()}
    return [attempts[number] for number in sorted(attempts)]


def store_log(trials: Path, trial: str, text: str) -> str:
    """Write the kept log and return its path relative to the trials folder.

    A failure to write is only logged, because the result itself holds the end of the log.
    """
    folder = trials / trial
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "log.txt").write_text(text, encoding="utf-8")
    except OSError as fault:
        log.error("%s: its log could not be stored: %s", trial, fault)
    return f"{trial}/log.txt"


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
