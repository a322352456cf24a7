"""The container `data` takes an overnight.toml as `overnight init` does, and copies the files that the task reads."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from researcher.errors import SubjectError
from services.adopt.subject_check import ShapeRefused
from services.adopt.task_check import require_committed
from services.machine.state import RunConfig, State, StateError
from services.machine.subject import require_its_data
from services.trainer.prepare import OtherData, require_no_task, take_task
from services.trainer.task_inputs import NotCopied, is_copied
from tests.services.adopt.test_task_adoption import commit, repository, task_file, write_task
from trainer.data.task_data import TaskData, read_task_data
from trainer.jobs import Direction

__all__ = ["repository"]
SCORED = task_file() + '\n[score]\ncommand = ["python", "score.py"]\noutput = "output"\nreadable = ["hidden"]\n'
Take = Callable[..., str]


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(tmp_path / "state")
    made.make()
    return made


@pytest.fixture
def take(repository: Path, state: State) -> Take:
    """Return a function that writes and commits an overnight.toml, takes the task, and returns what was printed."""
    (repository / "data" / "numbers.txt").write_text("3 4")
    (repository / "hidden" / "truth.txt").write_text("1 0")
    (repository / "data" / "numbers.txt").chmod(0o604)

    def taken(text: str = SCORED, shared: Path | None = None) -> str:
        file = repository / "overnight.toml"
        if not file.exists() or file.read_text() != text:
            write_task(repository, text)
        said = io.StringIO()
        take_task(repository, state.data, shared, Console(file=said, width=300))
        return said.getvalue()

    return taken


def held_by(state: State) -> TaskData:
    held = read_task_data(state.data)
    assert held is not None
    return held


def test_a_task_becomes_the_data_and_the_choices_of_the_run(take: Take, state: State, repository: Path) -> None:
    said = take()

    held = held_by(state)
    copy = Path(held.repository)
    assert "cost: lower is better\n" in said
    assert copy.is_relative_to(state.data)
    assert (copy / "data" / "numbers.txt").read_text() == "3 4"
    assert (copy / "hidden" / "truth.txt").read_text() == "1 0"
    assert not (copy / "solve.py").exists()
    assert {path.stat().st_mode & 0o777 for path in copy.rglob("*.txt")} == {0o644}
    choices = state.resolve(profile="cpu", detect=lambda: "cpu")
    assert (choices.task, choices.script) == (held.task.to_json(), "solve.py")
    assert choices.trial_profile().metric.name == "cost"
    require_its_data(repository, choices)
    require_committed(repository, held.task, begins=True)


def test_a_second_start_does_nothing_and_makes_a_damaged_copy_again(take: Take, state: State) -> None:
    take()
    assert take().endswith("data: nothing to do\n")

    held = held_by(state)
    (Path(held.repository) / "data" / "numbers.txt").write_text("5")
    assert not is_copied(held)
    assert "with a copy of the files" in take()
    assert is_copied(held)


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ('"cost"', '"price"', "metric.name was cost, and is price now"),
        ('"lower"', '"higher"', "metric.direction was lower, and is higher now"),
        ("seconds = 5", "seconds = 6", "seconds was 5.0, and is 6.0 now"),
    ],
)
def test_a_run_is_not_resumed_on_another_task(
    take: Take, state: State, before: str, after: str, difference: str
) -> None:
    take()
    held = held_by(state)

    with pytest.raises(OtherData, match=re.escape(difference)) as refusal:
        take(SCORED.replace(before, after))

    assert "remove the volumes data, subject and journal" in str(refusal.value)
    assert held_by(state) == held
    assert is_copied(held)


def test_a_run_is_not_resumed_on_other_files_or_on_a_text(take: Take, state: State, repository: Path) -> None:
    take()
    held = held_by(state)
    (repository / "hidden" / "truth.txt").write_text("1 1")

    with pytest.raises(OtherData, match="the files that it reads have changed"):
        take()
    with pytest.raises(OtherData, match="holds the task of another repository"):
        require_no_task(state.data)
    assert is_copied(held)
    assert held_by(state) == held


def test_a_task_does_not_replace_a_text(take: Take, state: State) -> None:
    state.data.mkdir()
    (state.data / "manifest.json").write_text('{"digest": "1"}')

    with pytest.raises(OtherData, match="holds a text and no task"):
        take()
    assert (state.data / "manifest.json").read_text() == '{"digest": "1"}'


def test_a_link_in_a_readable_folder_opens_nothing(take: Take, state: State, repository: Path) -> None:
    (repository / "data" / "answers").symlink_to("../hidden/truth.txt")
    take()

    assert (Path(held_by(state).repository) / "data" / "answers").is_symlink()


def test_only_files_that_trials_can_see_are_taken(take: Take, state: State, tmp_path: Path) -> None:
    shared = tmp_path / "cache"
    shared.mkdir()
    weights = SCORED.replace('["data"]', f'["{shared}/weights"]')
    (shared / "weights").write_text("0.5")

    with pytest.raises(NotCopied, match="name its folder as KERNELS_CACHE"):
        take(weights)
    take(weights, shared)

    assert held_by(state).absolute(("data", f"{shared}/weights"))[1] == f"{shared}/weights"


def test_every_fault_of_a_task_is_told(take: Take, state: State) -> None:
    with pytest.raises(ShapeRefused, match=r"overnight.toml, readable: other is not there"):
        take(SCORED.replace('["data"]', '["other"]'))
    assert not state.data.exists()


def test_the_researcher_refuses_what_is_not_committed(take: Take, state: State, repository: Path) -> None:
    take()
    task = held_by(state).task
    write_task(repository, SCORED.replace("lower", "higher"))
    assert Direction.HIGHER.value in (repository / "overnight.toml").read_text()

    with pytest.raises(StateError, match=r"metric.direction was lower, and is higher now"):
        require_committed(repository, task, begins=False)
    write_task(repository, SCORED)
    (repository / "score.py").write_text("print('cost: 0')\n")
    commit(repository)
    with pytest.raises(StateError, match=r"score.py has changed since it was pinned"):
        require_committed(repository, task, begins=True)


def test_a_task_that_no_container_could_read_is_refused(repository: Path) -> None:
    write_task(repository, SCORED)

    with pytest.raises(SubjectError, match=r"overnight.toml of .* names data of its own"):
        require_its_data(repository, RunConfig("cpu", None, "subject", None))
