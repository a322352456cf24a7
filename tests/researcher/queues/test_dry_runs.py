"""Reasons of a dry run to refuse, and a run without a dry-run worker; a real server, queue and a scripted worker."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from researcher.errors import Rejected
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Goal
from researcher.llm.ollama import OllamaClient, OllamaSettings
from researcher.loop.loop import run_until_goal
from researcher.proposers.schedule import Mix
from researcher.queues import dry_runs
from researcher.queues.dry_runs import DryRuns
from tests.doubles.ollama_server import Turn, ollama_double
from tests.fixtures.loop_in_process import opened
from tests.fixtures.scripted_run import FILES, SUBJECT, ScriptedRun
from tests.researcher.proposers.test_proposers import Rests, asking
from trainer.jobs import (
    BITS_PER_BYTE,
    DRY_RUNS,
    RUN_DRY_RUN,
    DryRunResult,
    DryRunSpec,
    DryRunVerdict,
    Outcome,
    Status,
    StatusKind,
    WorkerRole,
    profile_named,
)
from trainer.jobs.task import Task
from trainer.worker.heartbeat import IDLE, Heartbeat

FAILS = SUBJECT + "# dry run: fails: shape '[8, 3]' is invalid\n"
UNKNOWN = SUBJECT + "# dry run: unknown: it reads values\n"
DIES = SUBJECT + "# dry run: dies\n"
LINE = SUBJECT.count("\n") + 1
HELD = Status(StatusKind.HELD, "the disk is full")


@pytest.fixture
def worker(scripted_run: ScriptedRun) -> Iterator[None]:
    """The scripted dry-run worker, shown and working."""
    argv = [sys.executable, "-m", "tests.doubles.scripted_dry_runs", "--redis", scripted_run.server.url]
    argv += ["--password-file", str(scripted_run.password_file)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def asks(scripted_run: ScriptedRun, said: list[str], clock: Callable[[], float] | None = None) -> DryRuns:
    profile, files = profile_named("cpu"), lambda: FILES
    return (
        DryRuns(scripted_run.bus, profile, files, said.append)
        if clock is None
        else DryRuns(scripted_run.bus, profile, files, said.append, clock)
    )


def dry_run_worker_shows(scripted_run: ScriptedRun, name: str, status: Status) -> None:
    Heartbeat(scripted_run.bus.connection, name, role=WorkerRole.DRY_RUN_WORKER).show(status)


def nothing() -> None: ...


def test_candidate_that_fails_where_the_incumbent_passes_is_refused_with_line_and_reason(
    scripted_run: ScriptedRun, worker: None
) -> None:
    said: list[str] = []
    with pytest.raises(Rejected, match=rf"in line {LINE}: shape '\[8, 3\]' is invalid"):
        asks(scripted_run, said).reject_failing(FAILS, SUBJECT, nothing)
    assert said == []


def test_the_command_of_a_task_has_no_dry_run(scripted_run: ScriptedRun, worker: None) -> None:
    task = Task("solve.py", ("python", "solve.py"), 20.0, "SEED", 0.01, BITS_PER_BYTE, {})
    profile = profile_named("cpu").of_task(task)

    DryRuns(scripted_run.bus, profile, lambda: FILES, [].append).reject_failing(FAILS, SUBJECT, nothing)

    assert scripted_run.bus.queue(DRY_RUNS).finished_job_registry.get_job_ids() == []


@pytest.mark.parametrize(
    ("candidate", "incumbent"),
    [(SUBJECT, SUBJECT), (UNKNOWN, SUBJECT), (FAILS, FAILS + "# another\n"), (FAILS, UNKNOWN), (FAILS, DIES)],
    ids=["it passes", "a doubt", "the incumbent fails too", "of the incumbent nothing is known", "no answer about it"],
)
def test_every_doubt_is_left_to_the_trial(
    scripted_run: ScriptedRun, worker: None, candidate: str, incumbent: str
) -> None:
    asks(scripted_run, []).reject_failing(candidate, incumbent, nothing)


def test_dry_runs_are_off_and_said_so_once_while_the_one_of_the_incumbent_is_unknown(
    scripted_run: ScriptedRun, worker: None, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    now = [0.0]
    asking = asks(scripted_run, said, lambda: now[0])
    finished = scripted_run.bus.queue(DRY_RUNS).finished_job_registry

    with caplog.at_level(logging.WARNING):
        for number in range(3):
            asking.reject_failing(f"{UNKNOWN}# {number}\n", UNKNOWN, nothing)
        asking.reject_failing(FAILS, UNKNOWN, nothing)
        assert len(finished.get_job_ids()) == 2, "the first candidate's and the incumbent's"
        asking.reject_failing(FAILS, f"{UNKNOWN}# the next incumbent\n", nothing)
        now[0] += dry_runs.OFF_S
        asking.reject_failing(f"{FAILS}# another\n", f"{UNKNOWN}# the next incumbent\n", nothing)
        assert len(finished.get_job_ids()) == 5, "of the two, the incumbent's own answer is kept"
    with pytest.raises(Rejected):
        asking.reject_failing(FAILS, SUBJECT, nothing)

    off = "off: the one of the incumbent is unknown (it reads values)"
    assert said == [off, off, off, ""]
    assert caplog.text.count("dry runs are off: the one of the incumbent is unknown (it reads values)") == 1


def test_dry_run_that_dies_is_said_and_the_next_one_is_asked(
    scripted_run: ScriptedRun, worker: None, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    asking = asks(scripted_run, said)

    asking.reject_failing(DIES, SUBJECT, nothing)
    with caplog.at_level(logging.INFO), pytest.raises(Rejected):
        asking.reject_failing(FAILS, SUBJECT, nothing)

    assert len(said) == 2
    assert said[0].startswith("none: a dry run ")
    assert said[1] == ""
    assert "the dry-run worker answers again" in caplog.text


def test_without_a_dry_run_worker_nothing_is_asked_and_it_is_said_once(scripted_run: ScriptedRun) -> None:
    said: list[str] = []
    asking = asks(scripted_run, said)

    for _ in range(3):
        asking.reject_failing(FAILS, SUBJECT, nothing)

    assert len(said) == 1
    assert "no dry-run worker runs" in said[0]
    assert scripted_run.bus.queue(DRY_RUNS).job_ids == []


def test_dry_run_worker_that_is_held_is_not_waited_for(scripted_run: ScriptedRun) -> None:
    dry_run_worker_shows(scripted_run, "dry-run-worker-1", HELD)
    said: list[str] = []

    asks(scripted_run, said).reject_failing(FAILS, SUBJECT, nothing)

    assert "the disk is full" in said[0]
    assert scripted_run.bus.queue(DRY_RUNS).job_ids == []


def test_one_dry_run_worker_that_is_held_does_not_keep_another_from_being_asked(
    scripted_run: ScriptedRun, worker: None
) -> None:
    dry_run_worker_shows(scripted_run, "dry-run-worker-1", HELD)
    said: list[str] = []

    with pytest.raises(Rejected):
        asks(scripted_run, said).reject_failing(FAILS, SUBJECT, nothing)

    assert said == []


def test_dry_run_worker_that_hangs_is_waited_for_once_and_asked_again_later(
    scripted_run: ScriptedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry_run_worker_shows(scripted_run, "dry-run-worker-1", IDLE)
    said: list[str] = []
    now = [0.0]

    def tick() -> None:
        now[0] += dry_runs.WAIT_S / 2

    asking = asks(scripted_run, said, lambda: now[0])
    for _ in range(3):
        asking.reject_failing(FAILS, SUBJECT, tick)
    assert now[0] == dry_runs.WAIT_S
    assert len(said) == 1

    now[0] += dry_runs.NOT_ASKED_S
    asking.reject_failing(FAILS, SUBJECT, tick)
    assert now[0] == 2 * dry_runs.WAIT_S + dry_runs.NOT_ASKED_S


def test_same_work_is_one_job_and_its_answer_is_kept(scripted_run: ScriptedRun) -> None:
    profile = profile_named("cpu")
    spec = DryRunSpec(profile.name, {**FILES, "train.py": SUBJECT}, profile.caps.memory_mib)
    again = DryRunSpec(profile.name, dict(reversed(spec.files.items())), spec.cap_mib)

    assert spec.id == again.id
    assert spec.id != replace(spec, cap_mib=1).id
    assert spec.id != replace(spec, files=spec.files | {"train.py": FAILS}).id


BROKEN = """TITLE: another model
HYPOTHESIS: it is no knob
<<<<<<< SEARCH
model = {was}()
=======
model = {made}
>>>>>>> REPLACE
"""


def test_an_llms_candidate_that_fails_its_dry_run_is_repaired_once_or_told_and_costs_no_trial(
    scripted_run: ScriptedRun, worker: None
) -> None:
    scripted_run.start_trainer()
    answers = [
        BROKEN.format(was="object", made="dict()  # dry run: fails: shape '[8, 3]' is invalid"),
        BROKEN.format(was="object", made="dict()"),
        BROKEN.format(was="dict", made="list()  # dry run: fails: no such layer"),
        BROKEN.format(was="dict", made="tuple()  # dry run: fails: nor this one"),
        Turn(nudge="LEVEL", by=0.9),
    ]
    with ollama_double(answers) as llm, opened(scripted_run, [], goal=Goal(2)) as run_context:
        client = OllamaClient(OllamaSettings(llm.url, "small"))
        run_until_goal(asking(run_context, Rests(0, list), client, Mix.LLM, dry_runs=asks(scripted_run, [])))

    with JournalReader(scripted_run.journal) as history:
        repaired, refused, last = history.experiments()[1:]
    told = [question["messages"][-1]["content"] for question in llm.asked]
    assert "would fail before its first step is done in line" in told[1]
    assert "shape '[8, 3]' is invalid" in told[1]
    assert repaired.decision is Decision.KEEP
    assert (repaired.was_measured, repaired.outcome, last.was_measured) == (True, Outcome.OK, True)
    assert (refused.outcome, refused.was_measured) == (Outcome.REJECTED, False)
    assert refused.reason is not None
    assert "nor this one" in refused.reason
    assert "nor this one" in told[4], "the next question knows it"


@pytest.mark.parametrize("verdict", list(DryRunVerdict))
def test_spec_and_answer_survive_the_queue(verdict: DryRunVerdict) -> None:
    spec = DryRunSpec("cpu", FILES, None)
    result = DryRunResult(spec.id, verdict, "words", 3, None, 1.5)

    assert DryRunSpec.from_json(spec.to_json()) == spec
    assert DryRunResult.from_json(result.to_json()) == result


def test_dry_run_is_one_job_however_often_it_is_asked_about(scripted_run: ScriptedRun, worker: None) -> None:
    asking = asks(scripted_run, [])
    for _ in range(3):
        with pytest.raises(Rejected):
            asking.reject_failing(FAILS, SUBJECT, nothing)

    done = scripted_run.bus.queue(DRY_RUNS).finished_job_registry
    assert len(done.get_job_ids()) == 2, "the candidate's and the incumbent's"
    assert RUN_DRY_RUN == "run_dry_run"
