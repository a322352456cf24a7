"""Estimates the number of tokens of a text without a vocabulary.

Common vocabularies split text at words, signs and digits. Words and short runs of signs take few tokens. A digit, a
byte of another script, and a character of keys or base64 take one token each. The server's own count is the final one.
"""

from __future__ import annotations

import re

BYTES_PER_TOKEN = 3  # plain Python or English has 3 to 4
# Keys and base64; a digit and the blank before it; a word; an indentation; signs; the rest.
_PIECE = re.compile(r"([A-Za-z0-9+/=]{24,})| ?\d|([A-Z]*[a-z]+|[A-Z]+)|( {2,})|([!-/:-@\[-`{-~]+)|([^ ])")
_WORD, _BLANKS, _SIGNS = 7, 8, 2  # characters in a token
_ORDINARY_SIGNS = 8  # a longer run of signs is not code


def tokens(text: str) -> int:
    """Return an estimate that is rather too high."""
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
