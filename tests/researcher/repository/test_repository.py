"""Git as the run needs it: repeatable commits, resets that take nothing of the human's, repair after a kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import git
import pytest

from researcher.errors import SubjectError
from researcher.repository.commits import Planned
from researcher.repository.creation import create_repository
from researcher.repository.earlier_runs import first_commit
from researcher.repository.git_command import GitKilled, damage, git_environment, run_git
from researcher.repository.repository import GitState, Workspace

FILES = {"train.py": "A = 1\n", "prepare.py": "B = 1\n", "program.md": "Make it better.\n"}
BRANCH = "overnight/test"
REF = f"refs/{BRANCH}/1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create_repository(tmp_path / "subject", FILES, "The subject")
    return tmp_path / "subject"


@pytest.fixture
def workspace(path: Path) -> Iterator[Workspace]:
    opened = Workspace(path)
    opened.restore(GitState(BRANCH, opened.head()))
    yield opened
    opened.close()


def commit(workspace: Workspace, parent: str, source: str = "A = 2\n") -> str:
    return workspace.commit_candidate(BRANCH, Planned(REF, parent, source, "try A = 2", at=1_790_000_000.7))


def test_the_same_candidate_committed_twice_is_the_same_commit(workspace: Workspace) -> None:
    base = workspace.head()

    first, second = commit(workspace, base), commit(workspace, base)

    assert first == second != base


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files and folders that were synced to the disk."""
    found: list[Path] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        found.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return found


def test_each_object_of_a_candidate_is_synced_to_the_disk(workspace: Workspace, path: Path, synced: list[Path]) -> None:
    sha = commit(workspace, workspace.head())

    objects = path / ".git" / "objects"
    for revision in (sha, f"{sha}^{{tree}}", f"{sha}:train.py"):
        name = git.Repo(path).git.rev_parse(revision)
        assert objects / f"obj-{name}" in synced
        assert objects / name[:2] in synced


def test_what_git_writes_itself_is_synced_too(path: Path, tmp_path: Path) -> None:
    """Git counts its own syncs."""
    trace = tmp_path / "trace"
    environment = os.environ | git_environment(path) | {"GIT_TRACE2_EVENT": str(trace)}
    write = ["git", "-C", str(path), "hash-object", "-w", "--stdin"]

    subprocess.run(write, input=b"B = 2\n", env=environment, check=True, capture_output=True)

    counts = [
        line["value"] for line in map(json.loads, trace.read_text().splitlines()) if line.get("category") == "fsync"
    ]
    assert sum(map(int, counts)) > 0


@pytest.mark.parametrize("revision", ["{}", "{}^{{tree}}", "{}:train.py"])
def test_an_empty_object_of_a_candidate_is_written_again(workspace: Workspace, path: Path, revision: str) -> None:
    base, sha = workspace.head(), commit(workspace, workspace.head())
    name = git.Repo(path).git.rev_parse(revision.format(sha))
    file = path / ".git" / "objects" / name[:2] / name[2:]
    file.chmod(0o644)
    file.write_bytes(b"")

    workspace.commit_again(Planned(REF, base, "A = 2\n", "try A = 2", at=1_790_000_000.7), sha)

    assert damage(path) is None


def test_a_discarded_candidate_leaves_a_clean_tree_and_stays_reachable(workspace: Workspace, path: Path) -> None:
    base = workspace.head()
    sha = commit(workspace, base)

    workspace.checkout(base)

    repository = git.Repo(path)
    assert (path / "train.py").read_text() == FILES["train.py"]
    assert not repository.is_dirty()
    assert repository.commit(REF).hexsha == sha
    repository.close()


def test_restoring_after_a_kill_removes_dead_locks_and_half_written_files(workspace: Workspace, path: Path) -> None:
    base = workspace.head()
    (path / ".train.py.partial").write_text("half of a candi")
    (path / ".git" / "index.lock").write_text("")
    (path / ".git" / "refs" / "heads" / "overnight" / "test.lock").write_text("")

    workspace.restore(GitState(BRANCH, base))

    assert (path / "train.py").read_text() == FILES["train.py"]
    assert not (path / ".train.py.partial").exists()
    assert not list((path / ".git").rglob("*.lock"))


