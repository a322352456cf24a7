"""State folders on bad days: a lost journal, a copy, a move, two states on one subject, a new state on an old one's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from researcher.errors import JournalError, SubjectError
from researcher.journal.database import JOURNAL_FILE, SUBJECT_LOCK, WriterLock
from researcher.journal.reader import JournalReader
from researcher.journal.records import Run
from researcher.journal.writer import Journal
from researcher.loop.context import Goal
from researcher.loop.loop import step, sync_with_journal
from researcher.repository.creation import create_repository
from researcher.repository.earlier_runs import COPY, first_commit, require_no_lost_journal, require_only_state
from researcher.repository.publishing import UserRepository
from researcher.repository.recovery import open_subject
from services.machine.state import CHOICES_FILE, State
from services.machine.subject import repository_of
from tests.fixtures.loop_in_process import level, opened, run_listed
from tests.fixtures.scripted_run import FILES, ScriptedRun


def git(path: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(path), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def run_of(folder: Path) -> Run:
    with JournalReader(folder) as history:
        found = history.run()
    assert found is not None
    return found


def lose_file(state: State) -> None:
    (state.journal / JOURNAL_FILE).unlink()


def copy_without_wal(state: State) -> None:
    """As an earlier version left it: all steps in the `-wal` file, which was not copied."""
    (state.journal / JOURNAL_FILE).write_bytes(b"")


def start_over(state: State) -> None:
    """The empty journal of a start that was made without looking."""
    lose_file(state)
    Journal(state.journal).close()


def lose_folder(state: State) -> None:
    shutil.rmtree(state.journal)
    state.journal.mkdir()


LOSSES = (lose_file, copy_without_wal, start_over, lose_folder)


@pytest.fixture
def state(scripted_run: ScriptedRun) -> State:
    """A stopped run with one keep. The candidate that it has checked out was never measured."""
    found = State(scripted_run.journal.parent)
    found.resolve(profile="cpu", detect=lambda: "cpu")
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.7)])
    with opened(scripted_run, [level(1.6)], goal=Goal(9)) as run_context:
        sync_with_journal(run_context)
        while git(found.subject, "rev-parse", "HEAD") == run_context.incumbent_commit():
            step(run_context)
    return found


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_a_state_whose_journal_is_lost_begins_no_new_run_and_says_what_is_missing(
    loss: Callable[[State], None], state: State
) -> None:
    loss(state)
    choices = state.choices()

    with pytest.raises(
        JournalError, match=f"{JOURNAL_FILE} is missing or holds no run, but a run left .*refs/overnight"
    ):
        state.resolve(profile="cpu", budget=5.0, detect=lambda: "cpu")
    with pytest.raises(JournalError, match=r"put journal\.db back"):
        state.require_run()

    assert state.choices() == choices


def test_a_researcher_without_its_journal_but_with_the_marks_beside_it_is_refused(
    state: State, scripted_run: ScriptedRun
) -> None:
    lose_file(state)

    code = scripted_run.start_researcher(LLM="none", EXPERIMENTS=1, TAG="second", PROFILE="cpu").wait(60)

    assert code == 2
    assert f"a run left {state.journal / COPY}" in scripted_run.output().splitlines()[-1]


def test_a_folder_in_which_only_the_data_were_prepared_begins_a_run(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    create_repository(state.subject, FILES | {"results.tsv": "of the user\n"}, "s")
    state.resolve(profile="cpu", detect=lambda: "cpu")

    require_no_lost_journal(state.journal, state.subject)


@pytest.mark.parametrize("move", [shutil.copytree, shutil.move], ids=["copied", "moved"])
def test_a_state_in_another_place_works_on_its_own_repository(
    move: Callable[[Path, Path], object], state: State, tmp_path: Path
) -> None:
    move(state.root, tmp_path.parent / f"{tmp_path.name}-elsewhere")
    there = State(tmp_path.parent / f"{tmp_path.name}-elsewhere")

    choices = there.resolve(detect=lambda: "cpu")

    assert there.user_repository(choices) is None
    assert repository_of(there) == there.subject


def test_choices_of_an_earlier_version_name_the_same_repository(state: State) -> None:
    path = state.journal / CHOICES_FILE
    path.write_text(path.read_text().replace('"subject": "subject"', f'"subject": "{state.subject}"'))

    choices = state.resolve(detect=lambda: "cpu")

    assert state.user_repository(choices) is None


def test_a_copy_that_would_push_the_same_run_is_refused_until_the_original_is_gone(
    state: State, tmp_path: Path
) -> None:
    run, theirs, copy = run_of(state.journal), tmp_path / "theirs", tmp_path / "copy"
    require_only_state(state.journal, run, theirs)
    shutil.copytree(state.journal, copy)

    with pytest.raises(JournalError, match=f"{copy} is a copy of {state.journal}, and both would push run night to"):
        require_only_state(copy, run, theirs)
    require_only_state(state.journal, run, theirs)
    state.journal.rename(tmp_path / "gone")

    require_only_state(copy, run, theirs)


def test_a_state_that_is_reached_by_another_path_is_no_copy(state: State, tmp_path: Path) -> None:
    run, theirs = run_of(state.journal), tmp_path / "theirs"
    require_only_state(state.journal, run, theirs)
    moved = state.journal.rename(tmp_path / "moved")
    state.journal.symlink_to(moved)

    require_only_state(moved, run, theirs)


def test_a_second_researcher_on_the_same_repository_is_refused_with_the_pid_of_the_first(
    state: State, scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    first = WriterLock(state.subject, SUBJECT_LOCK)
    first.sign(4321)

    code = scripted_run.start_researcher(LLM="none", JOURNAL_DIR=tmp_path / "another", PROFILE="cpu").wait(60)

    assert code == 2
    assert f"another researcher (pid 4321) works on {state.subject}" in scripted_run.output().splitlines()[-1]
    first.release()


def test_a_new_state_on_the_repository_of_a_stopped_run_begins_with_what_that_run_kept(
    state: State, scripted_run: ScriptedRun, tmp_path: Path
) -> None:
    with JournalReader(state.journal) as history:
        before = run_of(state.journal)
        assert before.incumbent is not None
        kept = history.experiment(before.incumbent).commit_sha

    code = scripted_run.start_researcher(
        LLM="none", JOURNAL_DIR=tmp_path / "another", TAG="second", EXPERIMENTS=1, PROFILE="cpu"
    ).wait(60)

    assert code == 0, scripted_run.output()[-2000:]
    assert run_of(tmp_path / "another").base_commit == kept
    assert "a candidate of the stopped run overnight/night; the new run begins with" in scripted_run.output()


def test_a_state_of_the_users_own_repository_begins_with_what_the_stopped_run_there_kept(
    state: State, tmp_path: Path
) -> None:
    with closing(Journal(tmp_path / "another")) as journal:
        workspace = open_subject(tmp_path / "own", journal, UserRepository(state.subject))

    assert workspace.head() == first_commit(state.subject) != git(state.subject, "rev-parse", "HEAD")
    workspace.close()


def test_a_branch_that_a_user_made_of_a_candidate_is_taken_as_it_is(state: State) -> None:
    git(state.subject, "checkout", "--quiet", "-b", "mine")

    assert first_commit(state.subject) == git(state.subject, "rev-parse", "HEAD")


def test_a_repository_without_a_commit_or_none_at_all_is_refused(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "empty")

    with pytest.raises(SubjectError, match="no commit yet"):
        first_commit(tmp_path / "empty")
    with pytest.raises(SubjectError, match="cannot be read"):
        first_commit(tmp_path)


@pytest.fixture
def theirs(scripted_run: ScriptedRun) -> Path:
    """The repository becomes a user's, and the run makes its own."""
    return scripted_run.subject.rename(scripted_run.subject.with_name("theirs"))


