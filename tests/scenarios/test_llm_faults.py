"""Whatever a small model or its server does wrong costs no trial and no run, is told, and is known next time."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from researcher.journal.reader import JournalReader
from services.machine.state import State
from services.redis.server import RedisServer
from services.views.show import show_log
from tests.doubles.fault_scenarios import FILES, SCENARIOS, Scenario
from tests.fixtures.faulty_run import Seen, run_faults
from tests.fixtures.scripted_run import ScriptedRun
from trainer.jobs import Outcome

BAD = [row for row in SCENARIOS if row.said is not None]
GOOD = [row for row in SCENARIOS if row.said is None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def seen(folder: Path, server: RedisServer) -> Iterator[dict[str, Seen]]:
    """All of it in one run."""
    scripted_run = ScriptedRun(folder, server, FILES)
    try:
        scripted_run.start_trainer()
        yield run_faults(scripted_run)
    finally:
        scripted_run.end()


def log(folder: Path, number: int) -> str:
    """`overnight log NUMBER`."""
    state, shown = State(folder), io.StringIO()
    state.resolve(profile="cpu", detect=str)
    show_log(state, number, Console(file=shown, width=2000))
    return shown.getvalue()


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name)
def test_fault_costs_no_trial_is_told_and_only_the_models_own_is_known_to_the_next_question(
    row: Scenario, seen: dict[str, Seen], folder: Path
) -> None:
    assert row.said is not None
    became = seen[row.name]

    expected = Outcome.UNANSWERED if row.of_server else Outcome.REJECTED
    assert [item.outcome for item in became.experiments] == [expected] * row.refusals
    with JournalReader(folder / "journal") as history:
        assert not any(history.trials(experiment=item.id) for item in became.experiments)
    assert row.said in log(folder, became.experiments[-1].number)
    assert (row.said in became.next_question) is not row.of_server
    assert became.next_one.outcome is Outcome.OK


@pytest.mark.parametrize("row", GOOD, ids=lambda row: row.name)
def test_answer_that_only_looks_odd_becomes_a_trial(row: Scenario, seen: dict[str, Seen]) -> None:
    (item,) = seen[row.name].experiments

    assert item.outcome is Outcome.OK
    assert item.title.isprintable()
    assert item.hypothesis.isprintable()
    assert seen[row.name].next_one.outcome is Outcome.OK
