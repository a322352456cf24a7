"""The one-shot that makes passwords and gives volumes their owners, run for real on folders with several owners."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.redis.acl import SERVICES, acl_file
from services.stack.provision import ROOT, Owner, Refused, Rights, complaint, researcher_from, to_change
from tests import ROOT as CHECKOUT

RESEARCHER, SOMEBODY = Owner(1000, 1000), Owner(1001, 100)
HAND_OVER = "sudo chown -R 1000:1000 ../lab && sudo chmod -R u+rwX ../lab"
VOLUMES = ("redis", "subject", "journal", "trials", "data", "models")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root gives folders to other uids")


class Stack:
    """Fresh volumes as an engine makes them: root's and empty."""

    def __init__(self, folder: Path) -> None:
        self.secrets = folder / "secrets"
        self.state = folder / "state"
        self.subject = self.state / "user-repository"
        for path in [self.secrets / name for name in ("redis", *SERVICES)]:
            path.mkdir(parents=True)
        for path in [self.subject, *(self.state / name for name in VOLUMES)]:
            path.mkdir(parents=True)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        """As in its container: root, with three capabilities."""
        argv = ["setpriv", "--bounding-set=-all,+chown,+dac_override,+fowner", "--no-new-privs", sys.executable]
        argv += ["-m", "services.stack.provision", "--secrets", str(self.secrets), "--state", str(self.state)]
        return subprocess.run(
            argv,
            env={name: value for name, value in os.environ.items() if name != "RESEARCHER_USER"} | environment,
            capture_output=True,
            text=True,
            check=False,
            cwd=CHECKOUT,
        )

    def password(self, service: str) -> str:
        return (self.secrets / service / "password").read_text()

    def everything(self) -> dict[str, tuple[Rights, bytes]]:
        """Rights and content of all that is there."""
        paths = [path for root in (self.secrets, self.state) for path in sorted(root.rglob("*"))]
        return {str(path): (rights(path), b"" if path.is_dir() else path.read_bytes()) for path in paths}


@pytest.fixture
def stack(ground: Path, tmp_path: Path) -> Stack:
    folder = ground / tmp_path.name
    folder.mkdir()
    return Stack(folder)


def rights(path: Path) -> Rights:
    found = path.lstat()
    return Rights(Owner(found.st_uid, found.st_gid), stat.S_IMODE(found.st_mode))


def give(path: Path, owner: Owner) -> None:
    for each in (path, *path.rglob("*")):
        os.chown(each, owner.uid, owner.gid)


def repository(path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(path)], check=True)
    (path / "train.py").write_text("LR = 1\n")


def can_read(path: Path, who: Owner) -> bool:
    return (
        subprocess.run(["test", "-r", path], user=who.uid, group=who.gid, extra_groups=[], check=False).returncode == 0
    )


@needs_root
def test_fresh_volumes_get_owners_and_passwords_that_only_their_service_reads(stack: Stack) -> None:
    done = stack.run()

    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    redis, models = Owner(999, 999), Owner(64002, 64002)
    assert {name: rights(stack.state / name) for name in VOLUMES} == {
        "redis": Rights(redis, 0o700),
        "subject": Rights(RESEARCHER, 0o755),
        "journal": Rights(RESEARCHER, 0o755),
        "trials": Rights(Owner(0, 1000), 0o750),
        "data": Rights(ROOT, 0o755),
        "models": Rights(models, 0o755),
    }
    secrets = {
        stack.secrets / "redis" / "users.acl": redis,
        stack.secrets / "trainer" / "password": ROOT,
        stack.secrets / "dry-run-worker" / "password": ROOT,
        stack.secrets / "researcher" / "password": RESEARCHER,
        stack.secrets / "client" / "password": ROOT,
    }
    assert {path: rights(path) for path in secrets} == {path: Rights(owner, 0o400) for path, owner in secrets.items()}
    candidate = Owner(64001, 64001)
    for path, owner in secrets.items():
        strangers = {redis, RESEARCHER, SOMEBODY, candidate} - {owner}
        assert owner == ROOT or can_read(path, owner)
        assert not [who for who in strangers if can_read(path, who)]
    assert can_read(stack.state / "trials", RESEARCHER)
    assert not can_read(stack.state / "trials", candidate)


@needs_root
def test_users_of_redis_are_made_from_the_passwords(stack: Stack) -> None:
    stack.run()

    passwords = {service: stack.password(service) for service in SERVICES}
    assert (stack.secrets / "redis" / "users.acl").read_text() == acl_file(passwords)
    assert len(set(passwords.values())) == len(SERVICES)
    assert min(map(len, passwords.values())) >= 32


@needs_root
def test_the_second_run_changes_nothing_and_says_so(stack: Stack) -> None:
    stack.run(RESEARCHER_USER="1001:100")
    before = stack.everything()

    again = stack.run(RESEARCHER_USER="1001:100")

    assert (again.returncode, again.stdout) == (0, "secrets: nothing to do\n")
    assert stack.everything() == before


@needs_root
def test_a_lost_password_is_made_anew_and_the_other_stays(stack: Stack) -> None:
    stack.run()
    kept = stack.password("researcher")
    (stack.secrets / "trainer" / "password").unlink()

    done = stack.run()

    assert "made a password for trainer" in done.stdout
    assert "docker compose restart redis" in done.stdout
    assert stack.password("researcher") == kept
    assert (stack.secrets / "redis" / "users.acl").read_text() == acl_file(
        {service: stack.password(service) for service in SERVICES}
    )


