"""A backup holds the run whole or is refused, and a place that fails keeps the backup before."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from researcher.errors import BackupError, BadValue
from researcher.journal.reader import JournalReader
from researcher.journal.records import Run
from researcher.loop.status import BACKUP
from researcher.repository.backup import backup_name, backups_at, find_backup, unpack_backup, write_backup
from researcher.repository.backup_place import FolderPlace, RclonePlace, checked_place, place_of
from researcher.repository.git_command import refs_of, run_git
from services.machine.backup import restore_run
from services.machine.state import State, StateError
from services.views.terminal import console
from tests import TESTS
from tests.fixtures.disks import Disk
from tests.fixtures.loop_in_process import level, run_listed
from tests.fixtures.scripted_run import ScriptedRun
from tests.fixtures.trials import wait_for

DOUBLE = TESTS / "doubles" / "folder_rclone.py"
AT = 1_700_000_000.0


@pytest.fixture
def ended_run(scripted_run: ScriptedRun) -> ScriptedRun:
    """A run with a keep, a discard and settings, which has ended."""
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.7), level(1.75)])
    (scripted_run.journal / "settings.json").write_text('{"PROPOSER": "optimizer"}')
    return scripted_run


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk", "8m")
    yield made
    made.remove()


@pytest.fixture(params=["rclone", "double of rclone"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder behind the remote `box:`, for rclone itself where it is installed, and for its double."""
    if request.param == "rclone" and shutil.which("rclone") is None:
        pytest.skip("rclone is not installed")
    folder = tmp_path / "remotes" / "box"
    folder.mkdir(parents=True)
    if request.param == "rclone":
        monkeypatch.setenv("RCLONE_CONFIG_BOX_TYPE", "alias")
        monkeypatch.setenv("RCLONE_CONFIG_BOX_REMOTE", str(folder))
    else:
        put_double_on_path(tmp_path, monkeypatch)
    return folder


def put_double_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "rclone").symlink_to(DOUBLE)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("RCLONE_FOLDERS", str(tmp_path / "remotes"))


def run_of(journal: Path) -> Run:
    with JournalReader(journal) as history:
        run = history.run()
    assert run is not None
    return run


def measured(journal: Path) -> int:
    with JournalReader(journal) as history:
        return history.measured_count()


def rows(journal: Path) -> list[str]:
    with closing(sqlite3.connect(journal / "journal.db")) as database:
        return list(database.iterdump())


def back_up(run: ScriptedRun, folder: Path) -> Path:
    return folder / write_backup(run.journal, run.subject, FolderPlace(folder), AT)


def unpacked(archive: Path, folder: Path) -> State:
    folder.mkdir()
    unpack_backup(archive, folder / "journal", folder / "subject")
    return State(folder)


def test_a_backup_holds_the_journal_the_settings_and_every_commit_that_the_journal_knows(
    ended_run: ScriptedRun, tmp_path: Path
) -> None:
    refs = refs_of(ended_run.subject, "refs/")
    run_git(ended_run.subject, "update-ref", "refs/overnight/night/99", "HEAD")

    archive = back_up(ended_run, tmp_path / "place")
    state = unpacked(archive, tmp_path / "restored")

    assert archive.stat().st_mode & 0o777 == 0o600
    assert rows(state.journal) == rows(ended_run.journal)
    assert (state.journal / "settings.json").read_text() == '{"PROPOSER": "optimizer"}'
    assert refs_of(state.subject, "refs/") == refs
    assert run_git(state.subject, "status", "--porcelain") == b""
    assert not (ended_run.journal / ".backup").exists()


