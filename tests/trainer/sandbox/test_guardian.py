"""The guardian's own small duties; what it does to whole trees is shown in test_faults.py and test_worker.py."""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import TESTS
from tests.fixtures.trials import everything_dead
from trainer.sandbox.cleanup import wipe
from trainer.sandbox.landlock import READ, USE, abi
from trainer.sandbox.launch import MARKER, ExitReport, Orders, can_own_root, isolated_command
from trainer.sandbox.layers import write_files
from trainer.sandbox.private_root import OWN_PROCESS
from trainer.sandbox.visible_paths import Grant, grants


@pytest.mark.parametrize("name", ["../train.py", "a/../../b", "/etc/passwd", ""])
def test_file_that_would_leave_the_work_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the work folder"):
        write_files(str(tmp_path / "subject"), {name: "x"})


def test_files_arrive_as_they_are(tmp_path: Path) -> None:
    write_files(str(tmp_path), {"train.py": "é\n", "parts/model.py": "x = 1\n"})

    assert (tmp_path / "train.py").read_text(encoding="utf-8") == "é\n"
    assert (tmp_path / "parts" / "model.py").exists()


@pytest.mark.parametrize(
    ("line", "ending"),
    [
        (
            "0 - 1.5 220.25 0 rlimits,seccomp itself\n",
            ExitReport(0, None, "itself", 1.5, 220.25, 0, ("rlimits", "seccomp")),
        ),
        ("- 9 0.1 10.0 3 - wall limit\n", ExitReport(None, 9, "wall limit", 0.1, 10.0, 3)),
    ],
)
def test_report_is_read_back(line: str, ending: ExitReport) -> None:
    assert ExitReport.from_report(line) == ending


def test_wiping_follows_no_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    work = tmp_path / "work"
    work.mkdir()
    (work / "link").symlink_to(outside)

    wipe(work)

    assert not work.exists()
    assert (outside / "kept").exists()


KILLS_A_TREE = """\
import os, subprocess, sys
from trainer.sandbox import guardian, procfs, syscalls

syscalls.become_subreaper()
with subprocess.Popen([sys.executable, sys.argv[1]], stdout=subprocess.PIPE) as tree:
    tree.stdout.readline()
    guardian.kill_tree()
    print(len(procfs.descendants(os.getpid())))
"""


def test_tree_that_forks_while_it_is_killed_is_dead_at_the_end() -> None:
    subject = TESTS / "subjects" / "respawns.py"

    done = subprocess.run([sys.executable, "-c", KILLS_A_TREE, subject], capture_output=True, text=True, check=True)

    assert done.stdout == "0\n"


WITH_A_GPU = """
import os
def tried(attempt):
    try:
        attempt()
    except OSError as refusal:
        return refusal.strerror
    return "done"
def name(path):
    with open(path, "w") as file:
        file.write("named")
print(tried(lambda: name(f"/proc/self/task/{os.getpid()}/comm")))
print(tried(lambda: os.close(os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))))
print(tried(lambda: name("/proc/self/oom_score_adj")))
print(tried(lambda: os.utime(0, (1, 1))))
"""


@pytest.mark.skipif(abi() == 0, reason="this kernel has no Landlock")
@pytest.mark.parametrize("own_root", [False, True])
def test_candidate_with_a_gpu_names_its_threads_and_writes_nothing_else_in_procfs(
    tmp_path: Path, own_root: bool
) -> None:
    if own_root and not can_own_root():
        pytest.skip("needs the right to mount, or to make a user namespace")
    argv = [sys.executable, "-S", "-c", WITH_A_GPU]

    said, ending = guarded(tmp_path, argv, own_root=own_root, more=[(OWN_PROCESS, USE | READ)])

    assert ending.exit_code == 0, said
    named, kernel, own, null = said.splitlines()
    assert named == "done"
    assert (kernel, own) == (("Read-only file system",) * 2 if own_root else ("Permission denied",) * 2)
    assert null == "Read-only file system" if own_root else True


def test_candidate_of_our_own_uid_cannot_pin_another_process_of_ours(tmp_path: Path) -> None:
    """Without capabilities, as it is itself: the kernel protects those that have more."""
    neighbour = "import sys; from trainer.sandbox import syscalls; syscalls.drop_capabilities()"
    neighbour += "; print(flush=True); sys.stdin.read()"
    pins = "import os, sys; os.sched_setaffinity(int(sys.argv[1]), os.sched_getaffinity(0))"
    with subprocess.Popen([sys.executable, "-c", neighbour], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"\n"

        said, _ = guarded(tmp_path, [sys.executable, "-S", "-c", pins, str(other.pid)])

    assert "PermissionError: [Errno 1] Operation not permitted" in said


def test_guardian_alone_ends_at_its_wall_limit_what_ignores_everything(tmp_path: Path) -> None:
    """As when the supervisor is stopped and neither asks nor dies."""
    argv = ["/bin/sh", "-c", "trap '' TERM HUP INT; setsid sleep 1000 & sleep 1000"]

    _, ending = guarded(tmp_path, argv, wall_limit_s=0.5)

    assert (ending.ended_by, ending.signal) == ("wall limit", signal.SIGKILL)
    assert ending.leftovers >= 1
    assert everything_dead(tmp_path / "work")


def guarded(
    tmp_path: Path, argv: list[str], *, own_root: bool = False, wall_limit_s: float = 60, more: Sequence[Grant] = ()
) -> tuple[str, ExitReport]:
    """What a guardian's candidate printed, and how it ended; it is granted `more` than candidates are."""
    reading, writing = os.pipe()
    folder = tmp_path / "work" / "e-1-t1-a1"
    folder.parent.mkdir()
    orders = Orders(
        folder=str(folder),
        files={},
        argv=argv,
        env={MARKER: str(folder)},
        user=None,
        grants=[*grants(tmp_path), *more],
        own_root=own_root,
        log_fd=writing,
        keep_fds=[],
        caches_fd=None,
        wall_limit_s=wall_limit_s,
        file_mib=1,
        processes=64,
    )
    done = subprocess.run(
        isolated_command("trainer.sandbox.guardian", str(os.getpid())),
        check=True,
        input=marshal.dumps(dict(orders)),
        capture_output=True,
        pass_fds=[writing],
    )
    os.close(writing)
    with open(reading, "rb") as log:
        return log.read().decode(), ExitReport.from_report(done.stdout.decode())
