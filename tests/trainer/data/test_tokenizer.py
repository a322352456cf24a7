"""The tokenizer: every text comes back, and the table of token bytes adds up to the text's own bytes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.trainer.data.conftest import story
from trainer.data import TextUnusable
from trainer.data.tokenizer import RESERVED, encode, token_bytes, train_tokenizer

DOCUMENTS = [story(seed) for seed in range(6)]
TOKENIZER = train_tokenizer(DOCUMENTS, 320)
TABLE = token_bytes(TOKENIZER)


@given(st.text(max_size=200))
def test_token_bytes_of_any_text_sum_to_its_utf8_length(text: str) -> None:
    (tokens,) = encode(TOKENIZER, [text])

    assert int(TABLE[tokens].sum()) == len(text.encode())
    assert TOKENIZER.decode(tokens.tolist(), skip_special_tokens=False) == text


@given(st.sampled_from(RESERVED), st.text(max_size=20))
def test_text_that_spells_a_reserved_token_is_text(reserved: str, around: str) -> None:
    text = around + reserved + around

    (tokens,) = encode(TOKENIZER, [text])

    assert tokens.min() >= len(RESERVED)
    assert int(TABLE[tokens].sum()) == len(text.encode())


def test_reserved_tokens_come_first_and_stand_for_no_bytes() -> None:
    assert [TOKENIZER.id_to_token(index) for index in range(4)] == list(RESERVED)
    assert TABLE[:4].tolist() == [0, 0, 0, 0]
    assert (TABLE[4:] > 0).all()
    assert TABLE.dtype == np.int32
    assert len(TABLE) == 320


def test_training_twice_gives_the_same_file() -> None:
    assert train_tokenizer(DOCUMENTS, 320).to_str() == TOKENIZER.to_str()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("It's 12345 o'clock", ["It", "'s", "Ġ", "12", "34", "5", "Ġo", "'clock"]),
        ("we'LL go, now!\n\n  Then", ["we", "'LL", "Ġgo", ",", "Ġnow", "!ĊĊ", "Ġ", "ĠThen"]),
        ("tab\tbed  \nend", ["tab", "ĉbed", "ĠĠĊ", "end"]),
    ],
)
def test_text_is_cut_into_pieces_of_at_most_two_digits(text: str, pieces: list[str]) -> None:
    found = [piece for piece, _ in TOKENIZER.pre_tokenizer.pre_tokenize_str(text)]

    assert found == pieces


def test_documents_are_read_only_as_far_as_the_limit_goes() -> None:
    read: list[int] = []

    def documents() -> Iterator[str]:
        for number, document in enumerate(DOCUMENTS):
            read.append(number)
            yield document

    train_tokenizer(documents(), 300, characters=len(DOCUMENTS[0]) + 10)

    assert read == [0, 1, 2]


def test_too_little_text_for_the_vocabulary_is_refused_with_both_numbers() -> None:
    with pytest.raises(TextUnusable, match=r"yields \d+ tokens, the profile wants a vocabulary of 5000"):
        train_tokenizer(["a few words"], 5000)


def test_a_fault_in_the_documents_is_not_hidden_by_the_training() -> None:
    def documents() -> Iterator[str]:
        yield DOCUMENTS[0]
        raise TextUnusable("shard is damaged")

    with pytest.raises(TextUnusable, match="shard is damaged"):
        train_tokenizer(documents(), 300)


def test_a_saved_tokenizer_encodes_the_same() -> None:
    loaded = Tokenizer.from_str(TOKENIZER.to_str())

    assert [piece.tolist() for piece in encode(loaded, DOCUMENTS)] == [
        piece.tolist() for piece in encode(TOKENIZER, DOCUMENTS)
    ]