@pytest.fixture
def restored(scripted_run: ScriptedRun, theirs: Path, tmp_path: Path) -> dict[str, str]:
    """A run of two more keeps than its journal knows, which comes from a backup. Returns the refs of the lost time."""
    scripted_run.start_trainer()
    run_listed(scripted_run, [level(1.75)], user=theirs)
    shutil.copytree(scripted_run.journal, tmp_path / "backup")
    run_listed(scripted_run, [level(1.7), level(1.6)], user=theirs)
    shutil.rmtree(scripted_run.journal)
    (tmp_path / "backup").rename(scripted_run.journal)
    return {number: git(scripted_run.subject, "rev-parse", f"refs/overnight/night/{number}") for number in ("2", "3")}


def test_a_journal_older_than_git_is_said_and_the_refs_and_tags_of_the_lost_time_are_set_aside(
    restored: dict[str, str], scripted_run: ScriptedRun, theirs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = git(theirs, "rev-parse", "confirmed/1")

    run_listed(scripted_run, [level(1.72)], user=theirs)

    assert "the journal is older than git" in caplog.text
    for repository in (scripted_run.subject, theirs):
        for number, sha in restored.items():
            assert git(repository, "rev-parse", f"refs/overnight-aside/night/1/{number}") == sha
        assert git(repository, "rev-parse", "aside/night/1/3") == restored["3"]
        assert git(repository, "rev-parse", "confirmed/1") == before
        assert git(repository, "rev-parse", "refs/overnight/night/2") not in restored.values()
        assert git(repository, "log", "--format=%s", "overnight/night").splitlines()[1:] == ["as listed", "s"]
        assert "confirmed/3" not in git(repository, "tag").splitlines()


def test_a_restored_journal_is_shown_until_a_user_deletes_what_it_does_not_know(
    restored: dict[str, str], scripted_run: ScriptedRun, theirs: Path
) -> None:
    with opened(scripted_run, [], user=theirs) as run_context:
        sync_with_journal(run_context)
        sync_with_journal(run_context)
        assert "refs that it does not know are kept as refs/overnight-aside/night/1/" in run_context.workspace.inspect()
        aside = ("refs/overnight-aside/", "refs/tags/aside/")
        for name in git(scripted_run.subject, "for-each-ref", "--format=%(refname)", *aside).split():
            git(scripted_run.subject, "update-ref", "-d", name)
    with opened(scripted_run, [], user=theirs) as run_context:
        sync_with_journal(run_context)
        assert run_context.workspace.inspect() == ""


def test_a_second_restore_replaces_nothing_of_the_first(
    restored: dict[str, str], scripted_run: ScriptedRun, theirs: Path, tmp_path: Path
) -> None:
    shutil.copytree(scripted_run.journal, tmp_path / "backup")
    run_listed(scripted_run, [level(1.74)], user=theirs)
    again = git(theirs, "rev-parse", "refs/overnight/night/2")
    shutil.rmtree(scripted_run.journal)
    (tmp_path / "backup").rename(scripted_run.journal)

    run_listed(scripted_run, [level(1.73)], user=theirs)

    assert git(theirs, "rev-parse", "refs/overnight-aside/night/1/2") == restored["2"]
    assert git(theirs, "rev-parse", "refs/overnight-aside/night/2/2") == again


def test_a_tag_of_another_run_on_the_commit_that_a_run_began_with_stays(
    scripted_run: ScriptedRun, theirs: Path
) -> None:
    git(theirs, "update-ref", "refs/tags/confirmed/9", "HEAD")
    scripted_run.start_trainer()

    run_listed(scripted_run, [level(1.75)], user=theirs)
    with opened(scripted_run, [], user=theirs) as run_context:
        sync_with_journal(run_context)

    assert git(theirs, "rev-parse", "confirmed/9") == git(theirs, "rev-parse", "HEAD")
