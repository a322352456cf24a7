"""What nobody was left to end: real processes and files of the candidates' user, and what must be spared."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.conftest import as_other_user, wait_for
from trainer.launch import User
from trainer.leftovers import NotSwept, clear_all
from trainer.procfs import processes_of
from trainer.trial import Places


def run_as(user: User, code: str, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", code], user=user.uid, group=user.gid, extra_groups=[], cwd=folder, check=True)


@pytest.fixture
def open_places(user: User) -> Iterator[list[Path]]:
    """A file of ours in every place that is open to all."""
    made = []
    for place in ("/tmp", "/var/tmp", "/dev/shm"):
        number, name = tempfile.mkstemp(dir=place)
        os.close(number)
        made.append(Path(name))
    yield made
    for path in made:
        path.unlink()


@as_other_user
def test_everything_that_runs_as_the_user_is_ended_and_nothing_else(places: Places, user: User) -> None:
    ours = subprocess.Popen(["sleep", "1000"])
    theirs = subprocess.Popen(
        ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], user=user.uid, group=user.gid, extra_groups=[], env={}
    )
    wait_for(lambda: len(processes_of(user.uid)) == 2, 10)

    ended = clear_all(places.work, user)

    assert (ended, processes_of(user.uid)) == (2, [])
    assert ours.poll() is None
    assert theirs.wait(10) != 0
    ours.kill()
    ours.wait()


@as_other_user
def test_files_of_the_user_are_gone_wherever_everybody_may_write(
    places: Places, user: User, open_places: list[Path]
) -> None:
    left = [path.with_name(f"{path.name}-left") for path in open_places]
    for path in left:
        run_as(user, f"import os; os.makedirs('{path}/a/b'); os.chmod('{path}/a', 0); os.chmod('{path}', 0)", Path("/"))

    clear_all(places.work, user)

    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in open_places)


@as_other_user
@pytest.mark.parametrize(
    "code",
    [
        "open('file', 'w')",
        "import os; os.mkdir('closed'); open('closed/file', 'w'); os.chmod('closed', 0)",
        "import os; os.symlink('/etc', 'link'); os.symlink('nowhere', 'broken'); os.mkfifo('pipe')",
        "import os\nfor _ in range(3000): os.mkdir('deep'); os.chdir('deep')",
        "open('-rf', 'w'); open('a b\\nc', 'w')",
    ],
    ids=["file", "closed", "links", "deeper than python goes", "names"],
)
def test_work_folder_is_emptied_of(code: str, places: Places, user: User) -> None:
    run_as(user, code, places.work)

    clear_all(places.work, user)

    assert list(places.work.iterdir()) == []
    assert Path("/etc/passwd").exists()


@as_other_user
def test_work_folder_that_the_user_cannot_empty_is_said(places: Places, user: User) -> None:
    os.chown(places.work, 0, 0)

    with pytest.raises(NotSwept, match=rf"as uid {user.uid}: .*{places.work}.* could not be removed"):
        clear_all(places.work, user)
