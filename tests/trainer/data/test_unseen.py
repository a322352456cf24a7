"""The unseen slice: text that nobody has written; an honest model scores on it, and known text does not help."""

from __future__ import annotations

import random
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer

from researcher.config.data_digests import read_digests
from tests.trainer.data.conftest import Prepared, as_it_was, story
from trainer.data import FolderTaken, NotPrepared, TextUnusable, prepare, read_manifest, upgrade, verify
from trainer.data.generated import GENERATED, SECRET
from trainer.data.runs import exchanged_runs
from trainer.data.words import Lexicon, exchanged_words, pieces_of, spliced
from trainer.jobs import PROFILES, Profile
from trainer.scoring.rows import DataFault, read_rows

Rows = npt.NDArray[np.uint16]
SLICES = ("train.npy", "private/val.npy", "private/heldout.npy", "private/unseen.npy")
KNOWN_CONTEXT = 4


@pytest.fixture(scope="session")
def slices(prepared_plays: Prepared) -> list[Rows]:
    return [np.load(prepared_plays.folder / name) for name in SLICES]


Memory = dict[tuple[int, ...], int]


def by_heart(known: Rows) -> Memory:
    """The token that most often follows four tokens in `known`."""
    said = defaultdict[tuple[int, ...], Counter[int]](Counter)
    for row in known.tolist():
        for at in range(KNOWN_CONTEXT, len(row)):
            said[tuple(row[at - KNOWN_CONTEXT : at])][row[at]] += 1
    return {before: after.most_common(1)[0][0] for before, after in said.items()}


def recalled(memory: Memory, rows: Rows) -> float:
    """The share of tokens that whoever has this memory says rightly from the four tokens before."""
    right = 0
    for row in rows.tolist():
        for at in range(KNOWN_CONTEXT, len(row)):
            right += memory.get(tuple(row[at - KNOWN_CONTEXT : at])) == row[at]
    return right / (len(rows) * (rows.shape[1] - KNOWN_CONTEXT))


def bigram_bits(learnt: Rows, rows: Rows, vocab: int) -> float:
    """Bits a token of an honest, if simple, model of the training rows."""
    counts = np.ones((vocab, vocab)) * 0.05
    np.add.at(counts, (learnt[:, :-1], learnt[:, 1:]), 1)
    chances = counts / counts.sum(axis=1, keepdims=True)
    return float(-np.log2(chances[rows[:, :-1], rows[:, 1:]]).mean())


def test_who_has_the_scored_text_by_heart_knows_next_to_nothing_of_it(slices: list[Rows]) -> None:
    train, val, heldout, unseen = slices
    known = by_heart(np.concatenate([val, heldout]))

    assert recalled(known, val) > 0.9
    assert recalled(known, unseen) < 0.06
    assert recalled(known, train[:400]) > 0.02, "so much is the same in plays that it does not know"
    assert len(unseen) >= PROFILES["cpu"].budget.unseen_rows


def test_what_a_model_learns_of_the_training_text_helps_there_as_on_the_validation_text(slices: list[Rows]) -> None:
    train, val, _, unseen = slices
    vocab = PROFILES["cpu"].vocab_size
    little, much = train[:100], train

    gains = [bigram_bits(little, rows, vocab) - bigram_bits(much, rows, vocab) for rows in (val, unseen)]

    assert 0.7 < gains[1] / gains[0] < 1.3


def test_common_words_stay_others_change_and_the_same_word_becomes_the_same_one(prepared_plays: Prepared) -> None:
    tokenizer = Tokenizer.from_file(str(prepared_plays.folder / "tokenizer.json"))
    train = np.load(prepared_plays.folder / "train.npy")[:500]
    lexicon = Lexicon.of(pieces_of(train, tokenizer, 0))

    made = lexicon.exchanged("DOGBERRY:\nAnd the fellow is the fellow of DOGBERRY, and not.\n", random.Random(1))

    words = made.replace(":", "").replace(",", "").replace(".", "").split()
    assert [words[at] for at in (1, 2, 4, 5, 7, 9, 10)] == ["And", "the", "is", "the", "of", "and", "not"]
    assert words[0] == words[8] != "DOGBERRY"
    assert words[0].isupper()
    assert words[3] == words[6] != "fellow"


def test_the_order_of_words_is_that_of_the_known_text_for_a_few_words_only(prepared_plays: Prepared) -> None:
    tokenizer = Tokenizer.from_file(str(prepared_plays.folder / "tokenizer.json"))
    pieces = list(pieces_of(np.load(prepared_plays.folder / "private" / "heldout.npy")[:100], tokenizer, 0))
    common = Lexicon.of(iter(pieces)).common

    made = list(spliced(pieces, common, random.Random(1)))

    known = {window for piece in pieces for window in windows(piece)}
    found = [window in known for piece in made for window in windows(piece)]
    assert abs(sum(map(len, made)) - sum(map(len, pieces))) < 0.05 * sum(map(len, pieces))
    assert sum(found) / len(found) < 0.4


def windows(piece: str) -> list[tuple[str, ...]]:
    """Every eight words in a row."""
    words = piece.split()
    return [tuple(words[at : at + 8]) for at in range(len(words) - 7)]