@pytest.mark.parametrize("staged", [False, True])
def test_a_candidate_that_a_killed_move_left_in_files_or_index_is_gone_after_the_start(
    path: Path, staged: bool
) -> None:
    killed = Workspace(path)
    base = killed.head()
    killed.restore(GitState(BRANCH, base))
    commit(killed, base)
    killed.checkout(base)
    (path / "train.py").write_text("A = 2\n")
    if staged:
        killed.repository.git.add("train.py")
    killed.close()
    workspace = Workspace(path)

    workspace.restore(GitState(BRANCH, base))

    assert (path / "train.py").read_text() == FILES["train.py"]
    assert not workspace.repository.is_dirty(untracked_files=True)
    workspace.close()


def test_a_train_py_that_a_user_edited_is_kept_beside(workspace: Workspace, path: Path) -> None:
    base = workspace.head()
    for number in (1, 2):
        (path / "train.py").write_text(f"A = 'idea {number}'\n")
        commit(workspace, base, f"A = {number + 1}\n")

    assert (path / "train.py").read_text() == "A = 3\n"
    assert [(path / f"train.py.edited-{number}").read_text() for number in (1, 2)] == [
        f"A = 'idea {number}'\n" for number in (1, 2)
    ]
    assert not workspace.repository.is_dirty(untracked_files=True)


def test_a_file_that_is_missing_is_brought_back_at_the_start(workspace: Workspace, path: Path) -> None:
    (path / "prepare.py").unlink()

    workspace.restore(GitState(BRANCH, workspace.head()))

    assert (path / "prepare.py").read_text() == FILES["prepare.py"]


def test_another_branch_that_was_checked_out_stays_where_it_is(workspace: Workspace) -> None:
    base = workspace.head()
    workspace.repository.git.checkout("main")

    commit(workspace, base)

    assert workspace.repository.heads["main"].commit.hexsha == base
    assert workspace.repository.active_branch.name == BRANCH


def test_the_goal_that_a_human_edits_during_the_run_survives_every_reset(workspace: Workspace, path: Path) -> None:
    base = workspace.head()
    (path / "program.md").write_text("Mind the memory.\n")

    sha = commit(workspace, base)
    workspace.checkout(base)
    workspace.restore(GitState(BRANCH, sha))

    assert workspace.program() == "Mind the memory.\n"
    assert workspace.inspect() == ""
    assert (path / "train.py").read_text() == "A = 2\n"
    assert workspace.files(sha) == {"train.py": "A = 2\n", "prepare.py": "B = 1\n"}


def test_the_tables_we_write_never_show_up_as_changes(workspace: Workspace, path: Path) -> None:
    (path / "results.tsv").write_text("x")
    (path / "progress.png").write_text("x")

    workspace.restore(GitState(BRANCH, workspace.head()))

    repository = git.Repo(path)
    assert repository.untracked_files == []
    repository.close()


def test_uncommitted_work_of_the_user_is_refused_by_name_not_thrown_away(path: Path) -> None:
    (path / "train.py").write_text("my unsaved idea")
    workspace = Workspace(path)

    with pytest.raises(SubjectError, match=r"train\.py"):
        workspace.require_clean()

    workspace.close()
    assert (path / "train.py").read_text() == "my unsaved idea"


@pytest.mark.parametrize("missing", ["train.py", "prepare.py"])
def test_a_repository_without_a_needed_file_is_refused(tmp_path: Path, missing: str) -> None:
    create_repository(tmp_path / "bare", {name: text for name, text in FILES.items() if name != missing}, "no")

    with pytest.raises(SubjectError, match=missing):
        Workspace(tmp_path / "bare")


def test_more_python_than_a_trial_carries_is_refused_with_both_sizes(tmp_path: Path) -> None:
    create_repository(tmp_path / "big", FILES | {"library.py": "#" * 300_000}, "big")
    workspace = Workspace(tmp_path / "big")

    with pytest.raises(SubjectError, match="300006 bytes of other Python"):
        workspace.require_portable(workspace.head())

    workspace.close()


@pytest.mark.parametrize("name", ["results.tsv", "progress.png"])
def test_a_report_that_the_user_has_committed_is_ours_to_write(tmp_path: Path, name: str) -> None:
    create_repository(tmp_path / "theirs", FILES | {name: "an earlier one\n"}, "with results")
    workspace = Workspace(tmp_path / "theirs")
    workspace.restore(GitState(BRANCH, workspace.head()))
    (workspace.path / name).write_text("of this run\n")
    commit(workspace, workspace.head())

    workspace.require_clean()

    workspace.close()
    assert (workspace.path / name).read_text() == "of this run\n"


