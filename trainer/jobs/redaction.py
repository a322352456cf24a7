"""Removes secrets from text before it is stored or sent: known secrets, and text in the form of a secret.

This is a second protection, since a candidate gets no secrets. It finds secrets that libraries and tracebacks print,
not those that are hidden on purpose, such as in pieces or encoded. The patterns are narrow, so that logs about tokens
stay readable.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_MARK = b"[redacted]"
_SHORTEST = 8  # a shorter secret could occur in ordinary words
_IN_URL = re.compile(rb"(://[^\s/:@]{0,100}:)[^\s/@]{1,200}@")
_NAMES = (b"passw", b"secret", b"key", b"token", b"bearer")  # without any of these the slow pattern is skipped
_NAMED = re.compile(
    rb"""((?:passw(?:or)?d|secret|api[_-]?key|secret[_-]?key|access[_-]?key)["']?\s{0,3}[=:]\s{0,3}["']?)[^\s"',;&]{4,200}"""
    rb"""|((?:token|bearer)["']?(?:\s{0,3}[=:]\s{0,3}|\s)["']?)(?=[\w.~+/-]{0,100}\d)[\w.~+/-]{16,500}""",
    re.IGNORECASE,
)
# `eyJ` matches only at the start of letters, digits and hyphens; otherwise each one would be followed to their end.
_PREFIXED = re.compile(
    rb"\b(?:hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    rb"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|xox[abprs]-[\w-]{10,}|(?<!-)eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,})"
)

Redact = Callable[[bytes], bytes]
RedactText = Callable[[str], str]


def redaction(secrets: Iterable[str] = ()) -> Redact:
    """Return a function that removes these secrets, and text in the form of a secret, from bytes."""
    known = [re.escape(secret.encode()) for secret in secrets if len(secret) >= _SHORTEST]
    literal = re.compile(b"|".join(known)) if known else None

    def redact(text: bytes) -> bytes:
        if literal is not None:
            text = literal.sub(_MARK, text)
        text = _IN_URL.sub(rb"\1" + _MARK + b"@", text)
        small = text.lower()
        if any(name in small for name in _NAMES):
            text = _NAMED.sub(lambda found: (found[1] or found[2]) + _MARK, text)
        return _PREFIXED.sub(_MARK, text)

    return redact


def text_redaction(secrets: Iterable[str] = ()) -> RedactText:
    """Return a function that removes these secrets, and text in the form of a secret, from text."""
    redact = redaction(secrets)
    return lambda text: redact(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
