"""Whole runs against a known truth: what the decision rule finds, what it invents, and that the loop decides so."""

from __future__ import annotations

from functools import cache
from statistics import fmean

import pytest

from researcher.decision.rules import Rule
from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict
from tests.bench.simulated_runs import WORLDS, Candidate, SimulatedResult, SimulatedRun, simulate
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs import profile_named

RUNS, EXPERIMENTS = 200, 120
TRIAL_S = 0.01  # of a scripted trial
NO_GAIN = [world.name for world in WORLDS if world.name.startswith("no gain")]


@cache
def runs(name: str, rule: Rule) -> list[SimulatedResult]:
    (world,) = (world for world in WORLDS if world.name == name)
    return [simulate(world, rule, EXPERIMENTS, f"{name} {simulated}") for simulated in range(RUNS)]


@pytest.mark.parametrize("world", NO_GAIN)
def test_where_nothing_is_better_hardly_a_run_claims_anything(world: str) -> None:
    told = runs(world, Rule.WALK)

    assert fmean(simulated.keeps for simulated in told) > 3, "the walk is meant to be free"
    assert fmean(simulated.claims for simulated in told) < 0.15
    assert all(simulated.false_claims == simulated.claims for simulated in told)


def test_over_all_such_worlds_there_is_at_most_a_claim_in_nine_runs() -> None:
    assert fmean(simulated.claims for world in NO_GAIN for simulated in runs(world, Rule.WALK)) < 0.11


def test_where_nothing_is_better_keeping_every_lower_score_believes_in_two_and_a_half_sigma() -> None:
    told = runs("no gain", Rule.GREEDY)

    assert fmean(simulated.claims for simulated in told) == pytest.approx(4.6, abs=0.5)
    assert fmean(simulated.gain for simulated in told) == pytest.approx(2.6, abs=0.3)
    assert fmean(simulated.true_gain for simulated in told) == 0


@pytest.mark.parametrize(("world", "least"), [("small", 4.2), ("mid", 13.1), ("big", 50.7)])
def test_real_gains_are_claimed_nearly_whole_and_nearly_nothing_beside_them(world: str, least: float) -> None:
    (name,) = (each.name for each in WORLDS if each.name.startswith(f"{world}:"))
    ours, greedy = runs(name, Rule.WALK), runs(name, Rule.GREEDY)
    found = fmean(simulated.true_gain for simulated in ours)

    assert found > least
    assert found > 0.85 * fmean(simulated.true_gain for simulated in greedy)
    assert fmean(simulated.gain for simulated in ours) == pytest.approx(found, rel=0.1), "what is told is what there is"
    assert fmean(simulated.false_claims for simulated in ours) < 0.03


@pytest.mark.slow
def test_the_real_loop_decides_as_the_simulated_run_does_on_the_same_scores(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    assert scripted_run.start_researcher(EXPERIMENTS=30).wait(90) == 0, scripted_run.output()
    with JournalReader(scripted_run.journal) as history:
        experiments = [item for item in history.experiments() if item.was_measured]
        scores = iter([trial.val_bpb for trial in history.trials()])
        verdicts = [each.verdict for each in history.confirmations() if each.kind is ConfirmationKind.CLAIM]
    told = SimulatedRun(
        Rule.WALK, lambda _: next(scores), floor=profile_named("cpu").sigma_floor, trial_hours=TRIAL_S / 3600
    )
    lengths = iter([item.added_lines or 0 for item in experiments])

    told.run(len(experiments), lambda: Candidate(0.0, next(lengths)))

    assert told.decisions == [item.decision for item in experiments]
    assert told.verdicts == verdicts
    assert next(scores, None) is None, "both measured as often"
    assert set(verdicts) == {ConfirmationVerdict.CONFIRMED, ConfirmationVerdict.ROLLED_BACK}, (
        "else choose a run that shows more"
    )
