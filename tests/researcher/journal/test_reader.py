"""What the journal's reader remembers is what stands in the file, at every step of a run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from researcher.journal.reader import JournalReader
from researcher.loop.loop import run_until_goal
from tests.fixtures.loop_in_process import REFUSED, EndOfList, level, opened
from tests.fixtures.scripted_run import ScriptedRun


def test_what_was_read_once_is_never_told_stale(scripted_run: ScriptedRun) -> None:
    scripted_run.start_trainer()
    failing = [level(1.01, "fate: crashed"), level(1.02, "fate: out_of_memory"), level(1.03, "fate: timed_out")]
    looks = 0

    with opened(
        scripted_run, [level(1.7), REFUSED, level(1.69), level(1.9), *failing, level(1.5), level(1.68)]
    ) as run_context:

        def look(_: str) -> None:
            nonlocal looks
            looks += 1
            with JournalReader(scripted_run.journal) as fresh:
                assert run_context.journal.experiments() == fresh.experiments()
                assert run_context.journal.confirmations() == fresh.confirmations()
                assert run_context.journal.scores() == fresh.scores()
                assert run_context.journal.trials() == fresh.trials()
                assert run_context.journal.trials(experiment=2) == fresh.trials(experiment=2)
                assert run_context.journal.trials(confirmation=1) == fresh.trials(confirmation=1)

        with suppress(EndOfList):
            run_until_goal(replace(run_context, publish_status=look))

    assert looks > 30
