"""Whom candidates run as where nobody named a user: real uids, real folders, real locks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.trials import as_other_user
from trainer.sandbox import candidate_user
from trainer.sandbox.access_check import MOVE
from trainer.sandbox.candidate_user import (
    _FIRST_PID_NAMESPACE,
    AUTO,
    UIDS,
    Obstacle,
    SandboxUser,
    _uids,
    acquire,
)
from trainer.sandbox.launch import User
from trainer.sandbox.paths import WorkerConfig

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: nobody else can start a process as another user")

MOVES_IN = """\
import sys
from pathlib import Path
from trainer.sandbox import candidate_user
candidate_user.obstacle = lambda *_: None
held = candidate_user.acquire(Path(sys.argv[1]), Path(sys.argv[2]), candidate_user.AUTO)
print(held.user.uid, flush=True)
sys.stdin.read()
"""

MoveIn = Callable[..., SandboxUser]


@dataclass(frozen=True)
class Installed:
    """This interpreter where other users can start it, with our code on its path: what a rented machine has."""

    python: Path

    def run(self, code: str, work: Path, data: Path, user: User | None = None) -> str:
        """What a process says that has these folders as `work` and `data`."""
        names = "import sys; from pathlib import Path; from trainer.sandbox import candidate_user\n"
        names += "from trainer.sandbox.launch import User\n"
        names += f"from trainer.sandbox.candidate_user import *; work, data = Path('{work}'), Path('{data}')\n"
        who = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
        command = [self.python, "-c", names + code]
        return subprocess.run(
            command, cwd=candidate_user.ROOT, check=True, stdout=subprocess.PIPE, text=True, **who
        ).stdout.strip()  # type: ignore[call-overload]


@pytest.fixture
def installed(user: User) -> Installed:
    return Installed(Path(sys.executable))


@pytest.fixture
def enter(ground: Path, data: Path) -> Iterator[MoveIn]:
    """Moves into a work folder, a new one each time unless it is named, and out of it after the test."""
    entered = []

    def enter(work: Path | None = None) -> SandboxUser:
        entered.append(acquire(work or Path(tempfile.mkdtemp(dir=ground)) / "work", data, AUTO))
        return entered[-1]

    yield enter
    for each in entered:
        each.release()


@pytest.fixture
def all_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a candidate needs can be read, whatever this machine's Python."""
    monkeypatch.setattr(candidate_user, "obstacle", lambda *_: None)


@pytest.fixture
def closed(ground: Path) -> Iterator[Path]:
    """A folder like the home of root."""
    folder = Path(tempfile.mkdtemp(prefix="closed-", dir=ground))
    yield folder
    shutil.rmtree(folder)


def asks_as(user: User) -> str:
    """Code that prints what stands against this user, as JSON."""
    return f"import json; print(json.dumps(vars(obstacle(User({user.uid}, {user.gid}), work, data))))"


def told(said: str) -> Obstacle:
    """What that code has printed."""
    return Obstacle(**json.loads(said))


def owner(folder: Path) -> tuple[int, int]:
    return folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)


def test_the_host_ends_no_candidate_of_a_container() -> None:
    host, container = _uids(_FIRST_PID_NAMESPACE), _uids(_FIRST_PID_NAMESPACE - 1)

    assert not {*host} & {*container, 64_001}
    assert len(host) == len(container) == 9


@as_other_user
def test_user_that_can_read_all_is_taken_and_gets_the_folder(installed: Installed, config: WorkerConfig) -> None:
    said = installed.run(
        "held = acquire(work, data, 'auto'); print(held.user.uid, held.reason)", config.work, config.data
    )

    uid = int(said.split()[0])
    assert said.split()[1] == "None"
    assert uid in UIDS
    assert owner(config.work) == (uid, 0o700)


@as_other_user
def test_first_closed_folder_is_named_whether_it_holds_data_state_or_python(
    installed: Installed, config: WorkerConfig, user: User, closed: Path
) -> None:
    (closed / "data").mkdir()
    (closed / "data" / "train.npy").touch()
    (closed / "python").symlink_to(installed.python)
    asks = asks_as(user)

    of_data = installed.run(asks, config.work, closed / "data")
    of_state = installed.run(asks, closed / "state" / "work", config.data)
    of_python = installed.run(f"sys.executable = '{closed}/python'; {asks}", config.work, config.data)

    way = f"uid {user.uid} may not enter {closed}"
    assert told(of_data) == Obstacle(f"{way}, on the way to {closed}/data/train.npy", MOVE)
    assert told(of_state) == Obstacle(way, MOVE)
    assert told(of_python) == Obstacle(f"{way}, on the way to {closed}/python", MOVE)


