"""Lineage is a walk along parents: whatever order experiments are decided in, it is what a walk by hand finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from researcher.decision.rules import rolled_back_keeps
from researcher.errors import JournalError
from researcher.journal.reader import JournalReader
from researcher.journal.records import ConfirmationKind, ConfirmationVerdict, Decision
from researcher.report.results_table import ResultsTable
from tests.fixtures.overlapping_run import OverlappingRun, overlap
from trainer.jobs import Kind

SEEDS = range(3)


def line_of(journal: JournalReader, at: int | None) -> list[int]:
    parents, line = {item.id: item.parent for item in journal.experiments()}, []
    while at is not None:
        line.append(at)
        at = parents[at]
    return line


@pytest.mark.parametrize("seed", SEEDS)
def test_no_keep_is_dropped_but_by_a_check_and_what_is_confirmed_is_the_line_of_the_confirmed_head(
    tmp_path: Path, seed: int
) -> None:
    def look(story: OverlappingRun) -> None:
        journal, run, rows = story.journal, story.run, story.report().rows
        line = line_of(journal, run.incumbent)
        fallen = rolled_back_keeps(journal.experiments(), journal.confirmations())
        kept = {item.id for item in journal.experiments() if item.decision is Decision.KEEP}

        assert [journal.lineage(item.id) for item in journal.experiments()] == [
            tuple(line_of(journal, item.id)) for item in journal.experiments()
        ]
        assert kept - fallen.keys() == {*line}
        assert {row.experiment.id for row in rows if row.confirmed} == {*line_of(journal, run.confirmed)} <= {*line}

    overlap(tmp_path, seed, look)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_reader_remembers_is_what_stands_in_the_file_whatever_order_it_became_final_in(
    tmp_path: Path, seed: int
) -> None:
    tables: list[ResultsTable] = []

    def look(story: OverlappingRun) -> None:
        kept = story.journal
        tables[:] = tables or [ResultsTable(kept)]
        with JournalReader(kept.folder) as fresh:
            assert kept.experiments() == fresh.experiments()
            assert kept.trials() == fresh.trials()
            assert kept.confirmations() == fresh.confirmations()
            assert list(kept.scores().items()) == list(fresh.scores().items())
            assert tables[0].text() == ResultsTable(fresh).text()

    overlap(tmp_path, seed, look)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_happened_since_a_time_is_found_by_its_time_and_not_by_its_id(tmp_path: Path, seed: int) -> None:
    def look(story: OverlappingRun) -> None:
        journal = story.journal
        decided = sorted((item.decided_at, item.id, item) for item in journal.experiments() if item.decided_at)
        measured = [item for _, _, item in decided if item.was_measured]
        firsts = [trial for trial in journal.trials() if trial.kind is Kind.FIRST and trial.finished_at is not None]
        for at in (0.0, story.at / 3, story.at / 2, story.at):
            since = [item for item in measured if (item.decided_at or 0.0) > at]
            hours = sum(trial.wall_s or 0.0 for trial in firsts if (trial.finished_at or 0.0) > at) / 3600
            assert journal.measured_since(at, 4) == since[-4:]
            assert journal.decisions_since(at) == [item.decision for item in since]
            assert journal.trial_hours_since(at) == pytest.approx(hours)
        assert journal.measured_count() == len(measured)

    overlap(tmp_path, seed, look)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[OverlappingRun]:
    """A run with its baseline measured."""
    made = OverlappingRun(tmp_path)
    made.baseline(1.80, 1.82)
    yield made
    made.journal.close()


def test_a_keep_whose_parent_is_no_longer_the_incumbent_is_refused_and_changes_nothing(story: OverlappingRun) -> None:
    slow, fast = story.begin(), story.begin()
    story.end(fast, Decision.KEEP)

    with pytest.raises(JournalError):
        story.end(slow, Decision.KEEP)

    assert story.run.incumbent == fast.id
    assert story.journal.experiment(slow.id).decision is None
    story.end(slow, Decision.DISCARD)
    assert story.run.incumbent == fast.id


def test_a_keep_that_was_rebased_on_the_confirmed_head_is_not_confirmed_though_it_is_older(
    story: OverlappingRun,
) -> None:
    slow, fast = story.begin(), story.begin()
    story.end(fast, Decision.KEEP)
    story.apply(fast)
    story.claim([1.7] * 4, [1.8] * 4)
    story.rebase(slow)
    story.end(slow, Decision.KEEP)

    notes = {row.experiment.id: row.note for row in story.report().rows}

    assert slow.id < fast.id
    assert story.journal.lineage(slow.id) == (slow.id, fast.id, 1)
    assert (notes[slow.id], notes[fast.id]) == ("provisional", "confirmed")
    assert story.journal.lineage(None) == ()


@pytest.mark.parametrize(
    ("confirmed", "falls_to", "then"), [("slow", "fast", "fast"), ("fast", "slow", "fast"), ("slow", "slow", "slow")]
)
def test_a_fall_takes_the_confirmed_mark_along_to_an_ancestor_alone(
    story: OverlappingRun, confirmed: str, falls_to: str, then: str
) -> None:
    slow, fast = story.begin(), story.begin()
    ids = {"slow": slow.id, "fast": fast.id}
    story.end(fast, Decision.KEEP)
    story.rebase(slow)
    story.end(slow, Decision.KEEP)
    marks: list[dict[str, Any]] = [{"confirmed": ids[confirmed]}, {"roll_back_to": ids[falls_to]}]
    for mark in marks:
        story.journal.begin_confirmation(story.run, ConfirmationKind.INCUMBENT, slow.id, None, 3, story.tick())
        confirmation = story.journal.confirmations()[-1]
        story.journal.decide_confirmation(confirmation, ConfirmationVerdict.FAILS, "crashed", story.tick(), **mark)
        story.journal.confirmation_applied(confirmation, story.tick())

    assert (story.run.incumbent, story.run.confirmed) == (ids[falls_to], ids[then])
