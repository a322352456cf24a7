"""The checker itself: it finds nothing in a sound run, and each corruption that is planted in one. And what a failed
run leaves to be read.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scenarios.crash import checker
from tests.scenarios.crash.checker import DOUBLED, LOST, WRONG, check
from tests.scenarios.crash.forked_run import ForkedRun

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, server) -> Path:
    """The folder of a run with a keep and a discard."""
    scripted_run = ForkedRun(tmp_path_factory.mktemp("sound"), server)
    try:
        assert scripted_run.run_researcher(3) == 0, scripted_run.output()
    finally:
        scripted_run.end()
    return scripted_run.folder


@pytest.fixture
def state(sound: Path, tmp_path: Path) -> Path:
    """A copy to plant something in."""
    return shutil.copytree(sound, tmp_path / "state")


def execute(state: Path, *statements: str) -> None:
    with sqlite3.connect(state / "journal" / "journal.db") as journal:
        for statement in statements:
            journal.execute(statement)
    journal.close()


def git(state: Path, *arguments: str) -> str:
    command = ["git", "-C", str(state / "subject"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def put_a_discarded_commit_on_the_branch(state: Path) -> None:
    git(state, "reset", "--hard", "refs/overnight/night/3")


def build_on_a_discarded_commit(state: Path) -> None:
    execute(
        state, "UPDATE experiment SET parent = (SELECT id FROM experiment WHERE decision = 'discard') WHERE number = 3"
    )


def write_an_experiment_down_twice(state: Path) -> None:
    journal = sqlite3.connect(state / "journal" / "journal.db")
    columns = [name for _, name, *_ in journal.execute("PRAGMA table_info(experiment)") if name not in ("id", "number")]
    journal.close()
    names = ", ".join(columns)
    execute(state, f"INSERT INTO experiment (number, {names}) SELECT 4, {names} FROM experiment WHERE number = 3")


def lose_an_experiment(state: Path) -> None:
    execute(state, "UPDATE experiment SET number = 9 WHERE number = 3")


def credit_the_result_of_another_attempt(state: Path) -> None:
    execute(
        state,
        "UPDATE trial SET (result, outcome, val_bpb) = (SELECT result, outcome, val_bpb FROM trial WHERE id = 1)"
        " WHERE id = (SELECT trial.id FROM trial JOIN experiment ON experiment.id = experiment"
        " WHERE experiment.number = 1 AND trial.kind = 'first')",
    )


def credit_an_answer_that_the_trainer_never_gave(state: Path) -> None:
    path = state / "trials" / "night-1-t0-a0" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spec_digest": "f" * 64}))


def leave_the_tree_dirty(state: Path) -> None:
    with (state / "subject" / "train.py").open("a") as source:
        source.write("# half an edit\n")


def leave_a_row_out_of_the_table(state: Path) -> None:
    table = state / "subject" / "results.tsv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))


def decide_against_the_score(state: Path) -> None:
    execute(state, "UPDATE experiment SET decision = 'keep' WHERE decision = 'discard'")


def move_the_incumbent(state: Path) -> None:
    execute(state, "UPDATE run SET incumbent = (SELECT id FROM experiment WHERE number = 0)")


def leave_a_trial_unfinished(state: Path) -> None:
    execute(state, "UPDATE trial SET state = 'queued', result = NULL WHERE id = (SELECT MAX(id) FROM trial)")


def delete_a_tag(state: Path) -> None:
    git(state, "tag", "--delete", "confirmed/2")


PLANTED: dict[Callable[[Path], None], str] = {
    put_a_discarded_commit_on_the_branch: WRONG,
    build_on_a_discarded_commit: WRONG,
    write_an_experiment_down_twice: DOUBLED,
    lose_an_experiment: LOST,
    credit_the_result_of_another_attempt: WRONG,
    credit_an_answer_that_the_trainer_never_gave: WRONG,
    leave_the_tree_dirty: WRONG,
    leave_a_row_out_of_the_table: LOST,
    decide_against_the_score: WRONG,
    move_the_incumbent: WRONG,
    leave_a_trial_unfinished: LOST,
    delete_a_tag: LOST,
}


def test_a_sound_run_has_no_fault(sound: Path) -> None:
    found = check(sound)

    assert found["faults"] == []
    assert (found["experiments"], found["keep"], found["discard"]) == (3, 1, 2)
    assert found["attempts"] == found["trials"]


@pytest.mark.parametrize(("plant", "kind"), PLANTED.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_each_planted_corruption_is_found(state: Path, plant: Callable[[Path], None], kind: str) -> None:
    plant(state)

    assert check(state)[kind] > 0


def test_researcher_that_ends_badly_is_told_whole_however_much_trainers_say_after_it(scripted_run: ForkedRun) -> None:
    scripted_run.run_researcher(1, PROPOSER="nobody")
    with (scripted_run.folder / "output.log").open("a") as log:
        log.write("a trainer's line\n" * 10_000)

    words = scripted_run.last_words()

    assert words.startswith("the researcher's exit code is 2; since it began:\n")
    assert "PROPOSER" in words


def test_it_runs_where_nothing_of_ours_is(sound: Path) -> None:
    source = Path(checker.__file__).read_text()

    done = subprocess.run(
        [sys.executable, "-I", "-S", "-", str(sound)], input=source, capture_output=True, text=True, check=True, cwd="/"
    )

    assert json.loads(done.stdout) == check(sound)
