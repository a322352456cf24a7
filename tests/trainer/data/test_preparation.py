"""`prepare` as a whole: repeatable to the bit, resumable after kill -9, never two texts in one folder."""

from __future__ import annotations

import dataclasses
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from tests.trainer.data.conftest import share_secret, story
from trainer.data import FolderTaken, NotPrepared, PreparationStep, prepare, read_manifest, verify
from trainer.jobs import Profile
from trainer.sandbox.launch import User

# The child stops at every stage it reports until it is told to go on.
CHILD = """
import dataclasses, sys
from pathlib import Path
from trainer.data import prepare
from trainer.jobs import PROFILES
constants = {"MAX_SEQ_LEN": 32, "TIME_BUDGET": 1, "VOCAB_SIZE": 300}
def report(stage):
    print(f"{stage.name} {stage.done}", flush=True)
    sys.stdin.readline()
profile = dataclasses.replace(PROFILES["cpu"], name="tiny", constants=constants)
prepare(profile, Path(sys.argv[1]), text=Path(sys.argv[2]), report=report)
"""


@contextmanager
def preparing(folder: Path, text: Path, until: str) -> Iterator[subprocess.Popen[str]]:
    """A real process that stands still at the stage `until`; killed with -9 at the end."""
    command = [sys.executable, "-c", CHILD, str(folder), str(text)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            while (line := child.stdout.readline().strip()) != until:
                assert line, f"the child ended before {until}"
                child.stdin.write("\n")
                child.stdin.flush()
            yield child
        finally:
            child.kill()
            child.wait()
            child.stdin.close()


def test_two_folders_from_the_same_text_are_equal_to_the_bit(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    first = prepare(tiny, tmp_path / "a", text=own_folder)
    share_secret(tmp_path / "a", tmp_path / "b")
    second = prepare(tiny, tmp_path / "b", text=own_folder)

    assert first == second
    for name in first.sha256:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_one_thread_and_many_give_the_same_digest(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    lines = CHILD.replace("    sys.stdin.readline()\n", "")
    command = [sys.executable, "-c", lines, str(tmp_path / "a"), str(own_folder)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    share_secret(tmp_path / "a", tmp_path / "b")

    assert prepare(tiny, tmp_path / "b", text=own_folder).digest == read_manifest(tmp_path / "a").digest


@pytest.mark.parametrize(
    "until", ["tokenizer 3", "pack val 0", "pack heldout 1", "pack train 0", "pack train 6", "generate unseen 0"]
)
def test_a_killed_preparation_ends_with_the_same_digest(
    own_folder: Path, tiny: Profile, tmp_path: Path, until: str
) -> None:
    with preparing(tmp_path / "killed", own_folder, until):
        pass
    with pytest.raises(NotPrepared, match="holds no prepared data; run `overnight prepare`"):
        read_manifest(tmp_path / "killed")

    stages: list[PreparationStep] = []
    manifest = prepare(tiny, tmp_path / "killed", text=own_folder, report=stages.append)

    share_secret(tmp_path / "killed", tmp_path / "whole")
    assert manifest == prepare(tiny, tmp_path / "whole", text=own_folder)
    assert verify(tmp_path / "killed") == manifest
    assert not list((tmp_path / "killed").rglob("*.tmp"))
    done_before = until.startswith(("pack", "generate"))
    assert ("tokenizer" in {stage.name for stage in stages}) is not done_before


def test_two_at_once_are_refused(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    with (
        preparing(tmp_path / "data", own_folder, "pack val 0"),
        pytest.raises(FolderTaken, match="another process is preparing"),
    ):
        prepare(tiny, tmp_path / "data", text=own_folder)


def test_another_text_or_shape_is_refused_and_nothing_changes(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    manifest = prepare(tiny, tmp_path / "data", text=own_folder)
    wider = dataclasses.replace(tiny, constants={**tiny.constants, "MAX_SEQ_LEN": 64})

    with pytest.raises(FolderTaken, match=r"rows of 32 tokens.*rows of 64 tokens.*name another folder"):
        prepare(wider, tmp_path / "data", text=own_folder)
    (own_folder / "new.txt").write_text(story(99), encoding="utf-8")
    with pytest.raises(FolderTaken, match="name another folder, or remove this one"):
        prepare(tiny, tmp_path / "data", text=own_folder)

    assert verify(tmp_path / "data") == manifest


def test_an_unfinished_folder_is_not_gone_on_with_from_another_text(
    own_folder: Path, tiny: Profile, tmp_path: Path
) -> None:
    with preparing(tmp_path / "data", own_folder, "pack val 0"):
        pass
    (own_folder / "new.txt").write_text(story(99), encoding="utf-8")

    with pytest.raises(FolderTaken, match="name another folder, or remove this one"):
        prepare(tiny, tmp_path / "data", text=own_folder)


def test_a_profile_that_differs_in_name_only_shares_the_data(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    first = prepare(tiny, tmp_path / "data", text=own_folder)

    second = prepare(dataclasses.replace(tiny, name="other"), tmp_path / "data", text=own_folder)

    assert second == dataclasses.replace(first, profile="other") == read_manifest(tmp_path / "data")


@pytest.mark.parametrize(
    "name", ["train.npy", "private/val.npy", "private/unseen.npy", "tokenizer.json", "token_bytes.npy"]
)
@pytest.mark.parametrize("damage", ["gone", "shorter", "other"])
def test_damage_is_noticed_and_made_good_again(
    own_folder: Path, tiny: Profile, tmp_path: Path, name: str, damage: str
) -> None:
    manifest = prepare(tiny, tmp_path / "data", text=own_folder)
    path = tmp_path / "data" / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[:-2] + (b"\7\7" if damage == "other" else b""))

    with pytest.raises(NotPrepared, match=f"{name}.*run `overnight prepare`"):
        verify(tmp_path / "data")
    if damage != "other":
        with pytest.raises(NotPrepared):
            read_manifest(tmp_path / "data")
    stages: list[PreparationStep] = []
    again = prepare(tiny, tmp_path / "data", text=own_folder, report=stages.append)

    assert again == manifest
    assert verify(tmp_path / "data") == manifest
    assert stages[0].note.startswith("made again")


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_private_is_closed_to_others_and_the_rest_is_not(
    umask: int, own_folder: Path, tiny: Profile, tmp_path: Path
) -> None:
    prepare_under(umask, tiny, tmp_path / "data", own_folder)

    folder = tmp_path / "data"
    modes = {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}
    assert modes == {
        ".": 0o755,
        "manifest.json": 0o644,
        "token_bytes.npy": 0o644,
        "tokenizer.json": 0o644,
        "train.npy": 0o644,
        "private": 0o700,
        "private/heldout.npy": 0o600,
        "private/lock": 0o600,
        "private/secret": 0o600,
        "private/unseen.npy": 0o600,
        "private/val.npy": 0o600,
    }


def test_rights_that_were_lost_are_given_again(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    prepare(tiny, tmp_path / "data", text=own_folder)
    (tmp_path / "data" / "private" / "val.npy").chmod(0o644)
    (tmp_path / "data" / "train.npy").chmod(0o600)

    prepare(tiny, tmp_path / "data", text=own_folder)

    assert stat.S_IMODE((tmp_path / "data" / "private" / "val.npy").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data" / "train.npy").stat().st_mode) == 0o644


def test_another_user_reads_what_trains_and_nothing_that_scores(
    own_folder: Path, tiny: Profile, ground: Path, stranger: tuple[User, Path]
) -> None:
    prepare_under(0o077, tiny, ground / "prepared", own_folder)

    files = [path for path in (ground / "prepared").rglob("*") if path.is_file()]
    assert {path.name for path in files if can_read(stranger[0], path)} == {
        "manifest.json",
        "token_bytes.npy",
        "tokenizer.json",
        "train.npy",
    }


def prepare_under(umask: int, profile: Profile, folder: Path, text: Path) -> None:
    before = os.umask(umask)
    try:
        prepare(profile, folder, text=text)
    finally:
        os.umask(before)


def can_read(user: User, path: Path) -> bool:
    done = subprocess.run(
        ["cat", path], check=False, capture_output=True, user=user.uid, group=user.gid, extra_groups=[]
    )
    return done.returncode == 0


def test_no_row_of_a_held_out_slice_is_trained_on(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    prepare(tiny, tmp_path / "data", text=own_folder)
    rows = {
        name: {row.tobytes() for row in np.load(tmp_path / "data" / name)}
        for name in ("train.npy", "private/val.npy", "private/heldout.npy")
    }

    assert not rows["train.npy"] & rows["private/val.npy"]
    assert not rows["train.npy"] & rows["private/heldout.npy"]
    assert not rows["private/val.npy"] & rows["private/heldout.npy"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"manifest\.json is damaged; remove .* and run"),
        ("{}", r"manifest\.json is damaged; remove .* and run"),
    ],
)
def test_a_manifest_that_is_none_is_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(content)

    with pytest.raises(NotPrepared, match=message):
        read_manifest(tmp_path)


def test_data_of_a_newer_format_are_not_guessed_at(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    prepare(tiny, tmp_path, text=own_folder)
    manifest = (tmp_path / "manifest.json").read_text().replace('"format": 2', '"format": 3')
    (tmp_path / "manifest.json").write_text(manifest)

    with pytest.raises(NotPrepared, match="has data format 3, this version reads 2"):
        read_manifest(tmp_path)
