"""Stores prompts and answers beside the experiment, for users and for a later replay.

Each of the newest `KEPT` experiments has one gzipped JSON list, written atomically. A text that is too long keeps its
head and tail, and an answer without its middle is marked. The caller must remove secrets before it creates an Exchange.
"""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from researcher.errors import ResearcherError
from researcher.files import write_whole

EXCHANGES_FILE = "exchanges.json.gz"
LONGEST_CHARACTERS = 200_000
KEPT = 2_000  # experiments


class UnreadableTranscript(ResearcherError):
    """A stored transcript is missing or damaged."""


@dataclass(frozen=True)
class Exchange:
    """One prompt and its answer. `fault` is the reason why the answer was not used.

    `cut` is True if the answer has no end. `abridged` is True if the answer was too long to be stored completely.
    """

    prompt: str
    reply: str
    fault: str | None
    cut: bool = False
    abridged: bool = False


def store_exchanges(folder: Path, exchanges: Sequence[Exchange]) -> None:
    """Store the exchanges in the experiment's folder."""
    if exchanges:
        folder.mkdir(parents=True, exist_ok=True)
        texts = json.dumps([asdict(_kept(exchange)) for exchange in exchanges], indent=1)
        write_whole(folder / EXCHANGES_FILE, gzip.compress(texts.encode(), mtime=0))


def forget_exchanges(folder: Path) -> None:
    """Delete an experiment's folder, if there is one."""
    shutil.rmtree(folder, ignore_errors=True)


def stored_exchanges(folder: Path) -> list[Exchange]:
    """Return the stored exchanges, oldest first. Raises UnreadableTranscript."""
    try:
        return [Exchange(**stored) for stored in json.loads(gzip.decompress((folder / EXCHANGES_FILE).read_bytes()))]
    except (OSError, EOFError, zlib.error, ValueError, TypeError) as error:
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
