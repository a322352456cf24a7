"""When a run ends by itself, and its LLM at work: the researcher as a process, with a scripted trainer and Ollama."""

from __future__ import annotations

import signal
import time
from itertools import count
from pathlib import Path

import pytest

from researcher.decision.rules import CrashReset, Rule
from researcher.errors import JournalError, ModelNotUnloaded
from researcher.journal.reader import JournalReader
from researcher.journal.records import Goal, Prices, Run
from researcher.journal.writer import Journal
from researcher.loop.context import RunContext
from researcher.queues.trials import TrialQueue
from researcher.repository.repository import Workspace
from researcher.source.proposal import ProposerName
from services.redis.server import RedisServer
from tests.doubles.ollama_faults import SpillingServer
from tests.doubles.ollama_server import Turn, ollama_double
from tests.fixtures.scripted_run import FILES, SUBJECT, ScriptedRun
from trainer.jobs import Kind, Outcome, Status, profile_named
from trainer.worker.heartbeat import IDLE, Heartbeat

SHORT_H = 8 / 3600


def run_of(scripted_run: ScriptedRun) -> Run:
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
    assert run is not None
    return run


def measured_in(scripted_run: ScriptedRun) -> int:
    with JournalReader(scripted_run.journal) as history:
        return history.measured_count()


# When a run ends


def test_hours_are_those_since_the_first_start_and_include_the_claim(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    assert scripted_run.start_researcher(HOURS=SHORT_H).wait(90) == 0, scripted_run.output()

    run = run_of(scripted_run)
    assert run.goal.until == pytest.approx(run.created_at + SHORT_H * 3600)
    assert run.ended is not None
    assert run.confirmed == run.incumbent or "goes on at the next start" in run.ended, "a busy machine may be late"
    assert f"the run has ended: {run.ended}" in scripted_run.output()


@pytest.mark.slow
def test_a_cost_ends_the_run_and_a_higher_one_goes_on(wide_run: ScriptedRun) -> None:
    wide_run.start_trainer()
    prices, first = {"PRICE_PER_HOUR": 1}, SHORT_H

    assert wide_run.start_researcher(MAX_COST=first, **prices).wait(90) == 0, wide_run.output()
    run, measured = run_of(wide_run), measured_in(wide_run)
    more = (time.time() - run.created_at) / 3600 + SHORT_H
    assert wide_run.start_researcher(MAX_COST=more, **prices).wait(90) == 0, wide_run.output()

    assert run.ended is not None
    assert run.ended_at is not None
    assert run.ended_at - run.created_at < 90
    assert measured_in(wide_run) > measured


@pytest.mark.slow
def test_a_restart_makes_the_hours_no_longer(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher(HOURS=3 * SHORT_H)
    scripted_run.wait_until(lambda history: history.measured_count() >= 3, "three experiments")
    researcher.send_signal(signal.SIGKILL)
    researcher.wait(10)

    assert scripted_run.start_researcher(HOURS=3 * SHORT_H).wait(90) == 0, scripted_run.output()

    run = run_of(scripted_run)
    assert run.goal.until == pytest.approx(run.created_at + 3 * SHORT_H * 3600)


def test_range_that_is_nearly_right_is_named_in_the_first_line_of_the_log(tmp_path: Path, server: RedisServer) -> None:
    near = SUBJECT.replace("range 16..256 pow2", "range 16 to 256, pow2")
    scripted_run = ScriptedRun(tmp_path, server, FILES | {"train.py": near})
    try:
        scripted_run.start_researcher(LLM="none")
        scripted_run.wait_until(lambda _: "on branch" in scripted_run.output(), "the start of the run")
        first = scripted_run.output().splitlines()[0]
    finally:
        scripted_run.end()

    assert "the optimiser does not move WIDTH" in first
    assert "write 'range 16..256 pow2'" in first


@pytest.mark.slow
def test_while_a_run_goes_on_it_has_not_ended(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    assert scripted_run.start_researcher(EXPERIMENTS=1).wait(90) == 0
    assert run_of(scripted_run).ended == "1 of 1 experiments are measured"

    scripted_run.start_researcher(EXPERIMENTS=500)
    scripted_run.wait_until(lambda history: history.measured_count() >= 2, "one more experiment")

    assert run_of(scripted_run).ended is None


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"MAX_COST": 5}, "MAX_COST needs a price to count with"),
        ({"LLM": "openai"}, "LLM=openai needs OPENAI_BASE_URL"),
        ({"LLM": "none", "PROPOSER": "llm"}, "with LLM=none nobody can propose"),
    ],
)
def test_what_cannot_be_is_refused_before_a_run_begins(
    scripted_run: ScriptedRun, settings: dict[str, object], says: str
) -> None:
    assert scripted_run.start_researcher(**settings).wait(30) == 2

    assert says in scripted_run.output()
    with pytest.raises(JournalError):
        JournalReader(scripted_run.journal)


