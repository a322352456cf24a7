"""What a candidate holds on disks, counted on real files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from trainer import disk
from trainer.disk import Held, Hidden, Holdings

BLOCK_MIB = 4096 / 2**20


@pytest.fixture(autouse=True)
def looks_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """However busy the machine: one look is one round."""
    monkeypatch.setattr(disk, "_SLICE_S", 600)


def test_files_count_by_the_room_they_take_and_no_link_is_followed_or_counted_twice(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    outside.write_bytes(os.urandom(2**22))
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "large").write_bytes(os.urandom(2**20))
    (folder / "again").hardlink_to(folder / "a" / "large")
    os.truncate(os.open(folder / "sparse", os.O_CREAT | os.O_RDWR), 10**10)
    (folder / "link").symlink_to(outside)

    assert Holdings(folder).look([]) == Held(files=5, mib=pytest.approx(1 + 3 * BLOCK_MIB))


def test_open_files_without_a_name_count_once_whoever_holds_them(tmp_path: Path) -> None:
    with tempfile.TemporaryFile(dir=tmp_path) as nameless:
        nameless.write(os.urandom(2**20))
        nameless.flush()
        held = Holdings(tmp_path).look([os.getpid(), os.getpid()])

    assert held.mib >= 1
    assert held.mib < 2


def test_what_takes_longer_than_a_look_is_counted_on_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_SLICE_S", 0)
    for name in "abc":
        (tmp_path / name).touch()
    holdings = Holdings(tmp_path)

    assert [holdings.look([]).files for _ in range(8)] == [1, 2, 3, 3, 1, 2, 3, 3]


@pytest.mark.parametrize(
    ("name", "words"), [("deep", "folders deeper than 64"), ("n" * 250, "cannot be looked into .File name too long")]
)
def test_folder_that_cannot_be_looked_into_is_said(name: str, words: str, tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(66):
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)

    with pytest.raises(Hidden, match=words):
        Holdings(tmp_path).look([])


def test_folder_that_is_not_there_yet_holds_nothing(tmp_path: Path) -> None:
    assert Holdings(tmp_path / "later").look([]) == Held(0, 0.0)
