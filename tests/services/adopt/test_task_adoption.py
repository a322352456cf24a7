"""`overnight init` of a repository with a task of its own, and what a start later tests."""

from __future__ import annotations

import hashlib
import io
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from researcher.journal.reader import JournalReader
from researcher.journal.records import Decision
from services.adopt.adopt import Init, print_findings
from services.adopt.subject_check import ShapeRefused
from services.adopt.task_adoption import settle, settle_task, take
from services.machine.state import State, StateError
from tests import ROOT
from tests.fixtures.journal_story import Story
from trainer.data.task_data import TaskData, read_task_data
from trainer.jobs import Degree

SOLVE = """\
import os

STEPS = 10  # steps; range 1..100
print(f"cost: {STEPS + int(os.environ['SEED']) % 2}")
"""
SCORE = "cost = 1\nprint(f'cost: {cost}')\n"


def task_file(**other: str) -> str:
    values = {
        "edit": '"solve.py"',
        "command": '["python", "solve.py"]',
        "seconds": "5",
        "seed": '"SEED"',
        "sigma_floor": "0.01",
        "readable": '["data"]',
    } | other
    keys = "".join(f"{key} = {value}\n" for key, value in values.items())
    pin = hashlib.sha256(SCORE.encode()).hexdigest()
    return f'{keys}\n[metric]\nname = "cost"\ndirection = "lower"\n\n[fixed]\n"score.py" = "{pin}"\n'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "routes"
    (folder / "data").mkdir(parents=True)
    (folder / "hidden").mkdir()
    (folder / "solve.py").write_text(SOLVE)
    (folder / "score.py").write_text(SCORE)
    commit(folder)
    return folder


def write_task(folder: Path, text: str) -> None:
    (folder / "overnight.toml").write_text(text)
    commit(folder)


def commit(folder: Path) -> None:
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "routes"]):
        who = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *command], cwd=folder, check=True)


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(tmp_path / "state")


def init(state: State, repository: Path, *, agrees: bool = True) -> tuple[TaskData | None, str]:
    console = Console(width=200, record=True)
    held = take(state, Init(repository, "cpu", None, None, ()), lambda _: agrees, console)
    assert held is None or isinstance(held, TaskData)
    return held, console.export_text()


def test_a_task_becomes_the_choices_of_the_state(state: State, repository: Path) -> None:
    write_task(repository, task_file())

    held, shown = init(state, repository)

    assert held is not None
    assert held == read_task_data(state.data)
    assert "cost: lower is better, claimed by the script\n  no command measures the value" in shown
    choices = state.resolve(detect=lambda: "12gb")
    profile = choices.trial_profile()
    assert (choices.profile, choices.script, choices.subject) == ("cpu", "solve.py", str(repository.resolve()))
    assert (profile.task, profile.degree, profile.budget.amount) == (held.task, Degree.CLAIMED, 5.0)
    assert settle(state, choices, Console(record=True), begins=True) == held


def test_a_proposal_is_written_only_with_consent(state: State, repository: Path) -> None:
    held, shown = init(state, repository, agrees=False)
    assert held is None
    assert "Not sure: seconds, sigma_floor" in shown
    assert not (repository / "overnight.toml").exists()

    with pytest.raises(ShapeRefused, match=r"is written; check seconds, sigma_floor in it, commit it"):
        init(state, repository)
    commit(repository)
    held, shown = init(state, repository)
    assert held is not None
    assert held.task.score is not None
    assert held.task.score.readable == ("hidden",)
    assert "cost: lower is better\n" in shown
    assert "measured by `python score.py`, which alone may read hidden\n" in shown


@pytest.mark.parametrize("files", [{}, {"solve.py": SOLVE}, {"prepare.py": "A = 1\n", "train.py": SOLVE}])
def test_a_folder_without_a_repository_of_its_own_is_refused_with_the_commands_that_make_one(
    state: State, repository: Path, files: dict[str, str]
) -> None:
    elsewhere = [repository.parent / "plain", repository / "part"]
    for folder in elsewhere:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)

    for folder, words in zip(
        elsewhere, ["is no git repository", f"is a folder in the repository {repository}"], strict=True
    ):
        with pytest.raises(ShapeRefused, match=f"{folder} {words}.*git init && git add"):
            init(state, folder)


@pytest.mark.parametrize("name", ["nowhere", "solve.py"])
def test_a_subject_that_is_no_folder_is_refused(state: State, repository: Path, name: str) -> None:
    with pytest.raises(ShapeRefused, match=f"{name} is no folder; name the folder of your repository"):
        init(state, repository / name)


