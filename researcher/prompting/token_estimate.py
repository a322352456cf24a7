"""How many tokens a text takes, estimated without a vocabulary: more where it is dense.

Usual vocabularies split at words, signs and digits. Words and short runs of signs are few tokens; a digit, a byte of
another script, and a character of what is no word (keys, base64) is one each. A server has the last word.
"""

from __future__ import annotations

import re

BYTES_PER_TOKEN = 3  # of plain Python or English, usual vocabularies take 3 to 4
# What is no word; a digit and the blank before it; a word; an indentation; signs; what is left.
_PIECE = re.compile(r"([A-Za-z0-9+/=]{24,})| ?\d|([A-Z]*[a-z]+|[A-Z]+)|( {2,})|([!-/:-@\[-`{-~]+)|([^ ])")
_WORD, _BLANKS, _SIGNS = 7, 8, 2  # characters in a token
_ORDINARY_SIGNS = 8  # a longer run of signs is no code


def tokens(text: str) -> int:
    """An estimate that means to be too high."""
    size = len(text.encode("utf-8", "replace"))
    return max(-(-size // BYTES_PER_TOKEN), sum(map(_piece_tokens, _PIECE.finditer(text))))


def _piece_tokens(piece: re.Match[str]) -> int:
    found = piece.group()
    match piece.lastindex:
        case 2:
            return -(-len(found) // _WORD)
        case 3:
            return -(-len(found) // _BLANKS)
        case 4 if len(found) <= _ORDINARY_SIGNS:
            return -(-len(found) // _SIGNS)
    return len(found.encode("utf-8", "replace"))
