"""Whole trials of subjects that are named for their fault: a typed outcome, a reason, and nothing left behind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from tests.trainer.conftest import CAPS, STEPS, MakeSpec, everything_dead
from trainer.jobs import Clock, Outcome, TrialResult, TrialSpec
from trainer.trial import Places

Run = Callable[[TrialSpec], TrialResult]

SHORT_SETUP = dataclasses.replace(STEPS, setup_s=3)
SHORT_SCORING = dataclasses.replace(STEPS, scoring_s=1)
SHORT_PROCESSOR = dataclasses.replace(STEPS, clock=Clock.PROCESSOR, amount=0.4)
LITTLE_MEMORY = dataclasses.replace(CAPS, memory_mib=500)
LITTLE_DISK = dataclasses.replace(CAPS, file_mib=16)


FAULTS: list[tuple[str, dict[str, object], Outcome, str]] = [
    ("def broken(:\n", {}, Outcome.CRASHED, "exit code 1: SyntaxError"),
    ("exits_without_a_score", {}, Outcome.UNSCORABLE, "without asking for its score"),
    ("prints_a_better_score", {}, Outcome.UNSCORABLE, "it printed val_bpb 0.100000"),
    ("serves_nan", {}, Outcome.UNSCORABLE, "not all finite"),
    ("serves_losses", {}, Outcome.UNSCORABLE, "not logits of shape"),
    ("trains_on_validation", {}, Outcome.CRASHED, "serves the split 'train' only"),
    ("hangs_in_setup", {"budget": SHORT_SETUP}, Outcome.TIMED_OUT, "no first batch within 3 s"),
    ("hangs_in_scoring", {"budget": SHORT_SCORING}, Outcome.TIMED_OUT, "not scored within 1 s"),
    ("overruns_its_budget", {"budget": SHORT_PROCESSOR}, Outcome.TIMED_OUT, "processor seconds; the budget is 0.4"),
    ("hogs_memory", {"caps": LITTLE_MEMORY}, Outcome.OUT_OF_MEMORY, "the cap is 500 MiB"),
    ("fills_the_disk_with_one_file", {"caps": LITTLE_DISK}, Outcome.CRASHED, "OSError: [Errno 27] File too large"),
    ("fills_the_disk_with_files", {"caps": LITTLE_DISK}, Outcome.CRASHED, "MiB; the cap is 32 MiB"),
    ("forks_without_end", {}, Outcome.CRASHED, "the cap is 64"),
    ("kills_its_group", {}, Outcome.CRASHED, "killed by SIGKILL: it leads its session: True"),
    ("leaves_a_daemon", {"budget": SHORT_PROCESSOR}, Outcome.TIMED_OUT, "it did not end training within 4 s"),
]
WHERE_THE_USER_MATTERS = (
    "exits_without_a_score",
    "hogs_memory",
    "fills_the_disk_with_files",
    "forks_without_end",
    "leaves_a_daemon",
)


SLOW = {("same-uid", "fills_the_disk_with_one_file"), ("other-uid", "fills_the_disk_with_files")}
CASES = [("same-uid", *fault) for fault in FAULTS]
CASES += [("other-uid", *fault) for fault in FAULTS if fault[0] in WHERE_THE_USER_MATTERS]


@pytest.mark.parametrize(
    ("user", "subject", "fields", "outcome", "reason"),
    [
        pytest.param(*case, id=f"{case[0]}-{case[1].split()[0]}", marks=pytest.mark.slow if case[:2] in SLOW else ())
        for case in CASES
    ],
    indirect=["user"],
)
def test_fault_has_its_outcome_and_leaves_nothing(
    subject: str,
    fields: dict[str, object],
    outcome: Outcome,
    reason: str,
    spec: MakeSpec,
    run: Run,
    places: Places,
) -> None:
    result = run(spec(subject, **fields))

    assert (result.outcome, result.metric) == (outcome, None), result.reason
    assert reason in result.reason
    assert everything_dead(places.work)
    assert list(places.work.iterdir()) == []


def test_flood_of_output_is_bounded(spec: MakeSpec, run: Run, places: Places) -> None:
    result = run(spec("floods_the_log"))

    assert result.outcome is Outcome.CRASHED
    assert result.reason == "exit code 3: last words"
    assert result.log is not None
    assert result.log.seen_bytes > 190_000_000
    assert (places.trials / result.log.path).stat().st_size < CAPS.log_kib * 1024 + 100
