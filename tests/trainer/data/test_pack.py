"""Packing, as properties: nothing is lost or made up, every row starts with BOS, the same in gives the same out."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.pack import Tokens, mixed_order, pack, write_rows

BOS = 0
LENGTHS = st.lists(st.integers(0, 60), max_size=40)
WIDTH = st.integers(2, 20)
WAITING = st.integers(0, 8)


def documents_of(lengths: list[int]) -> list[Tokens]:
    """Documents without a token in common, so that a row says where each of its tokens is from."""
    starts = np.cumsum([1, *lengths])
    return [np.arange(start, start + length, dtype=np.uint16) for start, length in zip(starts, lengths, strict=False)]


@given(LENGTHS, WIDTH, WAITING)
def test_every_token_comes_out_once(lengths: list[int], width: int, waiting: int) -> None:
    documents = documents_of(lengths)

    rows = list(pack(documents, width, BOS, waiting))

    packed = sorted(token for row in rows for token in row.tolist() if token != BOS)
    assert packed == list(range(1, sum(lengths) + 1))


@given(LENGTHS, WIDTH, WAITING)
def test_all_rows_but_the_last_are_full_and_start_with_bos(lengths: list[int], width: int, waiting: int) -> None:
    rows = list(pack(documents_of(lengths), width, BOS, waiting))

    assert all(row[0] == BOS for row in rows)
    assert all(len(row) == width for row in rows[:-1])
    assert all(len(row) <= width for row in rows)
    assert all(row.dtype == np.uint16 for row in rows)


@given(LENGTHS, WIDTH, WAITING)
def test_tokens_of_a_document_keep_their_order_and_follow_a_bos(lengths: list[int], width: int, waiting: int) -> None:
    documents = documents_of(lengths)

    rows = list(pack(documents, width, BOS, waiting))

    starts = {int(document[0]) for document in documents if len(document)}
    stream = [token for row in rows for token in row.tolist()]
    for before, token in pairwise(stream):
        assert BOS in (before, token) or (token == before + 1 and token not in starts)
    for document in documents:
        places = [stream.index(token) for token in document.tolist()]
        assert places == sorted(places)


@given(LENGTHS, WIDTH, WAITING)
def test_packing_twice_gives_the_same_rows(lengths: list[int], width: int, waiting: int) -> None:
    first = [row.tolist() for row in pack(documents_of(lengths), width, BOS, waiting)]

    assert [row.tolist() for row in pack(documents_of(lengths), width, BOS, waiting)] == first


def test_the_longest_document_that_fits_is_taken() -> None:
    rows = list(pack(documents_of([5, 3, 6, 1]), 10, BOS))

    assert [row.tolist() for row in rows] == [
        [0, 9, 10, 11, 12, 13, 14, 0, 15, 0],
        [0, 1, 2, 3, 4, 5, 0, 6, 7, 8],
    ]


def test_best_fit_cuts_less_than_half_as_often_as_filling_in_order() -> None:
    lengths = np.random.default_rng(5).integers(20, 250, 2000).tolist()
    documents = [np.full(length, number + 1, dtype=np.uint16) for number, length in enumerate(lengths)]

    best = _pieces(list(pack(documents, 257, BOS)))
    in_order = _pieces(list(pack(documents, 257, BOS, waiting=0)))

    assert best - len(documents) < 0.5 * (in_order - len(documents))


def _pieces(rows: list[Tokens]) -> int:
    return sum(int(np.count_nonzero(row == BOS)) for row in rows)


def test_written_rows_are_the_packed_ones_in_a_fixed_mixed_order(tmp_path: Path) -> None:
    rows = [np.array([BOS, number, number], dtype=np.uint16) for number in range(1, 101)]

    written = write_rows(iter([*rows, np.array([BOS, 7], dtype=np.uint16)]), 3, BOS, tmp_path / "a.npy", tmp_path / "s")

    stored = np.load(tmp_path / "a.npy")
    assert (written.rows, written.dropped_tokens) == (100, 1)
    assert stored.dtype == np.uint16
    assert stored[:, 1].tolist() == [rows[place][1] for place in mixed_order(100)]
    assert sorted(stored[:, 1].tolist()) == list(range(1, 101))
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_the_mixed_order_is_the_one_of_every_run_before() -> None:
    assert mixed_order(8).tolist() == [4, 1, 3, 6, 0, 7, 2, 5]