@needs_root
def test_users_of_redis_are_renewed_when_they_are_not_what_this_version_wants(stack: Stack) -> None:
    stack.run()
    wanted = (stack.secrets / "redis" / "users.acl").read_text()
    (stack.secrets / "redis" / "users.acl").write_text("user default on nopass ~* +@all\n")

    stack.run()

    assert (stack.secrets / "redis" / "users.acl").read_text() == wanted


@needs_root
def test_another_researcher_gets_what_the_last_one_left(stack: Stack, tmp_path: Path) -> None:
    stack.run()
    kept = stack.password("researcher")
    (stack.state / "journal" / "deep").mkdir()
    (stack.state / "journal" / "deep" / "file").write_text("x")
    outside = tmp_path / "outside"
    outside.write_text("x")
    (stack.state / "journal" / "link").symlink_to(outside)
    (stack.state / "trials" / "e-1-t0-a0").mkdir()
    give(stack.state / "journal" / "deep", RESEARCHER)

    done = stack.run(RESEARCHER_USER=str(SOMEBODY))

    assert done.returncode == 0
    for path in (
        stack.state / "journal",
        *(stack.state / "journal").rglob("*"),
        stack.secrets / "researcher" / "password",
    ):
        assert rights(path).owner == SOMEBODY, path
    assert rights(outside).owner == ROOT
    assert rights(stack.state / "trials").owner == Owner(0, SOMEBODY.gid)
    assert stack.password("researcher") == kept


@needs_root
def test_a_repository_of_the_users_own_is_left_as_it_is(stack: Stack) -> None:
    repository(stack.subject)
    give(stack.subject, SOMEBODY)
    before = {path: rights(path) for path in (stack.subject, *stack.subject.rglob("*"))}

    done = stack.run(SUBJECT_DIR="../lab", RESEARCHER_USER=str(SOMEBODY))

    assert done.returncode == 0
    assert {path: rights(path) for path in before} == before


@needs_root
@pytest.mark.parametrize("wrong", [".", ".git", ".git/refs/heads"])
def test_a_repository_that_the_researcher_cannot_write_is_refused_in_one_line(stack: Stack, wrong: str) -> None:
    repository(stack.subject)
    give(stack.subject, RESEARCHER)
    os.chown(stack.subject / wrong, 1001, 100)
    before = stack.everything()

    done = stack.run(SUBJECT_DIR="../lab")

    assert done.returncode == 2
    remedy = "write RESEARCHER_USER=1001:100 into gpu.env" if wrong == "." else HAND_OVER
    assert done.stdout.splitlines() == [
        f"secrets: SUBJECT_DIR ../lab: {wrong} belongs to 1001:100 (mode "
        f"{rights(stack.subject / wrong).mode:o}) and the researcher, 1000:1000, cannot write there; next: {remedy}"
    ]
    assert stack.everything() == before


@needs_root
def test_an_empty_subject_folder_is_refused(stack: Stack) -> None:
    done = stack.run(SUBJECT_DIR="./typo")

    assert done.returncode == 2
    assert "SUBJECT_DIR ./typo is an empty folder" in done.stdout


@needs_root
def test_volumes_that_are_not_mounted_are_named(stack: Stack) -> None:
    (stack.state / "journal").rmdir()

    done = stack.run()

    assert done.returncode == 2
    assert f"{stack.state / 'journal'}: no such folder" in done.stdout


@pytest.mark.parametrize("text", ["root", "1000", "0:0", "0:1000", "1000:", "-1:5", "1000:1000 "])
def test_a_researcher_that_is_no_ordinary_user_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"RESEARCHER_USER=.*next: write RESEARCHER_USER=1000:1000"):
        researcher_from(text)


@pytest.mark.parametrize(
    ("who", "mode", "lets"),
    [
        (Owner(1, 1), 0o700, True),
        (Owner(1, 1), 0o077, False),  # the owner's bits count, and they alone
        (Owner(2, 1), 0o770, True),
        (Owner(2, 1), 0o707, False),
        (Owner(2, 2), 0o707, True),
        (Owner(2, 2), 0o775, False),
    ],
)
def test_rights_are_read_as_the_kernel_reads_them(who: Owner, mode: int, lets: bool) -> None:
    assert Rights(Owner(1, 1), mode).let(who, stat.S_IRWXO) is lets


def test_only_what_differs_is_settled() -> None:
    right, wrong_mode, wrong_owner = (Path(name) for name in "abc")
    wanted = dict.fromkeys((right, wrong_mode, wrong_owner), Rights(RESEARCHER, 0o755))
    found = wanted | {wrong_mode: Rights(RESEARCHER, 0o700), wrong_owner: Rights(ROOT, 0o755)}

    assert set(to_change(wanted, found)) == {wrong_mode, wrong_owner}


@pytest.mark.parametrize(
    ("top", "remedy"),
    [
        (SOMEBODY, "next: write RESEARCHER_USER=1001:100 into gpu.env"),
        (ROOT, f"next: {HAND_OVER}"),  # never become root
        (RESEARCHER, f"next: {HAND_OVER}"),
    ],
)
def test_the_remedy_follows_from_whose_the_repository_is(top: Owner, remedy: str) -> None:
    said = complaint("../lab", ".git", Rights(ROOT, 0o755), Rights(top, 0o755), RESEARCHER)

    assert said.endswith(remedy)
