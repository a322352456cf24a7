"""Seeds of trials: one distribution for every kind of trial, and nothing in a seed that a candidate could read."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import fmean

import pytest

from researcher import __main__ as researcher
from researcher.config.data_digests import DataDigests
from researcher.config.settings import Settings
from researcher.journal.reader import JournalReader
from researcher.journal.writer import Journal
from tests.fixtures.loop_in_process import level, opened, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from tests.researcher.loop.test_failures import BAD
from trainer.jobs import Kind, profile_named


def seeds(scripted_run: ScriptedRun, key: str | None, count: int) -> list[int]:
    """The next seeds of a run with that key."""
    with opened(scripted_run, [], seed_key=key) as run_context:
        found = []
        for number in range(count):
            run_context.journal.trial_count = lambda number=number: number  # type: ignore[method-assign]
            found.append(run_context.next_seed())
    return found


def test_seeds_follow_the_key_alone_and_fill_their_range_evenly(
    scripted_run: ScriptedRun, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = ScriptedRun(tmp_path_factory.mktemp("other"), scripted_run.server)

    ours, theirs = seeds(scripted_run, "a" * 32, 400), seeds(other, "b" * 32, 400)

    assert seeds(scripted_run, None, 400) == ours, "a run that was begun keeps its key"
    assert not set(ours) & set(theirs), "both runs have the seed 7"
    assert len(set(ours)) == 400
    assert fmean(ours) == pytest.approx(2**30, rel=0.1)


def test_every_trial_of_a_run_has_the_seed_that_its_place_in_the_run_gives_whatever_its_kind(
    scripted_run: ScriptedRun,
) -> None:
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.7), *BAD], seed_key="k")

    with JournalReader(scripted_run.journal) as history:
        trials = history.trials()
    assert {trial.kind for trial in trials} == {Kind.BASELINE, Kind.FIRST, Kind.CONFIRM, Kind.DRIFT}
    drawn = [random.Random(f"k {place}").randrange(1, 2**31) for place in range(len(trials))]
    assert [trial.seed for trial in trials] == drawn


@pytest.mark.parametrize("seed", [None, 7])
def test_a_run_draws_from_a_secret_unless_its_owner_gives_a_seed(
    seed: int | None, scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    keys = []
    for place in ("one", "two"):
        settings = Settings(
            redis_url="redis://127.0.0.1:9",
            subject_dir=scripted_run.subject,
            journal_dir=tmp_path / place,
            data_dir=tmp_path / "data",
            seed=seed,
            tag=place,
        )
        journal = Journal(tmp_path / place)
        workspace = researcher.open_subject(scripted_run.subject, journal)
        run = researcher._start_run(
            settings, profile_named("cpu"), journal, workspace, DataDigests("d" * 64, None, None), 1.0
        )
        keys.append(run.seed_key or "")
        workspace.close()
        journal.close()

    one, two = keys
    assert (one == two == "7") if seed == 7 else (one != two and len(one) == 32)
