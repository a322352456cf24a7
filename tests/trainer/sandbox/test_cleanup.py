"""What nobody was left to end: real processes and files of the candidates' user, and what must be spared."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import trainer
from tests.fixtures.trials import as_other_user, wait_for
from trainer.sandbox.cleanup import NotSwept, clear, clear_all
from trainer.sandbox.launch import User
from trainer.sandbox.paths import WorkerConfig
from trainer.sandbox.procfs import processes_of


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
def test_everything_that_runs_as_the_user_is_ended_and_nothing_else(config: WorkerConfig, user: User) -> None:
    ours = subprocess.Popen(["sleep", "1000"])
    theirs = subprocess.Popen(
        ["sh", "-c", "setsid sleep 1000 & exec sleep 1000"], user=user.uid, group=user.gid, extra_groups=[], env={}
    )
    wait_for(lambda: len(processes_of(user.uid)) == 2, 10)

    ended = clear_all(config.work, user)

    assert (ended, processes_of(user.uid)) == (2, [])
    assert ours.poll() is None
    assert theirs.wait(10) != 0
    ours.kill()
    ours.wait()


@as_other_user
def test_files_of_the_user_are_gone_wherever_everybody_may_write(
    config: WorkerConfig, user: User, open_places: list[Path]
) -> None:
    left = [path.with_name(f"{path.name}-left") for path in open_places]
    for path in left:
        run_as(user, f"import os; os.makedirs('{path}/a/b'); os.chmod('{path}/a', 0); os.chmod('{path}', 0)", Path("/"))

    clear_all(config.work, user)

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
def test_work_folder_is_emptied_of(code: str, config: WorkerConfig, user: User) -> None:
    run_as(user, code, config.work)

    clear_all(config.work, user)

    assert list(config.work.iterdir()) == []
    assert Path("/etc/passwd").exists()


@as_other_user
def test_work_folder_that_the_user_cannot_empty_is_said(config: WorkerConfig, user: User) -> None:
    os.chown(config.work, 0, 0)

    with pytest.raises(NotSwept, match=rf"as uid {user.uid}: .*{config.work}.* could not be removed"):
        clear_all(config.work, user)


PLANTS = {
    "a link to what is precious": "os.symlink('../precious', at)",
    "a link to nothing": "os.symlink('nowhere', at)",
    "a pipe": "os.mkfifo(at)",
    "a file of 10 GB without content": "os.truncate(os.open(at, os.O_CREAT | os.O_RDWR), 10**10)",
    "links in it": "os.mkdir(at); os.symlink('../../precious', at + '/link'); os.link('../precious/kept', at + '/h')",
    "folders deeper than a path can name": "[(os.mkdir(at), os.chdir(at)) for _ in range(3000)]",
    "names that look like options": "os.makedirs(at + '/-rf/--/ *\\n'); open(at + '/-i', 'w').close()",
}


@pytest.mark.parametrize("code", PLANTS.values(), ids=PLANTS)
def test_whatever_lies_where_a_trial_works_is_removed_and_nothing_else(code: str, config: WorkerConfig) -> None:
    precious = config.work.parent / "precious"
    precious.mkdir()
    (precious / "kept").touch()
    folder = config.work / "e-1-t1-a1"
    subprocess.run([sys.executable, "-c", f"import os\nat = '{folder.name}'\n{code}"], cwd=config.work, check=True)

    clear(folder, None)

    assert list(config.work.iterdir()) == []
    assert list(precious.iterdir()) == [precious / "kept"]


@as_other_user
def test_a_closed_folder_in_a_closed_folder_is_removed_without_the_rights_of_root(
    config: WorkerConfig, user: User
) -> None:
    closes = "os.makedirs('x/a/b'); os.chmod('x/a/b', 0); os.chmod('x/a', 0); os.chmod('x', 0)"
    wipes = "from trainer.sandbox.cleanup import wipe; wipe(pathlib.Path('x').absolute())"
    ours = str(Path(trainer.__file__).parents[1])

    run_as(user, f"import os, pathlib, sys; {closes}; sys.path.append({ours!r}); {wipes}", config.work)

    assert list(config.work.iterdir()) == []


@as_other_user
def test_work_folder_has_the_same_mode_and_times_before_every_candidate(config: WorkerConfig, user: User) -> None:
    """They are its user's to set, so the next one could read there what this one was asked."""
    os.chmod(config.work, 0o751)
    os.utime(config.work, (123, 456))

    clear_all(config.work, user)

    seen = config.work.stat()
    assert (seen.st_mode & 0o7777, seen.st_atime, seen.st_mtime) == (0o700, 0, 0)