def test_script_of_another_name_is_what_a_candidate_edits_and_what_trials_call_train_py(tmp_path: Path) -> None:
    files = FILES | {"train_gpt.py": "A = 1\n", "train.py": "an older one\n"}
    create_repository(tmp_path / "theirs", files, "theirs")

    with closing(Workspace(tmp_path / "theirs", script="train_gpt.py")) as workspace:
        base = workspace.head()
        workspace.restore(GitState(BRANCH, base))
        (workspace.path / "train_gpt.py").write_text("by hand\n")
        made = commit(workspace, base)
        again = workspace.files(made)

    assert again == {"train.py": "A = 2\n", "prepare.py": FILES["prepare.py"]}
    assert (tmp_path / "theirs" / "train.py").read_text() == "an older one\n"
    assert (tmp_path / "theirs" / "train_gpt.py.edited-1").read_text() == "by hand\n"
    with pytest.raises(SubjectError, match=r"a subject needs train_llm\.py and prepare\.py"):
        Workspace(tmp_path / "theirs", script="train_llm.py")


@pytest.mark.parametrize("setting", ["status.showStash", "status.branch", "status.short", "status.aheadBehind"])
def test_a_clean_repository_is_clean_however_the_user_has_status_shown(path: Path, setting: str) -> None:
    (path / "train.py").write_text("put away")
    repository = git.Repo(path)
    repository.git.stash()
    repository.git.config(setting, "true")
    repository.close()
    workspace = Workspace(path)

    workspace.require_clean()

    workspace.close()


def user_settings(home: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The settings of a user, in each place where git looks for them."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / "gitconfig"))
    (home / "gitconfig").write_text(text)


@pytest.mark.parametrize("hook", ["pre-commit", "commit-msg", "reference-transaction", "post-commit"])
@pytest.mark.parametrize("place", ["init.templateDir", "GIT_TEMPLATE_DIR", "core.hooksPath"])
def test_the_first_commit_is_made_whatever_hook_a_template_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, hook: str
) -> None:
    hooks = tmp_path / "template" / "hooks"
    hooks.mkdir(parents=True)
    (hooks / hook).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    (hooks / hook).chmod(0o755)
    section, _, key = place.partition(".")
    folder = hooks if place == "core.hooksPath" else tmp_path / "template"
    user_settings(tmp_path, monkeypatch, f'[{section}]\n{key} = "{folder}"\n' if key else "")
    if not key:
        monkeypatch.setenv(place, str(folder))

    create_repository(tmp_path / "subject", FILES, "The subject")

    with closing(Workspace(tmp_path / "subject")) as workspace:
        workspace.restore(GitState(BRANCH, workspace.head()))
        commit(workspace, workspace.head())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("place", ["init.defaultObjectFormat", "GIT_DEFAULT_HASH"])
def test_our_own_repository_has_names_by_sha_1_whatever_the_user_prefers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    user_settings(tmp_path, monkeypatch, "[init]\ndefaultObjectFormat = sha256\n")
    monkeypatch.setenv("GIT_DEFAULT_HASH", "sha256" if place == "GIT_DEFAULT_HASH" else "")

    create_repository(tmp_path / "subject", FILES, "The subject")

    with closing(Workspace(tmp_path / "subject")) as workspace:
        assert len(workspace.head()) == 40


def test_a_repository_with_names_by_sha_256_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "--quiet", "--object-format=sha256", "theirs")
    for name, text in FILES.items():
        (tmp_path / "theirs" / name).write_text(text)
    run_git(tmp_path / "theirs", "add", ".")
    run_git(tmp_path / "theirs", "commit", "--quiet", "--message=mine")

    with pytest.raises(SubjectError, match=r"SHA-256.*fast-export"):
        Workspace(tmp_path / "theirs")

    run_git(tmp_path, "init", "--quiet", "--object-format=sha1", "copy")
    run_git(tmp_path / "copy", "fast-import", "--quiet", stdin=run_git(tmp_path / "theirs", "fast-export", "--all"))
    run_git(tmp_path / "copy", "reset", "--hard", "--quiet")
    Workspace(tmp_path / "copy").close()


