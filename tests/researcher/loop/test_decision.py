"""What a candidate is compared with in the loop, also where the incumbent changed while it was measured."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from statistics import fmean

import pytest

from researcher.journal.database import JOURNAL_FILE
from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision, Goal, State
from researcher.loop.loop import step, sync_with_journal
from tests.fixtures.loop_in_process import level, opened
from tests.fixtures.scripted_run import ScriptedRun


def go_back_to_the_baseline(journal: Path) -> None:
    with closing(sqlite3.connect(journal / JOURNAL_FILE)) as database, database:
        database.execute("UPDATE run SET incumbent = confirmed")


@pytest.mark.parametrize("score", [1.72, 1.78], ids=["better than both", "worse than its parent alone"])
def test_a_candidate_is_measured_against_its_parent_and_succeeds_no_other_incumbent(
    scripted_run: ScriptedRun, score: float
) -> None:
    scripted_run.start_trainer()

    with opened(scripted_run, [level(1.76), level(score)], goal=Goal(9)) as run_context:
        sync_with_journal(run_context)
        while (item := run_context.journal.open_experiment()) is None or (item.number, item.state) != (
            2,
            State.MEASURING,
        ):
            step(run_context)
        go_back_to_the_baseline(scripted_run.journal)
        while run_context.journal.open_experiment() is not None:
            step(run_context)

    with JournalReader(scripted_run.journal) as history:
        run, parent, candidate = history.run(), history.numbered(1), history.numbered(2)
        (trial,) = history.trials(experiment=candidate.id)
        assert run is not None
        assert (parent.decision, candidate.parent) == (Decision.KEEP, parent.id)
        assert trial.score_to_beat == fmean(history.scores()[parent.id])
        assert (candidate.decision, candidate.score, candidate.state) == (
            Decision.DISCARD,
            trial.val_bpb,
            State.APPLIED,
        )
        assert run.incumbent == run.confirmed == history.numbered(0).id
