"""Git in surroundings of the user: variables of a hook, links, files that are not text, a mount that hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from researcher.errors import NotText, SubjectError
from researcher.repository.commits import Planned
from researcher.repository.creation import create_repository
from researcher.repository.earlier_runs import free_tag
from researcher.repository.publishing import UserRepository
from researcher.repository.repository import GitState, Workspace
from tests import ROOT
from tests.researcher.repository.test_publishing import BRANCH, Own, git, made_by_a_user

FILES = {"train.py": "A = 1\n", "prepare.py": "B = 1\n", "program.md": "Better.\n"}
UTF_16 = "\ufeffBest.\n".encode("utf-16-le")
LATIN_1 = "Größer.\n".encode("latin-1")
USES_GIT = """\
import sys
from pathlib import Path
from researcher.repository.commits import Planned
from researcher.repository.creation import create_repository
from researcher.repository.repository import GitState, Workspace
path = Path(sys.argv[1])
create_repository(path, {"train.py": "A = 1\\n", "prepare.py": "B = 1\\n"}, "The subject")
workspace = Workspace(path)
workspace.restore(GitState("overnight/x", workspace.head()))
plan = Planned("refs/overnight/x/1", workspace.head(), "A = 2\\n", "try", at=1.0)
workspace.tag_confirmed("x", 1, workspace.commit_candidate("overnight/x", plan))
workspace.close()
"""


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GIT_DIR", "{}/.git"),
        ("GIT_WORK_TREE", "{}"),
        ("GIT_INDEX_FILE", "{}/.git/index"),
        ("GIT_OBJECT_DIRECTORY", "{}/.git/objects"),
        ("GIT_NAMESPACE", "other"),
        ("GIT_COMMITTER_DATE", "yesterday"),
        ("GIT_PYTHON_GIT_EXECUTABLE", "{}/no-git"),
    ],
)
def test_a_variable_of_git_neither_leads_elsewhere_nor_disturbs(tmp_path: Path, name: str, value: str) -> None:
    other = made_by_a_user(tmp_path / "other")
    before = contents(other)

    done = subprocess.run(
        [sys.executable, "-c", USES_GIT, str(tmp_path / "ours")],
        env=os.environ | {"PYTHONPATH": str(ROOT), name: value.format(other)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert contents(other) == before
    assert git(tmp_path / "ours", "log", "--format=%s", "confirmed/1").splitlines() == ["try", "The subject"]


@pytest.mark.parametrize("branch", ["overnight", "overnight/night", "overnight/night/old"])
def test_a_branch_beside_which_git_cannot_hold_the_runs_is_named(tmp_path: Path, branch: str) -> None:
    repository = made_by_a_user(tmp_path / "s")
    git(repository, "branch", branch)

    with pytest.raises(SubjectError, match=f"the branch {branch} is in the way"):
        free_tag("night", {"main", branch}, day="night")

    git(repository, "branch", "overnight/night", code=128)


@pytest.mark.parametrize("branch", ["overnight/night", "overnight/night/old"])
def test_without_a_wanted_tag_a_branch_in_the_way_is_avoided(branch: str) -> None:
    assert free_tag(None, {"main", branch}, day="night") == "night-2"


def test_a_tag_without_a_branch_in_its_way_is_taken() -> None:
    assert free_tag("a/b", {"main", "overnight/a-b", "overnight/ab", "overnighter"}, day="night") == "a/b"


def with_links(path: Path, **links: str) -> Path:
    """A repository whose commit holds these links, in place of files of the same names."""
    made_by_a_user(path)
    (path / "src").mkdir()
    (path / "src" / "train.py").write_text("A = 'linked'\n")
    (path / "src" / "more.py").write_text("C = 1\n")
    for name, target in links.items():
        (path / f"{name}.py").unlink(missing_ok=True)
        (path / f"{name}.py").symlink_to(target)
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "links")
    return path


def test_a_train_py_that_is_a_link_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubjectError, match=r"train\.py .*symbolic link"):
        Workspace(with_links(tmp_path / "s", train="src/train.py"))


def test_another_link_is_followed_to_the_file_of_the_commit(tmp_path: Path) -> None:
    with closing(Workspace(with_links(tmp_path / "s", more="again.py", again="./src/../src/more.py"))) as workspace:
        files = workspace.files(workspace.head())

    assert files["more.py"] == files["again.py"] == files["src/more.py"] == "C = 1\n"


@pytest.mark.parametrize(
    "links",
    [{"more": "nowhere.py"}, {"more": "/etc/passwd"}, {"more": "src"}, {"more": "again.py", "again": "more.py"}],
)
def test_a_link_that_leads_to_no_file_of_the_commit_is_refused(tmp_path: Path, links: dict[str, str]) -> None:
    with (
        closing(Workspace(with_links(tmp_path / "s", **links))) as workspace,
        pytest.raises(SubjectError, match=r"(more|again)\.py .*symbolic link"),
    ):
        workspace.files(workspace.head())


@pytest.mark.parametrize("name", [b"\xff.py", b"gr\xf6\xdfe/m.py"])
def test_a_file_name_that_is_not_utf8_is_refused_and_any_other_goes_into_a_trial(tmp_path: Path, name: bytes) -> None:
    path = made_by_a_user(tmp_path / "s")
    odd = ["a b/c.py", 'ü "q".py', "x\ny.py", "-m.py", "[*]?.py", "a\\b.py"]
    for each in (*odd, os.fsdecode(name)):
        (path / each).parent.mkdir(exist_ok=True)
        (path / each).write_text("C = 1\n")
    git(path, "add", "--", *odd)
    git(path, "commit", "--quiet", "-m", "odd names")
    with closing(Workspace(path)) as workspace:
        found = workspace.files(workspace.head())
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "another")

    assert set(odd) <= found.keys()
    with closing(Workspace(path)) as workspace, pytest.raises(SubjectError, match=r"file name .* is not UTF-8; rename"):
        workspace.files(workspace.head())


def partial_clone(tmp_path: Path, *options: str) -> Path:
    """A clone without the earlier files of a repository, and with `--sparse` without those in folders."""
    whole, path = made_by_a_user(tmp_path / "whole"), tmp_path / "partial"
    git(whole, "config", "uploadpack.allowFilter", "true")
    (whole / "folder").mkdir()
    for number in (2, 3):
        (whole / "train.py").write_text(f"A = {number}\n")
        (whole / "folder" / "more.py").write_text(f"C = {number}\n")
        git(whole, "add", ".")
        git(whole, "commit", "--quiet", "-m", f"commit {number}")
    git(tmp_path, "clone", "--quiet", "--filter=blob:none", *options, whole.as_uri(), str(path))
    return path


def test_a_run_begins_in_a_partial_clone_without_its_history_and_pushes_there(tmp_path: Path) -> None:
    theirs = partial_clone(tmp_path)
    with closing(Own(tmp_path, theirs)) as own:
        kept = own.keep(1)

        assert own.user.message == ""
        assert own.workspace.files(kept)["folder/more.py"] == "C = 3\n"
        assert git(theirs, "rev-parse", BRANCH) == kept


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_partial_clone_without_files_of_its_commit_is_named_with_what_fetches_them(
    tmp_path: Path, whose: str
) -> None:
    path = partial_clone(tmp_path, "--sparse")
    create_repository(tmp_path / "own", FILES, "The subject")

    def begin() -> None:
        if whose == "ours":
            Workspace(path).close()
        else:
            UserRepository(path).fetch(tmp_path / "own")

    with pytest.raises(SubjectError, match=rf"git -C {path} fetch --refetch --no-filter"):
        begin()
    git(path, "fetch", "--quiet", "--refetch", "--no-filter")
    begin()


@pytest.mark.parametrize("name", ["train.py", "prepare.py"])
@pytest.mark.parametrize("kind", ["folder", "submodule"])
def test_a_needed_name_that_is_no_file_is_named(tmp_path: Path, name: str, kind: str) -> None:
    path = made_by_a_user(tmp_path / "s")
    git(path, "rm", "--quiet", name)
    if kind == "folder":
        (path / name).mkdir()
        (path / name / "in.py").write_text("A = 1\n")
        git(path, "add", ".")
    else:
        git(path, "update-index", "--add", "--cacheinfo", f"160000,{git(path, 'rev-parse', 'HEAD')},{name}")
    git(path, "commit", "--quiet", "-m", kind)

    with pytest.raises(SubjectError, match=f"{name} in the last commit of .* is no file"):
        Workspace(path)


def test_a_byte_order_mark_is_no_part_of_a_python_file(tmp_path: Path) -> None:
    path = made_by_a_user(tmp_path / "s")
    (path / "train.py").write_text("A = 'ü'\n", encoding="utf-8-sig")
    git(path, "commit", "--quiet", "-a", "-m", "as some editors save it")

    with closing(Workspace(path)) as workspace:
        assert workspace.files(workspace.head())["train.py"] == "A = 'ü'\n"


@pytest.mark.parametrize("ref", ["refs/tags/confirmed", "refs/overnight", "refs/overnight/night"])
def test_a_ref_that_is_in_the_way_of_the_runs_is_named_before_anything_is_written(tmp_path: Path, ref: str) -> None:
    path = made_by_a_user(tmp_path / "s")
    with closing(Workspace(path)) as workspace:
        workspace.require_free_names(workspace.head(), "night")
        git(path, "update-ref", ref, "HEAD")
        with pytest.raises(SubjectError, match=f"the ref {ref} .* is in the way"):
            workspace.require_free_names(workspace.head(), "night")
        git(path, "update-ref", f"{ref}-mine", ref)
        git(path, "update-ref", "-d", ref)
        workspace.require_free_names(workspace.head(), "night")


@pytest.mark.parametrize("name", ["results.tsv", "progress.png"])
def test_a_folder_where_a_report_belongs_is_named(tmp_path: Path, name: str) -> None:
    path = made_by_a_user(tmp_path / "s")
    git(path, "rm", "--quiet", "--ignore-unmatch", name)
    (path / name).mkdir()
    (path / name / "old").write_text("x")
    git(path, "add", "--force", ".")
    git(path, "commit", "--quiet", "-m", "folder")

    with closing(Workspace(path)) as workspace, pytest.raises(SubjectError, match=f"{name} .* is a folder"):
        workspace.require_free_names(workspace.head(), "night")


POINTER = "version https://git-lfs.example/spec/v1\noid sha256:0\nsize 3\n"


def with_a_filter(path: Path, *patterns: str) -> Path:
    """A repository whose filter is required and missing, as git-lfs is on most machines."""
    for name in ("clean", "smudge", "process"):
        git(path, "config", f"filter.lfs.{name}", "no-such-program")
    git(path, "config", "filter.lfs.required", "true")
    lines = "".join(f"{pattern} filter=lfs\n" for pattern in patterns)
    (path / ".gitattributes").write_text(lines)
    return path


@pytest.mark.parametrize("content", [POINTER, "fetched"])
def test_a_filter_that_is_missing_does_not_disturb_a_run_in_the_same_folder(tmp_path: Path, content: str) -> None:
    path = made_by_a_user(tmp_path / "s")
    (path / "weights.bin").write_text(POINTER)
    with_a_filter(path, "*.txt")
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "weights")
    with_a_filter(path, "*.bin")
    (path / "weights.bin").write_text(content)

    with closing(Workspace(path)) as workspace:
        workspace.restore(GitState(BRANCH, workspace.head()))
        plan = Planned(f"refs/{BRANCH}/1", workspace.head(), "A = 2\n", "try", at=1.0)
        made = workspace.commit_candidate(BRANCH, plan)

    assert git(path, "rev-parse", BRANCH) == made
    assert (path / "weights.bin").read_text() == content


@pytest.mark.parametrize("name", ["train.py", "more.py"])
def test_a_python_file_that_git_lfs_keeps_is_refused(tmp_path: Path, name: str) -> None:
    path = made_by_a_user(tmp_path / "s")
    (path / name).write_text(POINTER)
    git(path, "add", ".")
    git(path, "commit", "--quiet", "-m", "pointer")

    with closing(Workspace(path)) as workspace, pytest.raises(SubjectError, match=f"{name} .* in Git LFS"):
        workspace.files(workspace.head())


@pytest.mark.parametrize("content", [UTF_16, LATIN_1], ids=["UTF-16", "Latin-1"])
@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_goal_that_is_not_text_is_said_and_the_last_one_stays(tmp_path: Path, content: bytes, whose: str) -> None:
    theirs = made_by_a_user(tmp_path / "theirs")
    with closing(Own(tmp_path, theirs)) as own:
        edited = (theirs if whose == "theirs" else own.path) / "program.md"
        if whose == "ours":
            own.workspace.user = None
        edited.write_text("The second goal.\n", encoding="utf-8-sig")
        goals = [own.workspace.program()]
        edited.write_bytes(content)
        goals.append(own.workspace.program())
        said = own.workspace.inspect()
        edited.write_text("The third goal.\n")
        goals.append(own.workspace.program())

        assert goals == ["The second goal.\n", "The second goal.\n", "The third goal.\n"]
        assert f"{edited} is not text in UTF-8" in said
        assert own.workspace.inspect() == ""


def test_after_a_restart_the_committed_goal_stands_in_for_one_that_is_not_text(tmp_path: Path) -> None:
    create_repository(tmp_path / "s", FILES, "The subject")
    (tmp_path / "s" / "program.md").write_bytes(UTF_16)

    with closing(Workspace(tmp_path / "s")) as workspace:
        assert workspace.program() == "Better.\n"


def test_a_new_run_with_a_goal_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = made_by_a_user(tmp_path / "s")
    (path / "program.md").write_bytes(LATIN_1)
    git(path, "commit", "--quiet", "-a", "-m", "goal")

    with (
        closing(Workspace(path)) as workspace,
        pytest.raises(SubjectError, match=r"program\.md .*not text in UTF-8"),
    ):
        workspace.require_text_program(workspace.head())


def test_lines_of_the_user_that_are_not_utf8_stay_in_the_list_of_excluded_files(tmp_path: Path) -> None:
    create_repository(tmp_path / "s", FILES, "The subject")
    exclude = tmp_path / "s" / ".git" / "info" / "exclude"
    exclude.parent.mkdir(exist_ok=True)
    exclude.write_bytes(LATIN_1)

    with closing(Workspace(tmp_path / "s")) as workspace:
        workspace.restore(GitState(BRANCH, workspace.head()))

    assert exclude.read_bytes().startswith(LATIN_1)
    assert b"results.tsv" in exclude.read_bytes().splitlines()


@pytest.mark.parametrize("name", [b"two words", b"a\nb", b"\xff", b"[*]?", b"a:b$\\", b"-x"])
def test_a_run_begins_and_pushes_in_folders_of_any_name(tmp_path: Path, name: bytes) -> None:
    place = tmp_path / os.fsdecode(name)
    place.mkdir()
    theirs = made_by_a_user(place / "theirs")
    with closing(Own(place, theirs)) as own:
        kept = own.keep(1)

        assert own.user.message == ""
        assert own.workspace.program() == "Better.\n"
        assert git(theirs, "rev-parse", BRANCH) == kept


class Hours:
    """A clock that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_repository_that_hangs_is_left_alone_for_a_while_and_gets_all_later(tmp_path: Path) -> None:
    """A pipe that nobody writes to hangs as a lost network mount does: whoever opens it waits."""
    theirs, clock = made_by_a_user(tmp_path / "theirs"), Hours()
    with closing(Own(tmp_path, theirs)) as own:
        own.user = own.workspace.user = UserRepository(theirs, limit_s=1.0, clock=clock)
        os.mkfifo(theirs / ".git" / "packed-refs")
        kept = own.keep(1)
        said = own.user.message
        (theirs / ".git" / "packed-refs").unlink()
        still = own.workspace.inspect()
        clock.now = 3600.0

        assert "no answer within 1 s" in said
        assert still == said
        assert own.workspace.inspect() == ""
        assert git(theirs, "rev-parse", BRANCH) == kept


def test_a_goal_on_a_mount_that_hangs_does_not_hold_the_run(tmp_path: Path) -> None:
    theirs = made_by_a_user(tmp_path / "theirs")
    (theirs / "program.md").unlink()
    os.mkfifo(theirs / "program.md")

    assert UserRepository(theirs, limit_s=0.5).text_of("program.md") is None


def test_a_file_of_the_user_that_is_not_text_is_named(tmp_path: Path) -> None:
    theirs = made_by_a_user(tmp_path / "theirs")
    (theirs / "program.md").write_bytes(LATIN_1)

    with pytest.raises(NotText, match=r"program\.md is not text in UTF-8"):
        UserRepository(theirs).text_of("program.md")