@pytest.mark.parametrize("answer", ["\x03", "\x04", "perhaps\nn\n"], ids=["ctrl-c", "ctrl-d", "nonsense-and-no"])
def test_no_consent_at_a_terminal_writes_nothing_and_says_how_to_go_on(
    state: State, repository: Path, answer: str
) -> None:
    code, shown = asked_at_a_terminal(state, repository, answer)

    assert code == 2
    assert "nothing was run or written" in shown
    assert "Traceback" not in shown
    assert not (repository / "overnight.toml").exists()
    assert not state.root.exists()


@pytest.mark.parametrize("place", [".", "runs/first"])
def test_a_state_in_the_repository_is_refused(repository: Path, place: str) -> None:
    write_task(repository, task_file())

    with pytest.raises(StateError, match="lies in the repository, which a run never changes; name another --state"):
        init(State((repository / place).resolve()), repository)
    assert not (repository / "journal").exists()


def test_a_proposal_that_cannot_be_written_is_told(state: State, repository: Path) -> None:
    (repository / "overnight.toml").symlink_to("nowhere/overnight.toml")

    with pytest.raises(ShapeRefused, match=r"cannot write overnight.toml into .*: No such file or directory"):
        init(state, repository)


def test_findings_wrap_between_words_at_a_terminal_and_not_in_a_pipe() -> None:
    line = "no candidate may change: first.py, second.py"
    narrow = Console(width=30, record=True, force_terminal=True, file=io.StringIO())
    pipe = Console(width=30, record=True, file=io.StringIO())

    print_findings([line], narrow)
    print_findings([line], pipe)

    wrapped = [each.rstrip() for each in narrow.export_text().splitlines()]
    assert wrapped == ["  no candidate may change:", "  first.py, second.py"]
    assert pipe.export_text() == f"  {line}\n"


def test_the_end_of_the_input_is_a_no(state: State, repository: Path) -> None:
    done = subprocess.run(
        init_command(state, repository), check=False, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True
    )

    assert (done.returncode, b"add --yes" in done.stderr) == (2, True), done.stderr
    assert not (repository / "overnight.toml").exists()


def init_command(state: State, repository: Path) -> list[str]:
    options = ["--subject", str(repository), "--profile", "cpu", "--state", str(state.root)]
    return [sys.executable, "-m", "services.cli", "init", *options]


def asked_at_a_terminal(state: State, repository: Path, answer: str) -> tuple[int, str]:
    """Run `overnight init` at a terminal of its own, type the answer at its question, and return the exit code and the
    text. The answer is typed again if nothing follows: Python loses a Ctrl-C that comes just before it reads."""
    ours, theirs = pty.openpty()
    command = ["setsid", "--ctty", "--wait", "env", "--default-signal=INT", *init_command(state, repository)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown, typed = b"", False
    while True:
        is_quiet = not select.select([ours], [], [], 2)[0]
        if not is_quiet:
            if not (part := read_terminal(ours)):
                break
            shown += part
        if b"[y/N]: " in shown and (is_quiet or not typed):  # the last blank comes when the input is awaited
            os.write(ours, answer.encode())
            typed = True
    os.close(ours)
    return process.wait(), shown.decode()


def read_terminal(descriptor: int) -> bytes:
    """Return the next text of a terminal, empty after its last process."""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("other", "refusal"),
    [
        ({"edit": '"gone.py"'}, "overnight.toml, edit: gone.py is no file"),
        ({"readable": '["other"]'}, "overnight.toml, readable: other is not there"),
        ({"seconds": "0"}, "overnight.toml, seconds: 0 is not in 1 to 86400"),
        ({"seconds": "0", "seed": '"-"'}, "2 faults: (1) overnight.toml, seed"),
    ],
)
def test_a_fault_is_named_before_anything_is_written(
    state: State, repository: Path, other: dict[str, str], refusal: str
) -> None:
    write_task(repository, task_file(**other))

    with pytest.raises(ShapeRefused) as refused:
        init(state, repository)

    assert str(refused.value).startswith(refusal)
    assert not state.root.exists()


def test_data_that_score_are_not_readable_through_a_link(state: State, repository: Path) -> None:
    (repository / "data").rmdir()
    (repository / "data").symlink_to("hidden")
    score = '\n[score]\ncommand = ["python", "score.py"]\noutput = "output"\nreadable = ["hidden"]\n'
    write_task(repository, task_file() + score)

    with pytest.raises(ShapeRefused, match="the candidate could read"):
        init(state, repository)


