"""Several runs in one state folder: one begins beside another, which stays whole; each is listed, shown, continued."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from researcher.errors import JournalError, SubjectError
from researcher.journal.database import WriterLock
from researcher.journal.reader import JournalReader
from researcher.journal.records import Run
from researcher.journal.writer import Journal
from researcher.report.view import percent
from researcher.repository.earlier_runs import require_only_state
from researcher.repository.publishing import UserRepository
from researcher.repository.recovery import begin_with, open_subject
from services.machine import runs
from services.machine.runs import delete, earlier_runs, finish_interrupted, run_in, set_aside, tag_of_another
from services.machine.state import CHOICES_FILE, SETTINGS_FILE, State, StateError
from services.machine.subject import repository_of
from tests.fixtures.disks import Disk
from tests.fixtures.loop_in_process import level, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from tests.fixtures.warm_processes import completed
from tests.scenarios.test_local_run import LocalRun, local_run, trials

__all__ = ["local_run"]


def git(path: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def overnight(*arguments: str, state: State) -> subprocess.CompletedProcess[str]:
    return completed("services.cli", *arguments, "--state", str(state.root), env=os.environ | {"COLUMNS": "200"})


def run_of(state: State) -> Run:
    found = run_in(state)
    assert found is not None
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without locks, the record of the folder's place, and the files of SQLite's readers."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.name not in ("lock", "place") and not path.name.endswith(("-shm", "-wal"))
    }


@pytest.fixture
def state(scripted_run: ScriptedRun) -> State:
    """A stopped run of two keeps, with results, a log, a queue and remembered settings."""
    found = State(scripted_run.journal.parent)
    found.resolve(profile="cpu", detect=lambda: "cpu")
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.7), level(1.6)])
    for name in ("trials/1.json", "logs/researcher.log", "redis/appendonlydir/base"):
        (found.root / name).parent.mkdir(parents=True)
        (found.root / name).write_text(name)
    (found.root / "redis" / "port").write_text("1")
    found.remember({"PROPOSER": "optimizer", "TAG": "night", "SEED": "7", "UNTIL": "2030-01-01", "EXPERIMENTS": "2"})
    return found


def test_a_run_that_is_set_aside_is_whole_and_shares_the_data(state: State) -> None:
    before, data = contents(state.root), contents(state.data)

    earlier = set_aside(state)

    assert earlier.root.parent == state.runs
    assert earlier.root.name.startswith("night-")
    moved = contents(earlier.root)
    kept = {
        name: text for name, text in before.items() if name.startswith(("data/", "redis/port", "password", "output"))
    }
    assert moved == {name: text for name, text in before.items() if name not in kept}
    assert contents(state.root) == kept | {f"runs/{earlier.root.name}/{name}": text for name, text in moved.items()}
    assert earlier.data == state.data.resolve()
    assert contents(earlier.data) == data
    assert not state.has_begun
    state.resolve(profile="24gb", budget=9.0, detect=lambda: "cpu")


def test_an_earlier_run_is_shown_by_every_command_and_continued(state: State, scripted_run: ScriptedRun) -> None:
    before = overnight("log", "--tsv", state=state).stdout
    earlier = set_aside(state)

    assert overnight("log", "--tsv", state=earlier).stdout == before
    assert "LEVEL" in overnight("diff", "2", state=earlier).stdout
    assert overnight("export", "--to", str(state.root / "out"), state=earlier).returncode == 0
    assert overnight("status", state=state).returncode == 2
    code = scripted_run.start_researcher(
        SUBJECT_DIR=earlier.subject, JOURNAL_DIR=earlier.journal, DATA_DIR=earlier.data, EXPERIMENTS=3, LLM="none"
    ).wait(60)
    assert code == 0, scripted_run.output()[-2000:]
    with JournalReader(earlier.journal) as history:
        assert history.measured_count() == 3


def test_runs_are_listed_with_their_results_and_without_one_there_is_the_next_step(
    state: State, tmp_path: Path
) -> None:
    earlier = set_aside(state)
    shutil.copytree(earlier.journal, state.journal)

    listed = json.loads(overnight("runs", "--json", state=state).stdout)
    table = overnight("runs", state=state).stdout
    none = overnight("runs", state=State(tmp_path / "empty"))

    assert [each["folder"] for each in listed] == [str(earlier.root), str(state.root)]
    first = listed[0]
    assert (first["tag"], first["state"], first["experiments"]) == ("night", "ended", 2)
    assert first["best"] == pytest.approx(1.6, abs=0.01)
    assert first["gain"] == pytest.approx(0.2, abs=0.02)
    assert first["gain_share"] == pytest.approx(first["gain"] / 1.8, rel=0.01)
    assert percent(first["gain_share"]) in table
    assert f"night: --state {earlier.root}" in table
    assert none.returncode == 2
    assert "overnight run" in none.stderr


def test_a_run_whose_journal_is_damaged_is_named_beside_the_others(state: State) -> None:
    earlier = set_aside(state)
    shutil.copytree(earlier.journal, state.journal)
    (earlier.journal / "journal.db").write_bytes(b"no database" * 100)

    listed = overnight("runs", "--json", state=state)

    assert [each["folder"] for each in json.loads(listed.stdout)] == [str(state.root)]
    assert f"the journal {earlier.journal / 'journal.db'} is damaged" in listed.stderr
    assert tag_of_another(state, "third", ()) == "third"


def test_a_run_is_deleted_with_nothing_else(state: State, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    shutil.copytree(state.subject, theirs)
    earlier = set_aside(state)
    shutil.copytree(earlier.journal, state.journal)
    shutil.copytree(theirs, state.subject)
    before = {folder: contents(folder) for folder in (earlier.root, state.data, theirs)}

    delete(state)

    assert not state.journal.exists()
    assert not state.subject.exists()
    assert [each.root for each in earlier_runs(state)] == [earlier.root]
    assert {folder: contents(folder) for folder in before} == before


@pytest.mark.parametrize("number", range(1, 7))
def test_a_move_that_was_killed_is_finished_by_the_next_start(
    state: State, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(state.root)
    rename, calls = Path.rename, iter(range(1, 100))

    def killed(path: Path, target: Path) -> Path:
        if next(calls) == number:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        set_aside(state)
    monkeypatch.undo()

    finish_interrupted(state)

    (earlier,) = earlier_runs(state)
    after = contents(state.root)
    assert {name.removeprefix(f"runs/{earlier.root.name}/"): text for name, text in after.items()} == before
    assert run_of(earlier).tag == "night"
    assert not state.has_begun


def test_a_deletion_that_was_killed_is_finished_by_the_next_start(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs.shutil, "rmtree", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        delete(state)
    monkeypatch.undo()

    finish_interrupted(state)

    assert list(state.runs.iterdir()) == []


def test_a_part_that_cannot_be_moved_leaves_the_run_as_it_was(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    before, rename = contents(state.root), Path.rename

    def from_another_disk(path: Path, target: Path) -> Path:
        if path == state.root / "logs":
            raise OSError(18, "Invalid cross-device link")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", from_another_disk)
    with pytest.raises(StateError, match=r"cannot be moved .*cross-device"):
        set_aside(state)

    assert contents(state.root) == before
    assert list(state.runs.iterdir()) == []


def test_a_run_on_which_a_researcher_works_is_not_moved(state: State) -> None:
    lock = WriterLock(state.journal)
    lock.sign(4321)

    with pytest.raises(JournalError, match="pid 4321"):
        set_aside(state)

    assert state.has_begun
    lock.release()


def test_a_run_of_an_earlier_version_takes_its_repository_along(state: State) -> None:
    path = state.journal / CHOICES_FILE
    path.write_text(path.read_text().replace('"subject": "subject"', f'"subject": "{state.subject}"'))

    earlier = set_aside(state)

    assert earlier.user_repository(earlier.require_run()) is None
    assert repository_of(earlier) == earlier.subject


def test_an_earlier_run_that_is_copied_elsewhere_prepares_data_of_its_own(state: State, tmp_path: Path) -> None:
    earlier = set_aside(state)
    copy = State(tmp_path.parent / f"{tmp_path.name}-copy" / "deep" / "run")
    shutil.copytree(earlier.root, copy.root, symlinks=True)

    copy.resolve(detect=lambda: "cpu")

    assert copy.data == copy.root / "data"
    assert not copy.data.is_symlink()


def test_a_copy_of_an_earlier_run_never_pushes_beside_it(state: State, tmp_path: Path) -> None:
    require_only_state(state.journal, run_of(state), tmp_path / "theirs")
    earlier = set_aside(state)
    shutil.copytree(earlier.journal, tmp_path / "copy")

    with pytest.raises(JournalError, match=f"is a copy of {earlier.journal}"):
        require_only_state(tmp_path / "copy", run_of(earlier), tmp_path / "theirs")
    require_only_state(earlier.journal, run_of(earlier), tmp_path / "theirs")


def test_another_run_has_a_tag_that_neither_a_run_here_nor_a_branch_has(state: State) -> None:
    day = time.strftime("%b%d").lower()
    assert tag_of_another(state, "night", (), is_deleted=True) == "night"
    earlier = set_aside(state)

    assert tag_of_another(state, "second", ()) == "second"
    assert tag_of_another(state, None, ()) == day
    assert tag_of_another(state, None, {f"overnight/{day}"}) == f"{day}-2"
    with pytest.raises(StateError, match=f"{earlier.root} holds run night"):
        tag_of_another(state, "night", ())
    with pytest.raises(SubjectError, match="the branch overnight/second is in the way"):
        tag_of_another(state, "second", {"overnight/second"})


def test_settings_go_over_to_another_run_without_those_of_one_run(state: State) -> None:
    settings = state.settled({"EXPERIMENTS": "4"}, another_run=True)

    assert settings.values == {"PROPOSER": "optimizer", "EXPERIMENTS": "4"}
    assert settings.changes == ("EXPERIMENTS was 2, and is 4 now",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--new", "--wipe"], "give one of them"),
        (["--from-best"], "add --new"),
        (["--wipe", "--yes", "--from-best"], "add --new"),
        (["--new", "--tag", "night"], "holds run night"),
        (["--tag", "two words"], "two words"),
        (["--new", "--profile", "9000gb"], "9000gb"),
    ],
    ids=" ".join,
)
def test_another_run_that_cannot_begin_leaves_the_one_that_is_here(
    state: State, arguments: list[str], said: str
) -> None:
    before = contents(state.root)

    done = overnight("run", *arguments, state=state)

    assert done.returncode == 2
    assert said in done.stderr
    assert contents(state.root) == before


def test_no_other_run_begins_within_an_earlier_one(state: State) -> None:
    done = overnight("run", "--new", state=set_aside(state))

    assert done.returncode == 2
    assert f"begin another run with --state {state.root}" in done.stderr


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_nothing_is_deleted_without_a_yes(state: State, answer: str) -> None:
    before = contents(state.root)

    done = subprocess.run(
        [sys.executable, "-m", "services.cli", "run", "--wipe", "--state", str(state.root)],
        input=answer, capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode != 0
    assert "Delete run night" in done.stdout
    assert "2 measured experiments" in done.stdout
    assert "nothing was deleted" in done.stderr
    assert contents(state.root) == before


def test_a_run_begins_with_the_best_version_of_the_one_before_although_the_user_is_elsewhere(
    scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    theirs = scripted_run.subject.rename(tmp_path / "theirs")
    state = State(scripted_run.journal.parent)
    state.resolve(profile="cpu", subject=theirs, detect=lambda: "cpu")
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.7)], user=theirs)
    head = git(theirs, "rev-parse", "HEAD")

    earlier = set_aside(state)
    first = run_of(earlier)
    with JournalReader(earlier.journal) as history:
        best = history.experiment(first.incumbent or 0).commit_sha
    assert best is not None
    begin_with(state.subject, repository_of(earlier), best)
    code = scripted_run.start_researcher(
        LLM="none", USER_REPOSITORY=theirs, TAG="second", EXPERIMENTS=1, PROFILE="cpu"
    ).wait(60)

    assert code == 0, scripted_run.output()[-2000:]
    assert run_of(state).base_commit == best != head
    assert git(theirs, "rev-parse", "HEAD") == head
    assert {"overnight/night", "overnight/second"} <= set(git(theirs, "branch", "--format=%(refname:short)").split())
    with closing(Journal(tmp_path / "third")) as journal:
        assert open_subject(tmp_path / "own", journal, UserRepository(theirs)).head() == head


@pytest.mark.parametrize("was_killed", [False, True], ids=["ended", "killed"])
def test_results_are_exported_from_a_state_that_can_only_be_read(
    state: State, tmp_path: Path, was_killed: bool
) -> None:
    """As `scripts/results` reads the volumes of a stopped stack. A killed run leaves the journal's `-wal` file."""
    disk = Disk(tmp_path / "disk", "64m")
    with closing(Journal(state.journal)) if was_killed else nullcontext() as journal:
        if journal is not None:
            journal.begin(run_of(state), 2.0)
        shutil.copytree(state.root, disk.folder / "state", ignore=shutil.ignore_patterns("disk"))
    wal = disk.folder / "state" / "journal" / "journal.db-wal"
    assert (wal.exists() and wal.stat().st_size > 0) == was_killed
    disk.make_read_only()

    command = ["export", "--to", str(tmp_path / "out"), "--state", str(disk.folder / "state")]
    done = subprocess.run([sys.executable, "-m", "services.cli", *command], capture_output=True, text=True, check=False)
    disk.remove()

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "results.tsv").read_text().count("\n") == 4
    assert git(tmp_path / "out", "bundle", "list-heads", "subject.bundle")


