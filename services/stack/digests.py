"""Digests of third-party images, written where compose.yaml pins them: what was pulled here is what comes everywhere.

A small edit of the block `x-images`; the rest of the file stays byte for byte. An image that this engine did not pull
has no digest to write down, and none is invented.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_BLOCK = re.compile(r"^x-images:\n((?:  .*\n)+)", re.MULTILINE)
_PIN = re.compile(r"^(  [\w-]+: &[\w-]+ )([^\s@]+)(@sha256:[0-9a-f]{64})?$", re.MULTILINE)


class NoImages(Exception):
    """The text has no block of pinned images."""


@dataclass(frozen=True)
class Pinned:
    """The new text, and what became of each image, in words."""

    text: str
    told: tuple[str, ...]


def pin(text: str, digest_of: Callable[[str], str | None]) -> Pinned:
    """Add digests to the images of `x-images`. `digest_of` says sha256:... for a name, or None. Raises NoImages."""
    block = _BLOCK.search(text)
    if block is None:
        raise NoImages("compose.yaml has no block x-images; restore the file from git")
    told: list[str] = []

    def pinned(line: re.Match[str]) -> str:
        anchor, name, old = line.groups()
        digest = digest_of(name)
        if old is not None:
            told.append(f"{name} is pinned already" + ("" if digest in (None, old[1:]) else f", to another: {old[1:]}"))
            return line.group()
        if digest is None:
            told.append(f"{name} was not pulled by this engine; next: docker pull {name}")
            return line.group()
        told.append(f"{name} is pinned to {digest}")
        return f"{anchor}{name}@{digest}"

    lines = _PIN.sub(pinned, block.group(1))
    return Pinned(text[: block.start(1)] + lines + text[block.end(1) :], tuple(told))


def digest_in(references: list[str], name: str) -> str | None:
    """The digest among an image's RepoDigests that belongs to a name like ollama/ollama:0.1."""
    repository = name.rpartition(":")[0]
    return next((each.partition("@")[2] for each in references if each.partition("@")[0] == repository), None)