def test_runs_of_tokens_are_exchanged_where_there_is_no_tokenizer(slices: list[Rows]) -> None:
    train, val, heldout, _ = slices

    made = exchanged_runs(train, heldout, 0, "secret")

    assert made.shape == heldout.shape
    assert np.array_equal(made == 0, heldout == 0)
    assert 0.4 < (made != heldout).mean() < 0.7
    assert recalled(by_heart(np.concatenate([val, heldout])), made) < 0.06


def test_another_secret_makes_another_slice_and_the_same_one_the_same(
    slices: list[Rows], prepared_plays: Prepared
) -> None:
    train, _, heldout, _ = slices
    tokenizer = Tokenizer.from_file(str(prepared_plays.folder / "tokenizer.json"))
    words = [exchanged_words(train[:200], heldout[:40], tokenizer, 0, secret) for secret in ("a", "a", "b")]
    runs = [exchanged_runs(train[:200], heldout[:40], 0, secret) for secret in ("a", "a", "b")]

    for first, same, other in (words, runs):
        assert np.array_equal(first, same)
        assert not np.array_equal(first[: len(other)], other[: len(first)])


def test_each_folder_has_a_secret_of_its_own_that_is_named_nowhere(
    own_folder: Path, tiny: Profile, tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    manifests = [prepare(tiny, folder, text=own_folder) for folder in folders]
    secrets = [(folder / SECRET).read_text() for folder in folders]

    assert secrets[0] != secrets[1]
    assert manifests[0].sha256["private/unseen.npy"] != manifests[1].sha256["private/unseen.npy"]
    assert manifests[0].digest != manifests[1].digest
    first, second = map(read_digests, folders)
    assert first.without_unseen == second.without_unseen is not None, "a run goes on with data that are prepared again"
    readable = [path for path in folders[0].iterdir() if path.is_file()]
    assert not any(secrets[0].encode() in path.read_bytes() for path in readable)


def test_data_of_an_earlier_version_are_refused_until_prepare_adds_what_they_lack(
    own_folder: Path, tiny: Profile, tmp_path: Path
) -> None:
    now = prepare(tiny, tmp_path / "data", text=own_folder)
    before = as_it_was(tmp_path / "data")

    with pytest.raises(NotPrepared, match=r"before there was an unseen slice.*run `overnight prepare`"):
        read_manifest(tmp_path / "data")
    with pytest.raises(DataFault, match=r"before there was an unseen slice.*run `overnight prepare`"):
        read_rows(tmp_path / "data", before)
    after = prepare(tiny, tmp_path / "data", text=own_folder)

    assert after.earlier_digest == before
    assert {name: after.sha256[name] for name in SLICES[:3]} == {name: now.sha256[name] for name in SLICES[:3]}
    assert (after.unseen, after.rows["unseen"] > 0) == (GENERATED, True)
    assert verify(tmp_path / "data") == after
    assert upgrade(tmp_path / "data") is None
    assert len(read_rows(tmp_path / "data", after.digest).unseen) == after.rows["unseen"]


def test_damaged_data_of_an_earlier_version_are_not_made_the_base_of_a_slice(
    own_folder: Path, tiny: Profile, tmp_path: Path
) -> None:
    prepare(tiny, tmp_path / "data", text=own_folder)
    as_it_was(tmp_path / "data")
    (tmp_path / "data" / "private" / "heldout.npy").write_bytes(b"")

    with pytest.raises(NotPrepared, match=r"heldout\.npy is not what an earlier version prepared; remove"):
        prepare(tiny, tmp_path / "data", text=own_folder)


def test_a_private_text_is_the_slice_as_it_is_and_stays_it(own_folder: Path, tiny: Profile, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "diary.md").write_text(story(77, 200), encoding="utf-8")

    manifest = prepare(tiny, tmp_path / "data", text=own_folder, unseen=mine)
    shutil.rmtree(mine)

    assert manifest.unseen.startswith("private, sha256 ")
    assert prepare(tiny, tmp_path / "data", text=own_folder) == manifest
    tokenizer = Tokenizer.from_file(str(tmp_path / "data" / "tokenizer.json"))
    rows = np.load(tmp_path / "data" / "private" / "unseen.npy")
    written = list(pieces_of(rows, tokenizer, 0))
    assert all(piece.strip("\N{REPLACEMENT CHARACTER}") in story(77, 200) for piece in written)
    assert not (tmp_path / "data" / SECRET).exists()


def test_a_private_text_that_is_lost_is_asked_for_and_another_one_is_refused(
    own_folder: Path, tiny: Profile, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.md").write_text(story(77, 200), encoding="utf-8")
    prepare(tiny, tmp_path / "data", text=own_folder, unseen=tmp_path / "mine")

    with pytest.raises(FolderTaken, match="unseen text private, sha256"):
        prepare(tiny, tmp_path / "data", text=own_folder, unseen=own_folder)
    (tmp_path / "data" / "private" / "unseen.npy").unlink()
    with pytest.raises(TextUnusable, match="name its folder again: `overnight prepare --unseen DIR`"):
        prepare(tiny, tmp_path / "data", text=own_folder)
    again = prepare(tiny, tmp_path / "data", text=own_folder, unseen=tmp_path / "mine")

    assert verify(tmp_path / "data") == again