@pytest.mark.slow
def test_a_second_tag_begins_a_second_run_on_the_same_data_and_the_first_goes_on_later(local_run: LocalRun) -> None:
    state = State(local_run.state)
    local_run.start("--tag", "first", "--experiments", "1")
    local_run.wait_until(trials(1))
    local_run.end()
    local_run.wait_for_silence()
    manifest = (state.data / "manifest.json").stat()

    local_run.start("--tag", "second", "--budget", "0.4")
    local_run.wait_until(lambda history: history.run() is not None and run_of(state).tag == "second")
    local_run.wait_until(trials(1))
    local_run.end()
    local_run.wait_for_silence()

    (earlier,) = earlier_runs(state)
    assert f"run first is kept in {earlier.root}; this start begins run second" in local_run.output.read_text()
    assert (state.data / "manifest.json").stat() == manifest
    assert (run_of(earlier).tag, run_of(earlier).budget, run_of(state).budget) == ("first", 0.5, 0.4)
    assert json.loads((state.journal / SETTINGS_FILE).read_text())["EXPERIMENTS"] == "1"
    local_run.state = earlier.root
    local_run.start()
    local_run.wait_until(trials(2))
    local_run.end()


@pytest.mark.slow
def test_a_run_begins_with_the_best_version_or_in_place_of_one_that_is_deleted(local_run: LocalRun) -> None:
    state = State(local_run.state)
    local_run.start("--experiments", "1")
    local_run.wait_until(lambda history: (run := history.run()) is not None and run.incumbent is not None)
    local_run.end()
    local_run.wait_for_silence()
    first = run_of(state)

    local_run.start("--new", "--from-best")
    local_run.wait_until(lambda history: (run := history.run()) is not None and run.tag == f"{first.tag}-2")
    local_run.end()
    local_run.wait_for_silence()
    second = run_of(state)
    local_run.start("--wipe", "--yes")
    local_run.wait_until(lambda history: (run := history.run()) is not None and run.created_at > second.created_at)
    local_run.end()

    (earlier,) = earlier_runs(state)
    assert run_of(earlier) == first
    assert second.base_commit == first.base_commit
    assert run_of(state).base_commit != first.base_commit
    assert f"run {second.tag} is deleted; this start begins run {second.tag}" in local_run.output.read_text()
