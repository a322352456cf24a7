"""Anyone's own text: what is held out, what is refused, and how long files are cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainer.data.conftest import story
from trainer.data import TextUnusable, prepare
from trainer.data.documents import SPLITS
from trainer.data.owntext import TextFile, documents_of, hold_out, own_text
from trainer.jobs import Profile


def test_whole_files_are_held_out_and_none_is_in_two_splits(own_folder: Path) -> None:
    text = own_text(own_folder)

    documents = {split: list(text.documents(split)) for split in SPLITS}

    assert sorted(map(len, documents.values())) == [1, 1, 6]
    assert sorted(chain(*documents.values())) == sorted(map(story, range(8)))
    assert text.how_split.startswith("whole files: 6 to train on, 1 for validation, 1 held out")


def test_renaming_a_file_moves_nothing(own_folder: Path) -> None:
    before = own_text(own_folder)
    held = list(before.documents("val"))

    for path in list(own_folder.rglob("*.txt")):
        path.rename(path.with_name(f"zz-{path.name}"))

    assert list(own_text(own_folder).documents("val")) == held
    assert own_text(own_folder).source == before.source


def test_the_same_text_in_two_files_counts_once_and_empty_files_do_not(own_folder: Path) -> None:
    before = own_text(own_folder)

    (own_folder / "copy.md").write_text(story(0), encoding="utf-8")
    (own_folder / "empty.txt").write_text("\n \n")
    (own_folder / "picture.png").write_bytes(b"\xff\xfe")

    assert own_text(own_folder).source == before.source


@given(st.lists(st.integers(1, 10**6), min_size=3, max_size=60))
def test_every_split_gets_a_file_and_the_largest_is_trained_on(sizes: list[int]) -> None:
    files = [TextFile(Path(str(number)), f"{number:03d}", size) for number, size in enumerate(sizes)]

    splits = hold_out(files)

    assert all(splits.values())
    assert sorted(chain(*splits.values()), key=lambda file: file.sha256) == files
    assert max(sizes) in [file.characters for file in splits["train"]]


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_files_are_cut_by_position_and_it_is_said(tmp_path: Path, count: int, tiny: Profile) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(count):
        (tmp_path / "texts" / f"{number}.txt").write_text(story(number, 300), encoding="utf-8")
    notes: list[str] = []

    text = own_text(tmp_path / "texts")
    manifest = prepare(tiny, tmp_path / "data", text=tmp_path / "texts", report=lambda stage: notes.append(stage.note))

    whole = "".join(story(number, 300) for number in range(count))
    pieces = {split: list(text.documents(split)) for split in SPLITS}
    assert sum(len(piece) for split in SPLITS for piece in pieces[split]) == len(whole)
    assert all(len(pieces[split]) == count for split in SPLITS)
    assert all(piece.endswith("\n\n") for piece in pieces["train"] + pieces["val"])
    assert manifest.how_split.startswith(f"by position, as there are fewer than three different files ({count})")
    assert any("by position" in note for note in notes)


@given(st.text(alphabet="ab \n", max_size=300), st.integers(8, 50))
def test_a_long_text_is_cut_without_losing_a_character(text: str, longest: int) -> None:
    pieces = list(documents_of(text, longest))

    joined = "".join(pieces)
    assert text.startswith(joined)
    assert not text[len(joined) :].strip()
    assert all(len(piece) <= longest for piece in pieces)


def _become_a_file(folder: Path) -> None:
    folder.rename(folder.with_name("moved"))
    folder.write_text("text")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "latin.txt").write_bytes(b"caf\xe9"), r"latin\.txt is not UTF-8 \(byte 3\); convert"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.*")], r"holds no \*\.txt or \*\.md file"),
        (lambda folder: folder.rename(folder.with_name("moved")), r"cannot be read \(No such file or directory\)"),
        (_become_a_file, r"cannot be read \(Not a directory\)"),
    ],
    ids=["not UTF-8", "no files", "no folder", "a file"],
)
def test_what_cannot_be_used_is_named(
    own_folder: Path, tiny: Profile, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(own_folder)

    with pytest.raises(TextUnusable, match=message):
        prepare(tiny, own_folder.parent / "data", text=own_folder)


def test_too_little_text_to_fill_a_row_names_the_slice(own_folder: Path, tiny: Profile) -> None:
    for path in own_folder.rglob("*.*"):
        path.unlink()
    (own_folder / "long.txt").write_text(story(1, 200), encoding="utf-8")
    (own_folder / "a.txt").write_text("brief", encoding="utf-8")
    (own_folder / "b.txt").write_text("too", encoding="utf-8")

    with pytest.raises(TextUnusable, match=r"the val slice of the text has \d+ tokens, one row takes 33; give more"):
        prepare(tiny, own_folder.parent / "data", text=own_folder)


def test_a_file_that_changes_meanwhile_is_not_mixed_in(own_folder: Path) -> None:
    text = own_text(own_folder)
    text.files["val"][0].path.write_text("another text", encoding="utf-8")

    with pytest.raises(TextUnusable, match="changed while it was read; run the same command again"):
        list(text.documents("val"))
