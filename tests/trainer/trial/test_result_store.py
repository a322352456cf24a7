"""A score that an earlier attempt got for the same work is the answer to a later one; nothing else is."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from trainer.jobs import Kind, Outcome, TrialResult, TrialSpec, files_digest, profile_named
from trainer.trial import result_store

CPU = profile_named("cpu")


def spec(trial: str, **fields: object) -> TrialSpec:
    files = {"train.py": "LEVEL = 1.5\n"}
    whole = TrialSpec(trial, Kind.CONFIRM, "cpu", files, files_digest(files), "d", 3, CPU.budget, CPU.caps)
    return dataclasses.replace(whole, **fields)  # type: ignore[arg-type]


def measured(of: TrialSpec, score: float | None, outcome: Outcome = Outcome.OK) -> TrialResult:
    return TrialResult(of.id, of.digest, outcome, "said", 1.0, 2.0, val_bpb=score)


def test_score_of_an_earlier_attempt_is_given_under_the_later_ones_id_and_stored_under_both(tmp_path: Path) -> None:
    first, second = measured(spec("e-1-t2-a0"), 1.5), spec("e-1-t2-a1")
    result_store.store(tmp_path, first)

    answer = result_store.stored(tmp_path, second)

    assert answer == dataclasses.replace(first, id="e-1-t2-a1")
    assert result_store.stored(tmp_path, second) == answer
    assert json.loads((tmp_path / "e-1-t2-a0" / "result.json").read_text())["id"] == "e-1-t2-a0"
    assert json.loads((tmp_path / "e-1-t2-a1" / "result.json").read_text())["id"] == "e-1-t2-a1"


def test_of_two_scores_for_the_same_work_the_earliest_attempts_is_taken(tmp_path: Path) -> None:
    for attempt, score in ((10, 1.9), (2, 1.5), (3, 1.2)):
        result_store.store(tmp_path, measured(spec(f"e-1-t2-a{attempt}"), score))

    answer = result_store.stored(tmp_path, spec("e-1-t2-a11"))

    assert answer is not None
    assert answer.val_bpb == 1.5


@pytest.mark.parametrize(
    "asked",
    [
        spec("e-1-t2-a1", repeat=1),
        spec("e-1-t2-a1", seed=4),
        spec("e-1-t2-a1", kind=Kind.DRIFT),
        spec("e-1-t3-a1"),
        spec("e-1-t22-a1"),
        spec("e-11-t2-a1"),
    ],
    ids=["a repeat", "another seed", "another kind", "another trial", "a trial of like name", "another experiment"],
)
def test_score_of_other_work_is_no_answer(asked: TrialSpec, tmp_path: Path) -> None:
    result_store.store(tmp_path, measured(spec("e-1-t2-a0"), 1.5))

    assert result_store.stored(tmp_path, asked) is None


@pytest.mark.parametrize("outcome", [Outcome.CRASHED, Outcome.UNSCORABLE, Outcome.PREEMPTED, Outcome.LOST])
def test_what_got_no_score_is_measured_by_the_next_attempt(outcome: Outcome, tmp_path: Path) -> None:
    result_store.store(tmp_path, measured(spec("e-1-t2-a0"), None, outcome))

    assert result_store.stored(tmp_path, spec("e-1-t2-a1")) is None


def test_the_newest_trials_stay_and_the_oldest_are_deleted_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_store, "KEPT", 4)
    monkeypatch.setattr(result_store, "_FORGOTTEN_AT_ONCE", 2)
    for number in range(4):
        result_store.store(tmp_path, measured(spec(f"e-{number}-t0-a0"), 1.5))
        os.utime(tmp_path / f"e-{number}-t0-a0", (number, number))

    result_store.store(tmp_path, measured(spec("e-4-t0-a0"), 1.5))

    assert {folder.name for folder in tmp_path.iterdir()} == {"e-3-t0-a0", "e-4-t0-a0"}
    assert result_store.stored(tmp_path, spec("e-4-t0-a0")) is not None