def test_data_that_every_candidate_reads_do_not_score(state: State, repository: Path) -> None:
    score = f'\n[score]\ncommand = ["python", "score.py"]\noutput = "output"\nreadable = ["{sys.prefix}/bin"]\n'
    write_task(repository, task_file() + score)

    with pytest.raises(ShapeRefused, match=r"score.readable: every candidate can read"):
        init(state, repository)


def test_a_missing_package_is_named_with_the_command_that_installs_it(state: State, repository: Path) -> None:
    lacks = "import helpers\nimport skimage\ntry:\n    import cv2\nexcept ImportError:\n    cv2 = None\n"
    (repository / "solve.py").write_text(lacks + SOLVE)
    (repository / "helpers.py").write_text("")
    write_task(repository, task_file())

    with pytest.raises(ShapeRefused) as refused:
        init(state, repository)

    assert str(refused.value).startswith("overnight.toml, command: solve.py imports skimage, which is not here; ")
    assert str(refused.value).endswith("pip install scikit-image")


def test_an_uncommitted_task_is_refused_with_the_next_step(state: State, repository: Path) -> None:
    (repository / "overnight.toml").write_text(task_file())

    with pytest.raises(ShapeRefused, match=r"not in the last commit .* git add overnight.toml && git commit"):
        init(state, repository)


def test_a_start_refuses_another_task_and_another_pinned_file(state: State, repository: Path) -> None:
    write_task(repository, task_file())
    init(state, repository)
    choices = state.resolve(detect=lambda: "cpu")

    write_task(repository, task_file(seconds="6"))
    with pytest.raises(StateError, match="has changed"):
        settle_task(state, choices, begins=True)
    write_task(repository, task_file())
    (repository / "score.py").write_text("print('cost: 0')\n")
    commit(repository)
    with pytest.raises(
        ShapeRefused, match=r"has changed since it was pinned; restore it, or pin it again: score.py = [0-9a-f]{64}$"
    ):
        settle_task(state, choices, begins=True)


@pytest.mark.parametrize(
    ("before", "after", "difference"),
    [
        ('"cost"', '"price"', "metric.name was cost, and is price now"),
        ('"lower"', '"higher"', "metric.direction was lower, and is higher now"),
    ],
)
def test_a_run_of_another_metric_is_not_resumed_and_loses_nothing(
    state: State, repository: Path, before: str, after: str, difference: str
) -> None:
    write_task(repository, task_file())
    held, _ = init(state, repository)
    assert held is not None
    choices = state.resolve(detect=lambda: "cpu")
    story = Story(state.journal, metric=held.task.metric, degree=held.task.degree)
    story.baseline(9.0, 10.0)
    story.try_out("better", 8.0, Decision.KEEP)
    story.journal.close()
    kept = kept_by(state)

    write_task(repository, task_file().replace(before, after))
    resumed = subprocess.run(
        [sys.executable, "-m", "services.cli", "run", "--experiments", "9", "--state", str(state.root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "1000"},
    )

    assert resumed.returncode == 2
    assert f"overnight.toml of {repository} has changed: {difference}; the scores would not compare" in resumed.stderr
    assert kept_by(state) == kept
    write_task(repository, task_file())
    assert settle_task(state, choices, begins=False) == held


def kept_by(state: State) -> tuple[object, ...]:
    """Return all that a run consists of: experiments, trials, choices, settings and task."""
    with JournalReader(state.journal) as history:
        rows = (history.run(), tuple(history.experiments()), tuple(history.trials()))
    return (*rows, state.choices(), state.settings(), read_task_data(state.data))


def test_a_run_goes_on_without_the_repository(state: State, repository: Path) -> None:
    write_task(repository, task_file())
    held, _ = init(state, repository)
    choices = state.resolve(detect=lambda: "cpu")
    (repository / "overnight.toml").unlink()

    assert settle_task(state, choices, begins=False) == held
    with pytest.raises(ShapeRefused, match=r"has no overnight.toml any more"):
        settle_task(state, choices, begins=True)


def test_the_seconds_of_a_task_are_no_option(state: State, repository: Path) -> None:
    write_task(repository, task_file())
    init(state, repository)

    with pytest.raises(StateError, match=r"those of overnight.toml"):
        state.resolve(budget=30, detect=lambda: "cpu")
