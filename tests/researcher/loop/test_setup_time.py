"""The set-up of trials in the real loop: free for the baseline, and limited by the baseline's from then on."""

from __future__ import annotations

from dataclasses import replace

from researcher.decision.setup_time import with_setup
from researcher.loop.context import RunContext
from tests.doubles.scripted_trainer import SETUP_S
from tests.fixtures.loop_in_process import level, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs import Kind


def test_the_baselines_set_up_is_free_and_sets_the_limit_of_all_later_trials(scripted_run: ScriptedRun) -> None:
    free: dict[Kind, set[float | None]] = {}
    shares: set[tuple[Kind, int, bool]] = set()

    def look(run_context: RunContext) -> None:
        journal = run_context.journal
        for trial in journal.trials():
            spec, result = run_context.spec(trial), journal.result(trial.id)
            assert result is not None
            unlimited = replace(spec, budget=with_setup(run_context.profile.budget, None))
            (answered,) = (each for each in (spec, unlimited) if each.digest == result.spec_digest)
            shares.add((trial.kind, trial.number, spec.shares_compiled))
            free.setdefault(trial.kind, set()).add(answered.budget.free_setup)

    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.7), look, level(1.6)])

    later = {2 * SETUP_S}
    assert {each[:2] for each in shares if each[2]} == {(Kind.BASELINE, 0)}, "only there the code is the user's own"
    assert free == {Kind.BASELINE: {600.0}, Kind.FIRST: later, Kind.CONFIRM: later}