def test_a_damaged_backup_restores_nothing_or_everything(ended_run: ScriptedRun, tmp_path: Path) -> None:
    archive, draw = back_up(ended_run, tmp_path / "place"), random.Random(7)
    whole, wanted = archive.read_bytes(), rows(ended_run.journal)
    positions = [len(whole) // 2, *draw.sample(range(len(whole)), 20)]
    spoiled = [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in positions]
    spoiled += [whole[:at] for at in (0, 1, len(whole) // 3, len(whole) - 2000)]
    refused = 0

    for number, content in enumerate(spoiled):
        archive.write_bytes(content)
        folder = tmp_path / f"restored-{number}"
        try:
            unpacked(archive, folder)
        except BackupError:
            refused += 1
        else:
            assert rows(folder / "journal") == wanted

    assert refused > len(spoiled) - 5


def test_a_file_that_was_exchanged_in_a_backup_is_refused(ended_run: ScriptedRun, tmp_path: Path) -> None:
    shutil.unpack_archive(back_up(ended_run, tmp_path / "place"), tmp_path / "content")
    (tmp_path / "content" / "settings.json").write_text('{"PROPOSER": "llm"}')

    with pytest.raises(BackupError, match=r"is damaged \(settings.json is not what was backed up\)"):
        unpacked(packed(tmp_path / "content", tmp_path / "again.tar.gz"), tmp_path / "restored")


def test_a_backup_of_a_newer_version_and_one_that_names_another_folder_are_refused(
    ended_run: ScriptedRun, tmp_path: Path
) -> None:
    archive = back_up(ended_run, tmp_path / "place")
    shutil.unpack_archive(archive, tmp_path / "content")
    manifest = json.loads((tmp_path / "content" / "manifest.json").read_text())

    for change, words in (
        ({"format": 2}, "upgrade Overnight"),
        ({"files": {"../outside": ""}}, "is no name of a file"),
    ):
        (tmp_path / "content" / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(BackupError, match=words):
            unpacked(packed(tmp_path / "content", tmp_path / "again.tar.gz"), tmp_path / words)


def packed(content: Path, archive: Path) -> Path:
    subprocess.run(["tar", "-C", content, "-czf", archive, *os.listdir(content)], check=True)
    return archive


def test_a_full_disk_at_the_place_keeps_the_backup_before(ended_run: ScriptedRun, tmp_path: Path, disk: Disk) -> None:
    archive = back_up(ended_run, disk.folder / "place")
    before = archive.read_bytes()
    disk.fill()

    with pytest.raises(BackupError, match=r"No space left on device.*make room there"):
        back_up(ended_run, disk.folder / "place")

    assert [path.read_bytes() for path in archive.parent.iterdir()] == [before]
    assert rows(unpacked(archive, tmp_path / "restored").journal) == rows(ended_run.journal)


@pytest.mark.parametrize("fault", ["full", "half"])
def test_a_remote_that_fails_keeps_the_backup_before(
    ended_run: ScriptedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    put_double_on_path(tmp_path, monkeypatch)
    name = write_backup(ended_run.journal, ended_run.subject, RclonePlace("box:"), AT)
    shutil.copytree(tmp_path / "remotes" / "box", tmp_path / "remotes" / fault)
    before = (tmp_path / "remotes" / fault / name).read_bytes()

    with pytest.raises(
        BackupError, match=r"rclone copyto: Failed to copyto: (quota exceeded|connection reset by peer)"
    ):
        write_backup(ended_run.journal, ended_run.subject, RclonePlace(f"{fault}:"), AT)

    assert (tmp_path / "remotes" / fault / name).read_bytes() == before
    assert find_backup(RclonePlace(f"{fault}:"), fault) == name


def test_a_backup_goes_to_a_remote_and_back(ended_run: ScriptedRun, tmp_path: Path, remote: Path) -> None:
    assert backups_at(place_of("rclone:box:runs"), "box") == []
    for _ in range(2):
        name = write_backup(ended_run.journal, ended_run.subject, place_of("rclone:box:runs"), AT)

    assert [path.name for path in (remote / "runs").iterdir()] == [name]
    restore_run(State(tmp_path / "restored"), "rclone:box:runs", None, None, console)
    assert rows(tmp_path / "restored" / "journal") == rows(ended_run.journal)


def test_rclone_that_is_missing_is_named_with_the_command_that_installs_it(
    ended_run: ScriptedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(programs))

    with pytest.raises(BackupError, match=r"rclone is not on PATH; sudo apt-get install rclone"):
        write_backup(ended_run.journal, ended_run.subject, RclonePlace("box:"), AT)


@pytest.mark.parametrize("text", ["rclone::s3,secret=x:bucket", "rclone:runs", "runs", "", "rclone:"])
def test_a_text_that_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match="is no place for a backup"):
        checked_place(text)


def test_a_place_with_several_backups_asks_for_the_name(ended_run: ScriptedRun, tmp_path: Path) -> None:
    archive = back_up(ended_run, tmp_path / "place")
    shutil.copyfile(archive, archive.with_name("overnight-other-20260101T000000.tar.gz"))

    with pytest.raises(BackupError, match=r"holds overnight-night-.*, overnight-other-.*--name"):
        find_backup(FolderPlace(archive.parent), "place")
    with pytest.raises(BackupError, match="holds no backup"):
        find_backup(FolderPlace(tmp_path / "remotes" if (tmp_path / "remotes").exists() else tmp_path), "place")

    restore_run(State(tmp_path / "restored"), str(archive), None, None, console)
    assert archive.name == backup_name(run_of(tmp_path / "restored" / "journal"))


def test_a_state_with_a_run_is_not_overwritten_and_a_killed_restore_is_begun_again(
    ended_run: ScriptedRun, tmp_path: Path
) -> None:
    archive = back_up(ended_run, tmp_path / "place")
    state = State(tmp_path / "restored")
    with pytest.raises(StateError, match="holds a run, which is not overwritten"):
        restore_run(State(ended_run.journal.parent), str(archive), None, None, console)

    restore_run(state, str(archive), None, None, console)
    wanted = rows(state.journal)
    (state.root / ".restoring").mkdir()
    state.journal.rename(state.root / ".restoring" / "journal")  # a kill after the repository's move leaves this
    restore_run(state, str(archive), None, None, console)

    assert rows(state.journal) == wanted
    assert not (state.root / ".restoring").exists()
    state.journal.rename(tmp_path / "moved")
    with pytest.raises(StateError, match="is there without a journal"):
        restore_run(state, str(archive), None, None, console)


def test_a_restore_names_what_is_missing_on_this_machine(ended_run: ScriptedRun, tmp_path: Path) -> None:
    user, state = tmp_path / "mine", State(tmp_path / "restored")
    choices = {"profile": "cpu", "budget": None, "subject": str(user), "text": str(tmp_path / "text")}
    (ended_run.journal / "night.json").write_text(json.dumps(choices | {"constants": {"MAX_SEQ_LEN": 64}}))
    archive = str(back_up(ended_run, tmp_path / "place"))

    with pytest.raises(StateError, match=r"your repository .*mine is not here"):
        restore_run(state, archive, None, None, console)
    (tmp_path / "elsewhere").mkdir()
    with pytest.raises(StateError, match=r"your text .*text is not here"):
        restore_run(state, archive, None, tmp_path / "elsewhere", console)
    (tmp_path / "text").mkdir()
    with pytest.raises(StateError, match=r"overnight init --subject .*elsewhere"):
        restore_run(state, archive, None, tmp_path / "elsewhere", console)
    state.data.mkdir()
    (state.data / "manifest.json").write_text("{}")
    restore_run(state, archive, None, tmp_path / "elsewhere", console)

    assert state.require_run().subject == str(tmp_path / "elsewhere")


def test_after_every_decision_the_backup_holds_it_and_a_wiped_run_goes_on_from_there(
    scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    place, state = tmp_path / "place", State(scripted_run.journal.parent)
    scripted_run.start_trainer()
    first = scripted_run.start_researcher(BACKUP=place)
    scripted_run.wait_until(lambda history: history.measured_count() >= 1, "an experiment")
    archive = place / backup_name(run_of(state.journal))
    looks = (tmp_path / f"look-{number}" for number in itertools.count())
    wait_for(lambda: archive.exists() and measured(unpacked(archive, next(looks)).journal) >= 2, 60)
    first.send_signal(signal.SIGKILL)
    first.wait(10)
    reached = measured(state.journal)
    for folder in (state.journal, state.subject):
        shutil.rmtree(folder)
    scripted_run.bus.connection.flushall()
    scripted_run.start_trainer()

    restore_run(state, str(place), None, None, console)
    restored = measured(state.journal)
    code = scripted_run.start_researcher(BACKUP=place, EXPERIMENTS=reached + 1).wait(60)

    assert code == 0, scripted_run.output()[-3000:]
    assert restored >= 2
    assert "is written" in scripted_run.output()
    last = unpacked(archive, tmp_path / "last")
    assert rows(last.journal) == rows(state.journal)
    assert measured(last.journal) == reached + 1
    assert run_of(last.journal).ended is not None, "the end of the run is in its last backup"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (lambda folder: folder / "missing" / "place", "No such file or directory"),
        (lambda _: "rclone:full:runs", "quota exceeded"),
    ],
    ids=["no folder", "full remote"],
)
def test_a_backup_that_fails_is_on_status_and_ends_and_holds_nothing(
    wide_run: ScriptedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: Callable[[Path], object],
    words: str,
) -> None:
    put_double_on_path(tmp_path, monkeypatch)
    wide_run.start_trainer()
    researcher = wide_run.start_researcher(BACKUP=place(tmp_path))

    def shown() -> str:
        status = wide_run.bus.doing(BACKUP)
        return "" if status is None else status.message

    wait_for(lambda: words in shown(), 60)
    before = measured(wide_run.journal)
    wide_run.wait_until(lambda history: history.measured_count() > before, "a further experiment")

    assert "no backup is there yet; tried again after the next decision" in shown()
    assert researcher.poll() is None


@pytest.mark.slow
def test_a_remote_that_never_answers_holds_neither_the_run_nor_for_long_its_end(
    scripted_run: ScriptedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_double_on_path(tmp_path, monkeypatch)
    scripted_run.start_trainer()

    code = scripted_run.start_researcher(BACKUP="rclone:silent:runs", EXPERIMENTS=3).wait(90)

    assert code == 0, scripted_run.output()[-3000:]
    assert "the last backup is not finished" in scripted_run.output()
