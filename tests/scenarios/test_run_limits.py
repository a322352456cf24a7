"""When a run ends by itself, and its LLM at work: the researcher as a process, with a scripted trainer and Ollama."""

from __future__ import annotations

import signal
from itertools import count
from pathlib import Path

import pytest

from researcher.decision.cost import Cost, cost_of
from researcher.decision.rules import CrashReset, Rule
from researcher.errors import JournalError, ModelNotUnloaded
from researcher.journal.reader import JournalReader
from researcher.journal.records import Prices, Run
from researcher.journal.writer import Journal
from researcher.loop.context import Goal, RunContext
from researcher.queues.trials import TrialQueue
from researcher.repository.repository import Workspace
from researcher.source.proposal import ProposerName
from services.redis.server import RedisServer
from tests.doubles.ollama_faults import SpillingServer
from tests.doubles.ollama_server import Turn, ollama_double
from tests.fixtures.scripted_run import FILES, SUBJECT, ScriptedRun
from trainer.jobs import Kind, Outcome, Status, profile_named

TRIAL_S = 0.01  # of a scripted trial
TEN_TRIALS_H = 10 * TRIAL_S / 3600


def run_of(scripted_run: ScriptedRun) -> Run:
    with JournalReader(scripted_run.journal) as history:
        run = history.run()
    assert run is not None
    return run


def cost_in(scripted_run: ScriptedRun) -> Cost:
    with JournalReader(scripted_run.journal) as history:
        return cost_of(run_of(scripted_run), history.experiments(), history.trials())


def cost_before_the_last_experiment(scripted_run: ScriptedRun) -> Cost:
    with JournalReader(scripted_run.journal) as history:
        *before, last = history.experiments()
        trials = [trial for trial in history.trials() if trial.queued_at < last.proposed_at]
        return cost_of(run_of(scripted_run), before, trials)


# When a run ends


@pytest.mark.parametrize(
    ("goal", "measured", "cost", "reason"),
    [
        (Goal(), 10_000, Cost(1e9, 1e9, 0, 1e9), None),
        (Goal(experiments=8), 7, Cost(0, 0, 0, None), None),
        (Goal(experiments=8), 8, Cost(0, 0, 0, None), "8 of 8 experiments are measured"),
        (Goal(hours=1), 0, Cost(3000, 599, 0, None), None),
        (Goal(hours=1), 0, Cost(3000, 600, 0, None), "1.00 of 1 hours of trials and LLM are used"),
        (Goal(max_cost=2.5), 0, Cost(0, 0, 0, 2.4), None),
        (Goal(max_cost=2.5), 0, Cost(0, 0, 0, 2.51), "2.51 of 2.5 are spent"),
        (Goal(8, 1, 2.5), 3, Cost(4000, 0, 0, 2.6), "1.11 of 1 hours of trials and LLM are used"),
    ],
)
def test_the_first_limit_that_is_reached_ends_the_run_in_words(
    goal: Goal, measured: int, cost: Cost, reason: str | None
) -> None:
    assert goal.reached(measured, lambda: cost) == reason


def test_hours_end_the_run_after_the_running_trial_and_the_claim(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    assert scripted_run.start_researcher(HOURS=TEN_TRIALS_H).wait(90) == 0, scripted_run.output()

    run = run_of(scripted_run)
    assert cost_before_the_last_experiment(scripted_run).hours < TEN_TRIALS_H <= cost_in(scripted_run).hours
    assert run.confirmed == run.incumbent, "what was kept is confirmed or rolled back before the end"
    assert run.ended is not None
    assert "hours of trials and LLM are used" in run.ended
    assert f"the run has ended: {run.ended}" in scripted_run.output()


@pytest.mark.slow
def test_a_cost_ends_the_run_and_a_higher_one_goes_on(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    price = 3600  # one a second

    assert scripted_run.start_researcher(PRICE_PER_HOUR=price, MAX_COST=10 * TRIAL_S).wait(90) == 0, (
        scripted_run.output()
    )
    spent = cost_in(scripted_run).money
    assert "are spent" in (run_of(scripted_run).ended or "")
    assert scripted_run.start_researcher(PRICE_PER_HOUR=price, MAX_COST=20 * TRIAL_S).wait(90) == 0, (
        scripted_run.output()
    )

    assert spent is not None
    assert 10 * TRIAL_S <= spent < 20 * TRIAL_S
    assert (cost_in(scripted_run).money or 0) >= 20 * TRIAL_S


@pytest.mark.slow
def test_the_hours_of_a_killed_researcher_still_count(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    researcher = scripted_run.start_researcher(HOURS=2 * TEN_TRIALS_H)
    scripted_run.wait_until(lambda history: history.measured_count() >= 3, "three experiments")
    researcher.send_signal(signal.SIGKILL)
    researcher.wait(10)

    assert scripted_run.start_researcher(HOURS=2 * TEN_TRIALS_H).wait(90) == 0, scripted_run.output()

    assert cost_before_the_last_experiment(scripted_run).hours < 2 * TEN_TRIALS_H <= cost_in(scripted_run).hours


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
    with ollama_double(script) as ollama:
        settings = {"PROPOSER": "hybrid", "OLLAMA_HOST": ollama.url, "MODEL": "small", "EXPERIMENTS": 6}
        assert scripted_run.start_researcher(PROFILE="80gb", **settings).wait(90) == 0, scripted_run.output()

    with JournalReader(scripted_run.journal) as history:
        assert sum(item.proposer == ProposerName.LLM for item in history.experiments()) >= 2
    assert set(under_way) == {(None, None)}


def test_a_model_that_does_not_fit_is_told_and_the_optimiser_goes_on(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

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
