"""A limit of time holds wherever the run is: in a pause, in the baseline, in a claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import redis

from researcher.config.settings import Settings
from researcher.journal.reader import JournalReader
from researcher.journal.records import ASKED_TO_PAUSE, Goal, Pause, PauseCause, Prices
from researcher.loop.context import Finished, PauseBackoffs, RunContext
from researcher.loop.loop import run_until_goal
from researcher.loop.resume import run_through_outages
from researcher.source.proposal import Candidate, Proposal
from tests.fixtures.journal_story import Story
from tests.fixtures.loop_in_process import level, opened, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs import Kind

LIMIT = 1e12  # far beyond any clock


def over(run_context: RunContext) -> RunContext:
    """The same run after its limit."""
    return replace(run_context, goal=Goal(until=LIMIT), clock=lambda: 2 * LIMIT)


@pytest.mark.parametrize("pause", [ASKED_TO_PAUSE, Pause(PauseCause.OUTAGE, "the disk is full")])
def test_a_paused_run_ends_at_its_limit(scripted_run: ScriptedRun, pause: Pause) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75)])

    with opened(scripted_run, []) as run_context:
        run_context.journal.pause(run_context.run, pause)

        run_until_goal(over(run_context))

        assert run_context.run.ended is not None
        assert run_context.run.ended_at == 2 * LIMIT


def test_a_pause_for_a_fault_is_not_longer_than_the_limit(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75)])
    times = iter([1.0, 1.0, 3 * LIMIT])

    with opened(scripted_run, []) as run_context:
        limited = replace(run_context, goal=Goal(until=LIMIT), clock=lambda: next(times, 3 * LIMIT))

        with pytest.raises(Finished):
            limited.hold(PauseCause.OUTAGE, "the disk is full")


def test_a_pause_costs_what_the_machine_costs(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75)])

    with opened(scripted_run, []) as run_context:
        run = run_context.run
        run_context.journal.price(run, Prices(per_hour=1.0))
        run_context.journal.pause(run, ASKED_TO_PAUSE)

        run_until_goal(replace(run_context, goal=Goal(max_cost=5.0), clock=lambda: run.created_at + 6 * 3600.0))

        assert str(run_context.run.ended).startswith("6.00 of 5 are spent")


def test_no_trial_of_the_baseline_begins_after_the_limit(scripted_run: ScriptedRun) -> None:
    with opened(scripted_run, []) as run_context:
        run_until_goal(over(run_context))

        assert len(scripted_run.bus.queue("trials")) == 0
        assert not any(trial.finished for trial in run_context.journal.trials())
        assert run_context.run.ended is not None


def test_a_trial_that_a_stop_left_open_waits_after_the_limit_for_a_later_start(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75)])

    with opened(scripted_run, []) as run_context:
        journal = run_context.journal
        proposal = Proposal("human", "wider", "h", ())
        journal.propose(run_context.run, proposal, Candidate(level(1.7), "f", "c", 0), 2.0)
        run_until_goal(over(run_context))

        assert journal.open_experiment() is not None
        assert journal.measured_count() == 1


def test_a_claim_that_the_limit_ends_goes_on_at_the_next_start(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()

    with opened(scripted_run, [level(1.7)]) as run_context:
        journal = run_context.journal
        times = {True: 2 * LIMIT, False: 1000.0}
        limited = replace(
            run_context, goal=Goal(1, until=LIMIT), clock=lambda: times[journal.open_confirmation() is not None]
        )
        run_until_goal(limited)

        claim = journal.open_confirmation()
        assert claim is not None
        assert not any(trial.finished for trial in journal.trials(confirmation=claim.id))
        assert run_context.run.ended is not None

    run_listed(scripted_run, [], goal=Goal(1))

    with opened(scripted_run, []) as run_context:
        [decided] = run_context.journal.confirmations()
        assert decided.verdict is not None
        assert any(trial.kind is Kind.CONFIRM for trial in run_context.journal.trials())


@pytest.mark.parametrize("goal", [Goal(until=1.0), Goal(max_cost=9.0)], ids=["time", "cost"])
def test_an_outage_does_not_carry_a_run_over_its_limit(tmp_path: Path, goal: Goal) -> None:
    story = Story(tmp_path / "journal")
    story.journal.limit(story.run, goal)
    story.journal.close()
    settings = Settings(
        redis_url="redis://127.0.0.1:9/0", journal_dir=tmp_path / "journal", data_dir=tmp_path, subject_dir=tmp_path
    )
    calls: list[PauseBackoffs] = []

    def day(back_off: PauseBackoffs) -> None:
        calls.append(back_off)
        raise redis.ConnectionError("refused")

    run_through_outages(settings, day, NeverStopped())

    assert len(calls) == 1
    with JournalReader(tmp_path / "journal") as history:
        run = history.run()
    assert run is not None
    assert run.ended is not None


class NeverStopped:
    """A switch that nobody turns."""

    def turn(self, by: str) -> None:
        """Do nothing."""

    def raise_if_stopped(self) -> None:
        """Do nothing."""
