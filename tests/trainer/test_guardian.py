"""The guardian's own small duties; what it does to whole trees is shown in test_faults.py and test_worker.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.guardian import write_files
from trainer.launch import Ending
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
