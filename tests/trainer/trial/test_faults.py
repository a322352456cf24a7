"""Whole trials of subjects that are named for their fault: a typed outcome, a reason, and nothing left behind."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from tests.fixtures.trials import CAPS, STEPS, SUBJECTS, MakeSpec, Run, everything_dead
from trainer.jobs import Clock, Outcome, Progress
from trainer.sandbox.paths import WorkerConfig
from trainer.trial import supervise
from trainer.trial.trial import run_trial

SHORT_SETUP = dataclasses.replace(STEPS, setup_s=3)
SHORT_SCORING = dataclasses.replace(STEPS, scoring_s=1)
SHORT_PROCESSOR = dataclasses.replace(STEPS, clock=Clock.PROCESSOR, amount=0.4)
A_SECOND = dataclasses.replace(SHORT_PROCESSOR, amount=1)  # ten on the wall: a busy machine may take them
LITTLE_MEMORY = dataclasses.replace(CAPS, memory_mib=500)
MANY_PROCESSES = dataclasses.replace(CAPS, processes=500)
LITTLE_DISK = dataclasses.replace(CAPS, file_mib=16)


FAULTS: list[tuple[str, dict[str, object], Outcome, str]] = [
    ("def broken(:\n", {}, Outcome.CRASHED, "exit code 1: SyntaxError"),
    ("exits_without_a_score", {}, Outcome.UNSCORABLE, "without asking for its score"),
    ("hangs_in_setup", {"budget": SHORT_SETUP}, Outcome.TIMED_OUT, "no first batch within 3 s"),
    ("hangs_in_scoring", {"budget": SHORT_SCORING}, Outcome.TIMED_OUT, "not scored within 1 s"),
    ("overruns_its_budget", {"budget": A_SECOND}, Outcome.TIMED_OUT, "processor seconds; the budget is 1"),
    ("hogs_memory", {"caps": LITTLE_MEMORY}, Outcome.OUT_OF_MEMORY, "the cap is 500 MiB"),
    ("fills_the_disk_with_one_file", {"caps": LITTLE_DISK}, Outcome.CRASHED, "OSError: [Errno 27] File too large"),
    ("fills_the_disk_with_files", {"caps": LITTLE_DISK}, Outcome.CRASHED, "MiB; the cap is 32 MiB"),
    ("forks_without_end", {}, Outcome.CRASHED, "the cap is 64"),
    ("respawns", {"caps": MANY_PROCESSES, "budget": SHORT_SETUP}, Outcome.TIMED_OUT, "no first batch within 3 s"),
    ("kills_its_group", {}, Outcome.CRASHED, "killed by SIGKILL: it leads its session: True"),
    ("leaves_a_daemon", {"budget": SHORT_PROCESSOR}, Outcome.TIMED_OUT, "it did not end training within 4 s"),
]
WHERE_THE_USER_MATTERS = (
    "exits_without_a_score",
    "hogs_memory",
    "fills_the_disk_with_files",
    "respawns",
    "forks_without_end",
    "leaves_a_daemon",
)


SLOW = ("overruns_its_budget", "fills_the_disk_with_one_file", "respawns")
CASES = [("same-uid", *fault) for fault in FAULTS]
CASES += [("other-uid", *fault) for fault in FAULTS if fault[0] in WHERE_THE_USER_MATTERS]


@pytest.mark.parametrize(
    ("user", "subject", "fields", "outcome", "reason"),
    [
        pytest.param(
            *case,
            id=f"{case[0]}-{case[1].split()[0]}",
            marks=pytest.mark.slow if case[0] == "other-uid" or case[1] in SLOW else (),
        )
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
    config: WorkerConfig,
) -> None:
    result = run(spec(subject, **fields))

    assert (result.outcome, result.val_bpb) == (outcome, None), result.reason
    assert reason in result.reason
    assert everything_dead(config.work)
    assert list(config.work.iterdir()) == []


@pytest.mark.parametrize(
    "printed",
    [
        pytest.param({"lines": 70, "bar": 70, "line": 70}, id="all of it", marks=pytest.mark.slow),
        *(pytest.param({kind: 210}, id=kind, marks=pytest.mark.slow) for kind in ("lines", "bar", "line")),
    ],
)
def test_flood_of_output_is_bounded_and_so_is_what_is_reported_of_it(
    printed: dict[str, int], spec: MakeSpec, config: WorkerConfig
) -> None:
    source = (SUBJECTS / "floods_the_log.py").read_text()
    reports: list[Progress] = []

    result = run_trial(
        spec(re.sub("MEGABYTES = .*", f"MEGABYTES = {printed}", source)), config, reports.append, lambda: False
    )

    assert result.outcome is Outcome.CRASHED
    assert result.reason == "exit code 3: last words"
    assert result.log is not None
    assert result.log.seen_bytes > 190_000_000
    assert (config.trials / result.log.path).stat().st_size < CAPS.log_kib * 1024 + 100
    assert result.wall_s is not None
    assert len(reports) <= 1 + 2 * result.wall_s


def test_flood_without_end_ends_the_trial(spec: MakeSpec, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "_LOG_LIMIT_BYTES", 2**24)

    result = run(spec("floods_the_log"))

    assert result.outcome is Outcome.CRASHED
    assert result.reason == "log flood: it printed more than 16 MiB"


@pytest.mark.parametrize("user", ["same-uid", pytest.param("other-uid", marks=pytest.mark.slow)], indirect=True)
def test_what_a_candidate_plants_trips_nobody_and_is_gone(spec: MakeSpec, run: Run, config: WorkerConfig) -> None:
    precious = config.work.parent / "precious"
    precious.mkdir(mode=0o777)
    (precious / "kept").touch()
    source = (SUBJECTS / "plants.py").read_text()

    result = run(spec(source.replace('PRECIOUS = "/"', f"PRECIOUS = {str(precious)!r}")))

    assert result.outcome is Outcome.UNSCORABLE, result.reason
    assert list(config.work.iterdir()) == []
    assert list(precious.iterdir()) == [precious / "kept"]
    assert sorted(path.name for path in config.trials.rglob("*")) == ["e-1-t1-a1", "log.txt", "result.json"]
    assert run(spec("crashes_at_import", trial="e-1-t1-a2")).outcome is Outcome.CRASHED


@pytest.mark.parametrize("user", ["same-uid", pytest.param("other-uid", marks=pytest.mark.slow)], indirect=True)
def test_memory_that_a_candidate_hides_in_files_counts(spec: MakeSpec, run: Run) -> None:
    result = run(spec("fills_shared_memory", caps=LITTLE_MEMORY, budget=dataclasses.replace(STEPS, setup_s=10)))

    if "own-shared-memory" not in result.layers:
        pytest.skip("needs the right to mount, or to make a user namespace: shared memory is shared here")
    assert result.outcome is Outcome.OUT_OF_MEMORY, result.reason
    assert "the cap is 500 MiB" in result.reason


@pytest.mark.parametrize("user", ["same-uid", pytest.param("other-uid", marks=pytest.mark.slow)], indirect=True)
def test_nothing_is_shared_between_two_candidates(spec: MakeSpec, run: Run) -> None:
    results = [run(spec("remembers", trial=f"e-1-t1-a{attempt}", repeat=attempt)) for attempt in (1, 2)]
    Path("/dev/shm/left-by-a-candidate").unlink(missing_ok=True)

    if not {"own-shared-memory", "other-uid"} & set(results[0].layers):
        pytest.skip("needs the right to mount, or to make a user namespace: shared memory is shared here")
    for result in results:
        assert result.log is not None
        assert "left: /dev/shm" in result.log.tail
        assert "found: " not in result.log.tail
