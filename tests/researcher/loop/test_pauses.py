"""A run that was paused by an earlier version, whose journal has no causes: it goes on, or waits for its user."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest

from researcher.journal.records import ASKED_TO_PAUSE, Pause
from researcher.loop.loop import run_until_goal
from tests.fixtures.loop_in_process import level, opened, run_listed
from tests.fixtures.scripted_run import ScriptedRun

RESTS = 3


@pytest.mark.parametrize(
    ("message", "waits_for"), [("a person asked for it", ASKED_TO_PAUSE), ("the disk is full", None)]
)
def test_a_run_that_an_earlier_version_paused_goes_on_by_itself_unless_its_user_asked_for_the_pause(
    scripted_run: ScriptedRun, message: str, waits_for: Pause | None
) -> None:
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75)])
    paused_by_an_earlier_version(scripted_run, message)
    waited_for: list[Pause | None] = []

    with opened(scripted_run, [level(1.7)]) as run_context:

        def rest() -> None:
            waited_for.append(run_context.run.pause)
            if len(waited_for) == RESTS:
                run_context.journal.go_on(run_context.run, run_context.clock())

        run_until_goal(replace(run_context, rest=rest))

        assert run_context.run.pause is None
        assert run_context.journal.measured_count() == 2
    assert waited_for == ([] if waits_for is None else [waits_for] * RESTS)


def paused_by_an_earlier_version(scripted_run: ScriptedRun, message: str) -> None:
    """Pause the run without a cause, as migration 010 leaves a pause that was written before there were causes."""
    with closing(sqlite3.connect(scripted_run.journal / "journal.db")) as database, database:
        database.execute("UPDATE run SET paused = ?, pause_cause = NULL", (message,))
