"""The guardian's own small duties; what it does to whole trees is shown in test_faults.py and test_worker.py."""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer.conftest import everything_dead
from trainer.grants import grants
from trainer.guardian import write_files
from trainer.launch import MARKER, Ending, Orders, helper
from trainer.leftovers import wipe


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
        ("0 - 1.5 220.25 0 itself\n", Ending(0, None, "itself", 1.5, 220.25, 0)),
        ("- 9 0.1 10.0 3 wall limit\n", Ending(None, 9, "wall limit", 0.1, 10.0, 3)),
    ],
)
def test_report_is_read_back(line: str, ending: Ending) -> None:
    assert Ending.from_report(line) == ending


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
from trainer import guardian, linux, procfs

linux.become_subreaper()
with subprocess.Popen([sys.executable, sys.argv[1]], stdout=subprocess.PIPE) as tree:
    tree.stdout.readline()
    guardian.kill_tree()
    print(len(procfs.descendants(os.getpid())))
"""


def test_tree_that_forks_while_it_is_killed_is_dead_at_the_end() -> None:
    subject = Path(__file__).parents[1] / "subjects" / "respawns.py"

    done = subprocess.run([sys.executable, "-c", KILLS_A_TREE, subject], capture_output=True, text=True, check=True)

    assert done.stdout == "0\n"


def test_guardian_alone_ends_at_its_wall_limit_what_ignores_everything(tmp_path: Path) -> None:
    """As when the supervisor is stopped and neither asks nor dies."""
    reading, writing = os.pipe()
    folder = tmp_path / "work" / "e-1-t1-a1"
    folder.parent.mkdir()
    orders = Orders(
        folder=str(folder),
        files={},
        argv=["/bin/sh", "-c", "trap '' TERM HUP INT; setsid sleep 1000 & sleep 1000"],
        env={MARKER: str(folder)},
        user=None,
        grants=grants(tmp_path),
        own_root=False,
        log_fd=writing,
        keep_fds=[],
        wall_limit_s=0.5,
        file_mib=1,
        processes=64,
    )

    done = subprocess.run(
        helper("guardian", str(os.getpid())),
        check=True,
        input=marshal.dumps(dict(orders)),
        capture_output=True,
        pass_fds=[writing],
    )

    ending = Ending.from_report(done.stdout.decode())
    assert (ending.ended_by, ending.signal) == ("wall limit", signal.SIGKILL), done.stderr
    assert ending.leftovers >= 1
    assert everything_dead(folder.parent)
    os.close(reading)
    os.close(writing)
