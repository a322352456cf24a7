"""The byte-level BPE tokenizer, trained on the training documents alone. The same text always gives the same file.

Every UTF-8 text can be encoded and decodes to itself. Text that spells a reserved token is encoded as ordinary bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from trainer.data.errors import TextUnusable
from trainer.data.pack import Tokens

RESERVED = ("<|bos|>", "<|reserved_1|>", "<|reserved_2|>", "<|reserved_3|>")
TRAINING_CHARACTERS = 1_000_000_000
DOCUMENT_CHARACTERS = 10_000
BATCH_CHARACTERS = 4_000_000
BATCH_DOCUMENTS = 4_096

# A piece is an English ending after an apostrophe; or letters with at most one other character before them; or one or
# two digits; or symbols with a space before and line ends after them; or line ends; or other blanks.
_SPLIT = "|".join(
    (
        r"'(?i:s|t|d|m|re|ve|ll)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,2}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def train_tokenizer(documents: Iterable[str], vocab_size: int, characters: int = TRAINING_CHARACTERS) -> Tokenizer:
    """Train a tokenizer of exactly `vocab_size` tokens, reserved ones first. Raise TextUnusable for too little text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(RESERVED),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(documents, characters), trainer)
    found = tokenizer.get_vocab_size()
    if found != vocab_size:
        raise TextUnusable(
            f"the training text yields {found} tokens, the profile wants a vocabulary of {vocab_size}; give more text"
        )
    return tokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer from the file of `Tokenizer.save`."""
    return Tokenizer.from_file(str(path))


def token_bytes(tokenizer: Tokenizer) -> NDArray[np.int32]:
    """Return the length (vocabulary,) of each token in bytes, 0 for reserved tokens, which encode no text."""
    alphabet = frozenset(pre_tokenizers.ByteLevel.alphabet())
    lengths = np.zeros(tokenizer.get_vocab_size(), dtype=np.int32)
    for token, index in tokenizer.get_vocab().items():
        if token in RESERVED:
            continue
        if not alphabet.issuperset(token):
            raise ValueError(f"token {index} ({token!r}) is not spelt in the alphabet of bytes")
        lengths[index] = len(token)  # in this alphabet, one character is one byte
    return lengths


def encode(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[Tokens]:
    """Yield the tokens of each document, without BOS, in order. Batches keep the library's threads busy."""
    tokenizer.encode_special_tokens = True  # "<|bos|>" in a text is text
    for batch in _batches(documents):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.uint16)


def _sample(documents: Iterable[str], characters: int) -> Iterator[str]:
    left = characters
    for document in documents:
        if left <= 0:
            return
        piece = document[: min(DOCUMENT_CHARACTERS, left)]
        left -= len(piece)
        yield piece


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
