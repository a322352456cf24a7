"""What the loop asks of its journal in each experiment is the same work after a few experiments and after many.

Work is counted in lines of Python that run, so no clock decides. `scripts/bench scale` measures whole runs.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision
from researcher.optimizer.optimizer import Optimizer
from researcher.proposers.llm_proposer import Vetting
from researcher.proposers.novelty import objection
from researcher.proposers.proposers import Proposers
from researcher.proposers.schedule import Mix
from researcher.report.results_table import ResultsTable
from researcher.source.proposal import Candidate, ProposerName
from tests.fixtures.journal_story import PROFILE, Story

FEW, MANY = 40, 240
SOURCE = "A = 1  # range 1..9\n"


def tell(story: Story, experiments: int) -> None:
    """Add experiments of which every tenth is kept, and of these keeps every second is confirmed."""
    for number in range(1, experiments + 1):
        kept = number % 10 == 0
        story.try_out("t", 1.8, Decision.KEEP if kept else Decision.DISCARD, source=SOURCE, by=ProposerName.OPTIMIZER)
        if number % 20 == 0:
            story.claim([1.7, 1.7, 1.7], [1.8, 1.8, 1.8])


def vetting(journal: JournalReader) -> Callable[[], object]:
    return lambda: objection(journal, ProposerName.OPTIMIZER)(Candidate(SOURCE, "new", "new", 0))


def learning(journal: JournalReader) -> Callable[[], object]:
    optimizer = Optimizer(seed=1, context=PROFILE.context)
    proposers = Proposers(
        mix=Mix.OPTIMIZER, vetting=Vetting(PROFILE, str, None), optimizer=optimizer, llm=None, folder=journal.folder,
        publish_status=lambda _: None,
    )  # fmt: skip
    return lambda: (proposers.learn(journal), proposers._upcoming(journal))


def asking(journal: JournalReader) -> Callable[[], object]:
    newest = journal.experiments()[-1]
    last = journal.confirmations()[-1].decided_at or 0.0
    return lambda: (
        journal.trials(experiment=newest.id),
        journal.trials(confirmation=1),
        journal.measured_since(0.0, 10),
        journal.measured_count(),
        journal.decisions_since(last),
        journal.trial_hours_since(last),
        journal.tried("f3"),
        journal.ran_out_of_memory(),
    )


def showing(journal: JournalReader) -> Callable[[], object]:
    return ResultsTable(journal).text


def lines_of(work: Callable[[], object]) -> int:
    lines = 0

    def count(_: FrameType, event: str, __: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return count

    before = sys.gettrace()
    gc.disable()  # the lines of finalizers are not those of the work
    sys.settrace(count)
    try:
        work()
    finally:
        sys.settrace(before)
        gc.enable()
    return lines


def work_of_one_more(story: Story, prepared: Callable[[JournalReader], Callable[[], object]]) -> int:
    """Lines that run for one more experiment, when all experiments before it are known."""
    work = prepared(story.journal)
    work()
    tell(story, 1)
    return lines_of(work)


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Story]]:
    """Yield a short run and a long one."""
    made = [Story(tmp_path_factory.mktemp(str(count)), source=SOURCE) for count in (FEW, MANY)]
    for story, count in zip(made, (FEW, MANY), strict=True):
        story.baseline(1.9, 1.91)
        tell(story, count)
    yield made
    for story in made:
        story.journal.close()


@pytest.mark.parametrize("prepared", [vetting, learning, asking, showing])
def test_an_experiment_after_many_is_the_work_of_one_after_few(
    stories: list[Story], prepared: Callable[[JournalReader], Callable[[], object]]
) -> None:
    few, many = (work_of_one_more(story, prepared) for story in stories)

    assert many <= few + MANY // 2, "only the keeps of a run may be walked through"
