"""A root of a candidate's own on the real kernel: what is granted is there, read-only, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainer.sandbox.launch import isolated_command

IN_IT = """
import fcntl, os, sys
from pathlib import Path
from trainer.sandbox import landlock, private_root
here = Path(sys.argv[1])
granted = [("/usr", landlock.READ), ("/lib", landlock.READ), ("/lib64", landlock.READ), ("/proc", landlock.READ),
    (private_root.OWN_PROCESS, landlock.USE), ("/nowhere", landlock.READ), ("/dev/shm", landlock.ALL),
    ("/dev/null", landlock.USE), (sys.base_prefix, landlock.READ), (str(here / "link" / "read"), landlock.READ),
    (str(here / "one" / "file"), landlock.READ), (str(here / "listed"), landlock.LIST)]
own, file = here / "work" / "own", here / "link" / "read" / "file"
private_root.own_root(granted, str(own))
"""


@pytest.fixture
def here() -> Iterator[Path]:
    """A folder with things to grant and things not to; below /var/tmp, where other users may go."""
    with tempfile.TemporaryDirectory(prefix="overnight-test-", dir="/var/tmp") as name:
        folder = Path(name)
        for part in ("read", "one", "listed", "closed", "work/own"):
            (folder / part).mkdir(parents=True)
            (folder / part / "file").write_text("content")
            (folder / part / "other").write_text("content")
            os.utime(folder / part / "file", (0, 1))
        (folder / "link").symlink_to(".")
        yield folder


@pytest.fixture(autouse=True)
def needs_mounts() -> None:
    tried = subprocess.run(
        isolated_command("trainer.sandbox.private_root"), check=False, capture_output=True, text=True, cwd="/"
    )
    if tried.returncode != 0:
        pytest.skip(f"needs the right to mount, or to make a user namespace: {tried.stderr.strip()}")


def in_it(code: str, here: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", IN_IT + code, str(here)], check=False, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    "attempt",
    [
        "assert file.read_text() == 'content'",
        "assert (here / 'one' / 'file').read_text() == 'content'",
        "assert os.listdir(here / 'listed') == []",
        "(own / 'new').write_text('mine'); os.utime(own / 'new', (1, 1)); os.chmod(own / 'new', 0o700)",
        "Path('/dev/shm/new').write_text('mine')",
        "Path('/dev/null').write_text('x')",
        "assert os.readlink('/dev/stdout') == '/proc/self/fd/1'",
        "assert os.spawnv(os.P_WAIT, '/usr/bin/true', ['true']) == 0",
        "Path(f'/proc/self/task/{os.getpid()}/comm').write_text('named')",
        "assert os.getcwd() == '/'",
    ],
)
def test_what_is_granted_works(attempt: str, here: Path) -> None:
    done = in_it(attempt, here)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "attempt",
    [
        "file.write_text('mine')",
        "(file.parent / 'new').write_text('mine')",
        "os.utime(file, (1, 1))",
        "os.utime(file.parent, (1, 1))",
        "os.chmod(file, 0o777)",
        "os.chown(file, os.getuid(), os.getgid())",
        "os.setxattr(file, 'user.a', b'1')",
        "os.utime('/dev/null', (1, 1))",
        "os.utime(own.parent, (1, 1))",
        "os.mkdir('/new')",
        "os.mkdir('/usr/new')",
        "open('/proc/sys/kernel/core_pattern', 'r+')",
        "Path(f'/proc/{os.getppid()}/comm').write_text('named')",
    ],
)
def test_nothing_outside_can_be_changed(attempt: str, here: Path) -> None:
    done = in_it(f"try:\n {attempt}\nexcept OSError as refusal:\n print(refusal.strerror)", here)

    assert done.stdout.strip() == "Read-only file system", done.stderr


@pytest.mark.parametrize("path", ["closed", "closed/file", "one/other", "work/other", "listed/file"])
def test_what_is_not_granted_is_not_there(path: str, here: Path) -> None:
    done = in_it(
        f"print(os.path.lexists(here / {path!r}), os.path.lexists('/etc/passwd'), os.listdir('/var/tmp'))", here
    )

    assert done.stdout.strip() == f"False False [{here.name!r}]", done.stderr


def test_the_root_that_was_before_is_gone(here: Path) -> None:
    done = in_it("print([line.split()[1] for line in open('/proc/self/mounts')].count('/'))", here)

    assert done.stdout.strip() == "1", done.stderr


def test_no_time_tells_what_was_read(here: Path) -> None:
    done = in_it("file.read_text(); os.listdir(file.parent); print(os.stat(file).st_atime)", here)

    assert done.stdout.strip() == "0.0", done.stderr
    assert (here / "read" / "file").stat().st_atime == 0


def test_shared_memory_is_its_own_and_the_machine_sees_none_of_it(here: Path) -> None:
    name = f"overnight-test-{os.getpid()}"

    done = in_it(f"Path('/dev/shm/{name}').write_text('mine'); print(os.listdir('/dev/shm'))", here)

    assert done.stdout.strip() == f"[{name!r}]", done.stderr
    assert not Path("/dev/shm", name).exists()


def test_a_candidate_of_another_folder_is_not_seen(here: Path) -> None:
    """The folder that is worked in is all that there is of the one above it."""
    (here / "work" / "neighbour").mkdir()

    done = in_it("print(os.listdir(own.parent))", here)

    assert done.stdout.strip() == "['own']", done.stderr


def test_as_a_user_without_any_right_it_is_the_same(here: Path) -> None:
    """By a namespace of that user's own, where the kernel lets him make one."""
    if os.geteuid() != 0:
        pytest.skip("the other tests run as such a user already")
    uid = 60_000 + os.getpid() % 5_000
    tried = subprocess.run(
        isolated_command("trainer.sandbox.private_root"),
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
        user=uid,
        group=uid,
    )
    if tried.returncode != 0:
        pytest.skip(f"needs a kernel and a checkout that let others: {tried.stderr.strip()[-200:]}")
    here.chmod(0o755)
    os.chown(here / "work" / "own", uid, uid)
    os.chown(here / "read" / "file", uid, uid)
    code = "print(os.listdir(own.parent)); os.mkdir(own / 'new'); os.utime(file, (1, 1))"

    done = subprocess.run(
        [sys.executable, "-c", IN_IT + code, here], check=False, capture_output=True, text=True, user=uid, group=uid
    )

    assert done.stdout.strip() == "['own']", done.stderr
    assert "Read-only file system" in done.stderr
