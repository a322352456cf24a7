"""The digests of data tell whether scores on them compare with those of a run."""

import json
from pathlib import Path

import pytest

from researcher.config.data_digests import DataDigests, read_digests
from researcher.errors import SubjectError

FILES = {"train.npy": "1", "private/val.npy": "2", "private/unseen.npy": "3"}


def digests_of(folder: Path, **manifest: object) -> DataDigests:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return read_digests(folder)


@pytest.mark.parametrize(
    ("changed", "are_those_of_the_run"),
    [
        ({}, True),
        ({"private/unseen.npy": "other"}, True),
        ({"private/val.npy": "other"}, False),
        ({"train.npy": "other"}, False),
        ({"tokenizer.json": "new"}, False),
    ],
    ids=["the same", "another secret", "other rows", "other text", "a file more"],
)
def test_data_that_are_prepared_again_may_differ_in_their_unseen_slice_alone(
    tmp_path: Path, changed: dict[str, str], are_those_of_the_run: bool
) -> None:
    before = digests_of(tmp_path, digest="d", sha256=FILES)
    after = digests_of(tmp_path, digest="e" if changed else "d", sha256=FILES | changed)

    assert after.are_those_of(before.whole, before.without_unseen) is are_those_of_the_run


def test_data_of_a_task_and_of_an_older_run_are_known_by_the_whole_digest(tmp_path: Path) -> None:
    task = digests_of(tmp_path, digest="d")

    assert task.without_unseen is None
    assert task.are_those_of("d", None)
    assert not task.are_those_of("e", None)


def test_an_upgrade_that_added_the_unseen_slice_keeps_the_data(tmp_path: Path) -> None:
    upgraded = digests_of(tmp_path, digest="e", earlier_digest="d", sha256=FILES)

    assert upgraded.are_those_of("d", None)
    assert not upgraded.are_those_of("c", None)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": "d", "sha256": 3}'])
def test_a_folder_without_a_manifest_of_data_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)

    with pytest.raises(SubjectError, match="overnight prepare"):
        read_digests(tmp_path)