def test_a_bare_repository_is_refused_as_what_it_is(path: Path, tmp_path: Path) -> None:
    run_git(path, "clone", "--quiet", "--bare", ".", str(tmp_path / "bare.git"))

    with pytest.raises(SubjectError, match="is a bare repository"):
        Workspace(tmp_path / "bare.git")


def test_a_detached_head_and_a_linked_work_tree_are_repositories_as_any_other(path: Path, tmp_path: Path) -> None:
    run_git(path, "checkout", "--quiet", "--detach")
    run_git(path, "worktree", "add", "--quiet", str(tmp_path / "linked"))

    for place in (path, tmp_path / "linked"):
        with closing(Workspace(place)) as workspace:
            workspace.require_clean()
            assert workspace.head() == first_commit(path)


def test_a_git_that_is_killed_says_nothing_about_the_subject(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git_program = path.parent / "bin" / "git"
    git_program.parent.mkdir()
    git_program.write_text(
        f'#!/bin/sh\ncase "$*" in *cat-file*) kill -TERM $$ ;; esac\nexec {shutil.which("git")} "$@"\n'
    )
    git_program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git_program.parent}:{os.environ['PATH']}")

    with pytest.raises(GitKilled):
        Workspace(path)


def test_a_folder_that_is_no_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match="no git repository"):
        Workspace(tmp_path)


def test_a_repository_creation_that_was_killed_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "subject.partial" / ".git").mkdir(parents=True)

    create_repository(tmp_path / "subject", FILES, "The subject")

    workspace = Workspace(tmp_path / "subject")
    assert workspace.files(workspace.head())["train.py"] == "A = 1\n"
    workspace.close()


def test_a_bundle_holds_the_branch_its_tags_and_what_was_discarded_and_can_be_cloned(
    workspace: Workspace, tmp_path: Path
) -> None:
    base = workspace.head()
    kept = commit(workspace, base)
    git.Repo(workspace.path).git.update_ref(f"refs/{BRANCH}/7", base)
    workspace.tag_confirmed("test", 1, kept)

    workspace.bundle(BRANCH, tmp_path / "subject.bundle")

    clone = git.Repo.clone_from(str(tmp_path / "subject.bundle"), tmp_path / "clone")
    refs = dict(reversed(line.split()) for line in clone.git.ls_remote("origin").splitlines())
    assert clone.active_branch.name == BRANCH
    assert clone.head.commit.hexsha == kept
    assert refs[f"refs/{BRANCH}/7"] == base
    assert refs["refs/tags/confirmed/1"] == kept
    clone.close()


def test_a_candidate_is_committed_checked_out_and_shown_as_it_is_whatever_the_repositorys_filters(
    workspace: Workspace, path: Path
) -> None:
    base, source = workspace.head(), "A = 2\r\nb = 'ä'\n"
    (path / ".gitattributes").write_text("*.py -diff text eol=crlf filter=shout working-tree-encoding=UTF-16\n")
    for key, value in (("core.autocrlf", "true"), ("filter.shout.clean", "tr a-z A-Z"), ("diff.external", "true")):
        workspace.repository.git.config(key, value)

    sha = commit(workspace, base, source)
    workspace.checkout(sha)

    assert workspace.files(sha)["train.py"] == source
    assert (path / "train.py").read_bytes().decode() == source
    assert "+b = 'ä'" in workspace.diff(base, sha)


def test_a_script_that_a_run_has_changed_is_not_the_users_alone(workspace: Workspace) -> None:
    base = workspace.head()
    message = "try A = 2\n\nIt may learn faster.\n\nExperiment: 1\nProposer: llm\n"
    changed = workspace.commit_candidate(BRANCH, Planned(REF, base, "A = 2\n", message, at=1_790_000_000.7))
    later = workspace.commit_candidate(BRANCH, Planned(REF, changed, "A = 3\n", "A = 3 is better", at=1_790_000_001.7))

    assert workspace.is_of_users(base)
    assert not workspace.is_of_users(changed)
    assert not workspace.is_of_users(later), "a user's edit leaves the rest of the script as a run wrote it"
    assert not workspace.is_of_users("0" * 40), "where git cannot tell, nothing is shared"