# The LLM at work


def test_without_an_llm_the_optimiser_proposes_alone_and_nobody_is_asked(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    with ollama_double([Turn(nudge="LEVEL")]) as ollama:
        settings = {"LLM": "none", "PROPOSER": "hybrid", "OLLAMA_HOST": ollama.url, "EXPERIMENTS": 2}
        assert scripted_run.start_researcher(**settings).wait(90) == 0, scripted_run.output()

    assert (ollama.calls, ollama.looks) == ([], 0)
    assert scripted_run.output().count("no LLM, as LLM=none asks; the optimiser proposes alone") == 1
    assert str(scripted_run.bus.doing("llm")).startswith("none, as LLM=none asks")


def test_on_a_shared_gpu_the_llm_is_asked_only_while_no_trial_is_under_way(scripted_run: ScriptedRun) -> None:
    under_way = []
    factors = count(1)

    def script(_: object) -> Turn:
        with JournalReader(scripted_run.journal) as history:
            under_way.append((history.running_trial(), history.open_confirmation()))
        return Turn(nudge="LEVEL", by=1 - next(factors) / 1000)

    scripted_run.start_trainer()
    Heartbeat(scripted_run.bus.connection, "trainer-1", gpu="GPU-1").show(IDLE)
    with ollama_double(script) as ollama:
        settings = {"PROPOSER": "hybrid", "OLLAMA_HOST": ollama.url, "MODEL": "small", "EXPERIMENTS": 6}
        assert scripted_run.start_researcher(PROFILE="80gb", **settings).wait(90) == 0, scripted_run.output()

    with JournalReader(scripted_run.journal) as history:
        assert sum(item.proposer == ProposerName.LLM for item in history.experiments()) >= 2
    assert set(under_way) == {(None, None)}


def test_a_model_that_does_not_fit_is_told_and_the_optimiser_goes_on(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    Heartbeat(scripted_run.bus.connection, "trainer-1", gpu="GPU-1").show(IDLE)

    with ollama_double([Turn(nudge="LEVEL")], kind=SpillingServer) as ollama:
        settings = {"PROPOSER": "hybrid", "OLLAMA_HOST": ollama.url, "MODEL": "small", "EXPERIMENTS": 3}
        assert scripted_run.start_researcher(PROFILE="24gb", **settings).wait(90) == 0, scripted_run.output()

    words = "small does not fit beside the trainer: 3.0 of 9.0 GiB on the CPU; set MODEL or NUM_CTX smaller"
    assert scripted_run.bus.doing("llm") == Status.working(f"none: {words}; the optimiser goes on")
    assert scripted_run.output().count(words) == 1, "said once, not with every experiment"
    assert ollama.asked == []
    assert [body["options"]["num_gpu"] for path, body in ollama.calls if "options" in body] == [999, 999]


class StickyProposers:
    """A model of theirs leaves the GPU at the third asking only."""

    def __init__(self) -> None:
        self.asked = 0

    def free_gpu(self, _: object) -> None:
        self.asked += 1
        if self.asked < 3:
            raise ModelNotUnloaded("the model stays; restart Ollama")

    def draft_ahead(self, _: object) -> None:
        """Nothing."""


def test_no_trial_begins_on_a_gpu_that_a_model_does_not_leave(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    journal, workspace, sticky, hours = (
        Journal(scripted_run.journal),
        Workspace(scripted_run.subject),
        StickyProposers(),
        count(),
    )
    said: list[str] = []
    queued: list[int] = []
    run = journal.start_run(
        tag="night", profile="12gb", budget=300, branch="overnight/night", base_commit=workspace.head(),
        data_sha256="d", seed=1, prices=Prices(), source="", fingerprint="f", at=0.0,
    )  # fmt: skip
    trial = journal.add_trial(run, journal.numbered(0).id, Kind.BASELINE, seed=1, at=1.0)

    def rest() -> None:
        queued.append(len(scripted_run.bus.queue("trials")))

    run_context = RunContext(
        journal=journal, workspace=workspace, trials=TrialQueue(scripted_run.bus), proposers=sticky,
        profile=profile_named("12gb"), rule=Rule.WALK, crash_reset=CrashReset.CONFIRMED, goal=Goal(),
        project=lambda: None, tick=lambda: None, rest=rest, publish_status=said.append,
        clock=lambda: 20.0 * next(hours),
    )  # fmt: skip
    measured = run_context.measure(trial)

    assert measured.outcome is Outcome.OK
    assert set(said) == {"trial night-0-t0-a0", "paused: the model stays; restart Ollama"}
    assert sticky.asked == 3
    assert queued
    assert set(queued) == {0}
    workspace.close()
    journal.close()
