"""Makes the unseen slice for our own tokenizer: held-out text, spliced, with its words exchanged by a secret.

A candidate may contain the validation and the held-out text, as literals or in a pretrained model. Therefore each word
of the held-out text, except the most common ones, is exchanged for a word of the training text with a similar ending,
length, frequency and capitals, always the same one within a piece. Before that, pieces are spliced from runs of about
five words. Grammar, verse and spelling stay, so the slice measures much the same abilities of an honest model, but the
text exists nowhere else.

In a script without spaces between words, whole clauses are exchanged. The same rows and the same secret give the same
slice.
"""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from trainer.data.pack import Tokens, pack
from trainer.data.tokenizer import encode

COMMON_SHARE = 0.5  # the most common words, up to this share of the training text, are not exchanged
MOST_ROWS = 2048
TRAINING_TOKENS = 4_000_000  # the number of tokens that are searched for words
FEWEST = 8  # for fewer words of a kind, the next wider kind is used
TRIES = 10  # draws, until one differs from the original word
Rows = npt.NDArray[np.uint16]
SPLICE_SHARE = 0.4  # of the common words, which is every fifth word
_WITH_BLANKS = re.compile(r"\s*\S+")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def exchanged_words(train: Rows, heldout: Rows, tokenizer: Tokenizer, bos: int, secret: str) -> Rows:
    """Return rows (rows, T+1), about as many as held-out rows, at most about `MOST_ROWS`."""
    width = heldout.shape[1]
    lexicon = Lexicon.of(pieces_of(train[: max(1, TRAINING_TOKENS // width)], tokenizer, bos))
    chance = random.Random(secret)
    pieces = list(pieces_of(heldout[:MOST_ROWS], tokenizer, bos))
    made = (lexicon.exchanged(piece, chance) for piece in spliced(pieces, lexicon.common, chance))
    rows = [row for row in pack(encode(tokenizer, made), width, bos) if len(row) == width]
    return np.array(rows, dtype=heldout.dtype).reshape(-1, width)


def pieces_of(rows: Rows, tokenizer: Tokenizer, bos: int) -> Iterator[str]:
    """Yield the texts between the BOS tokens of the rows."""
    for row in rows:
        starts = np.flatnonzero(row == bos)
        pieces: list[Tokens] = np.split(row, starts)
        yield from tokenizer.decode_batch([piece[piece != bos].tolist() for piece in pieces if len(piece) > 1])


def spliced(pieces: list[str], common: frozenset[str], chance: random.Random) -> Iterator[str]:
    """Yield pieces of the same lengths. After some common words the text continues after the same word elsewhere.

    Otherwise about six common words in their order would reveal the place in a known text.
    """
    words = [word for piece in pieces for word in _WITH_BLANKS.findall(piece)]
    behind = defaultdict[str, list[int]](list)
    for place, word in enumerate(words[:-1]):
        behind[word].append(place + 1)
    for piece in pieces:
        place, made = int(chance.random() * len(words)), list[str]()
        for _ in range(len(_WITH_BLANKS.findall(piece))):
            word = words[place]
            made.append(word)
            place = (place + 1) % len(words)
            if word.strip().lower() in common and word in behind and chance.random() < SPLICE_SHARE:
                place = behind[word][int(chance.random() * len(behind[word]))]
        yield "".join(made)


@dataclass
class Lexicon:
    """The words of a text by kinds. Words in `common` are not exchanged."""

    counts: Counter[str]
    common: frozenset[str]
    kinds: defaultdict[Hashable, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(cls, texts: Iterator[str]) -> Lexicon:
        """Build the lexicon of texts."""
        counts = Counter(word for text in texts for word in _WORD.findall(text))
        made = cls(counts, _common(counts))
        for word in sorted(counts):
            if word.lower() not in made.common:
                for kind in made.kinds_of(word):
                    made.kinds[kind].append(word)
        return made

    def exchanged(self, text: str, chance: random.Random) -> str:
        """Return the text with its words exchanged. A repeated word becomes the same word each time."""
        standing_for: dict[str, str] = {}

        def other(match: re.Match[str]) -> str:
            word = match[0]
            if word.lower() in self.common:
                return word
            if word not in standing_for:
                standing_for[word] = self._drawn(word, chance)
            return standing_for[word]

        return _WORD.sub(other, text)

    def kinds_of(self, word: str) -> tuple[Hashable, ...]:
        """Return the kinds of a word, from the narrowest to the widest."""
        capitals = "all" if len(word) > 1 and word.isupper() else "first" if word[0].isupper() else "none"
        length, rarity = min(len(word) // 2, 5), self.counts[word].bit_length()
        return (
            (capitals, length, rarity, word[-2:].lower()),
            (capitals, length, rarity, word[-1:].lower()),
            (capitals, length, rarity),
            (capitals, length),
            capitals,
        )

    def _drawn(self, word: str, chance: random.Random) -> str:
        """Return another word of the same kind, or the word itself if no draw differs."""
        groups = [self.kinds.get(kind, []) for kind in self.kinds_of(word)]
        group = next((group for group in groups if len(group) >= FEWEST), groups[-1])
        drawn = (group[int(chance.random() * len(group))] for _ in range(TRIES if group else 0))
        return next((other for other in drawn if other != word), word)


def _common(counts: Counter[str]) -> frozenset[str]:
    """Return the most frequent words, in lower case, that make up `COMMON_SHARE` of the text."""
    lower = Counter[str]()
    for word, times in counts.items():
        lower[word.lower()] += times
    left = COMMON_SHARE * lower.total()
    common = set()
    for word, times in sorted(lower.items(), key=lambda item: (-item[1], item[0])):
        if left <= 0:
            break
        common.add(word)
        left -= times
    return frozenset(common)
