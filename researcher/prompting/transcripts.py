"""What was asked of a model and what it answered, kept beside the experiment for people and for a later replay.

A gzipped JSON list for each experiment, written whole or not at all; a text that is too long keeps its head and tail,
and an answer that lost its middle is marked. Secrets are to be taken out before an Exchange is made.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from researcher.errors import ResearcherError
from researcher.files import write_whole

EXCHANGES_FILE = "exchanges.json.gz"
UNPACKED_FILE = "exchanges.json"  # as it was called before
LONGEST_CHARACTERS = 200_000


class UnreadableTranscript(ResearcherError):
    """What was stored is gone or damaged."""


@dataclass(frozen=True)
class Exchange:
    """What was sent and what came back; `fault` says why the answer was not used, `cut` that it had no end.

    `abridged`: too long to be kept, so the answer is not whole here.
    """

    prompt: str
    reply: str
    fault: str | None
    cut: bool = False
    abridged: bool = False


def store_exchanges(folder: Path, exchanges: Sequence[Exchange]) -> None:
    """Keep them in the experiment's folder."""
    if exchanges:
        folder.mkdir(parents=True, exist_ok=True)
        texts = json.dumps([asdict(_kept(exchange)) for exchange in exchanges], indent=1)
        write_whole(folder / EXCHANGES_FILE, gzip.compress(texts.encode(), mtime=0))


def stored_exchanges(folder: Path) -> list[Exchange]:
    """What was kept, oldest first. Raises Unreadable."""
    packed = folder / EXCHANGES_FILE
    try:
        content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / UNPACKED_FILE).read_bytes()
        return [_exchange(stored) for stored in json.loads(content)]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise UnreadableTranscript(repr(error)) from error


def _kept(exchange: Exchange) -> Exchange:
    return replace(
        exchange,
        prompt=_bounded(exchange.prompt),
        reply=_bounded(exchange.reply),
        fault=None if exchange.fault is None else _bounded(exchange.fault),
        abridged=len(exchange.reply) > LONGEST_CHARACTERS,
    )


def _bounded(text: str) -> str:
    spare = len(text) - LONGEST_CHARACTERS
    if spare <= 0:
        return text
    half = LONGEST_CHARACTERS // 2
    return f"{text[:half]}\n[... {spare} characters are left out here ...]\n{text[-half:]}"


def _exchange(stored: Any) -> Exchange:
    return Exchange(
        stored["prompt"],
        stored["reply"],
        stored["fault"],
        cut=stored.get("cut", False),
        abridged=stored.get("abridged", False),
    )