@as_other_user
def test_interpreter_that_starts_for_root_alone_is_told_in_its_own_words(
    installed: Installed, config: WorkerConfig, user: User
) -> None:
    starts = "candidate_user._STARTS = 'import no_numpy_for_you'"

    obstacle = told(installed.run(f"{starts}; {asks_as(user)}", config.work, config.data))

    fault = "ModuleNotFoundError: No module named 'no_numpy_for_you'"
    assert obstacle.found.endswith(f"does not start as uid {user.uid}: {fault}")
    assert obstacle.next_step == MOVE


@as_other_user
def test_who_is_not_root_chooses_nobody_and_is_told_nothing(installed: Installed, user: User, ground: Path) -> None:
    theirs = Path(tempfile.mkdtemp(dir=ground))
    os.chown(theirs, user.uid, user.gid)

    said = installed.run("print(acquire(work, data, 'auto'))", theirs / "work", theirs, user=user)

    assert said.startswith("SandboxUser(user=None, reason=None, ended=0")


def test_folder_whose_owner_the_file_system_does_not_know_is_told(
    ground: Path, data: Path, enter: MoveIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Path(tempfile.mkdtemp(dir=ground)) / "work"
    change_owner = os.chown
    monkeypatch.setattr(os, "chown", refuses_other_owners(change_owner))

    held = enter(work)

    assert held.user is None
    assert f"{work} must belong to uid {UIDS[0]}"[:-1] in str(held.reason)


def refuses_other_owners(change_owner: Callable[..., None]) -> Callable[..., None]:
    """NetworkFolder: root there is nobody."""

    def chown(path: Path, uid: int, gid: int) -> None:
        if uid != 0:
            raise PermissionError(1, "Operation not permitted")
        change_owner(path, uid, gid)

    return chown


def test_without_a_user_of_their_own_the_reason_is_told_and_the_folder_is_ours_again(
    closed: Path, enter: MoveIn
) -> None:
    held = enter(closed / "work")

    assert held.user is None
    assert "may not enter" in str(held.reason)
    assert owner(closed / "work") == (0, 0o700)


def test_two_trainers_at_once_have_two_users(all_is_open: None, enter: MoveIn) -> None:
    users = [enter().user for _ in range(2)]

    assert None not in users
    assert len(set(users)) == 2


def test_trainer_that_finds_every_user_taken_shares_none(
    all_is_open: None, enter: MoveIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = enter()
    assert first.user is not None
    monkeypatch.setattr(candidate_user, "UIDS", range(first.user.uid, first.user.uid + 1))

    second = enter()

    assert (second.user, second.reason) == (
        None,
        Obstacle(f"other trainers have every uid from {first.user.uid} to {first.user.uid}"),
    )


def test_user_of_a_killed_trainer_is_free_and_its_folder_has_it_again(
    all_is_open: None, enter: MoveIn, ground: Path, data: Path
) -> None:
    work = Path(tempfile.mkdtemp(dir=ground)) / "work"
    command = [sys.executable, "-c", MOVES_IN, work, data]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=candidate_user.ROOT) as killed:
        assert killed.stdout is not None
        uid = int(killed.stdout.readline())
        killed.send_signal(signal.SIGKILL)

    held = enter(work)

    assert held.user == User(uid, uid)


def test_what_another_users_candidate_left_is_gone_when_the_folder_changes_hands(
    all_is_open: None, enter: MoveIn, ground: Path, data: Path
) -> None:
    work = Path(tempfile.mkdtemp(dir=ground)) / "work"
    acquire(work, data, User(64_998, 64_998)).release()
    makes = "import os; os.makedirs('a/b'); os.symlink('/etc', 'a/link'); os.chmod('a', 0)"
    subprocess.run([sys.executable, "-c", makes], cwd=work, check=True)
    os.chown(work / "a", 64_998, 64_998)

    held = enter(work)

    assert held.user is not None
    assert list(work.iterdir()) == []
    assert Path("/etc/passwd").exists()
