"""Words that the code has retired, each with the word that it uses instead: one word for a thing, the field's.

A word counts wherever letters do not go on before or behind it, so also as a part of a name. The vocabulary is in
researcher/README.md.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator

import pytest

from tests import ROOT

RETIRED = {
    "anew": "again",
    "badday": "outage",
    "card": "GPU",
    "cards": "GPUs",
    "checker": "dry-run worker",
    "desk": "worker of requests",
    "dialogue": "exchange",
    "door": "client",
    "duty": "role",
    "lab": "run context",
    "lane": "edit format",
    "lanes": "edit formats",
    "mend": "repair or fix",
    "mended": "repaired or fixed",
    "night": "run",
    "nights": "runs",
    "presence": "heartbeat",
    "recheck": "incumbent confirmation",
    "station": "worker state",
    "stationed": "configured",
    "tenancy": "sandbox user",
    "voice": "status publisher",
    "walls": "sandbox",
    "worry": "stall check",
}
# What journals and state folders store, a play by Shakespeare, a library's module, and rows that are scored again.
KEPT = {
    ("trainer/trial/run.py", "recheck"),
    ("researcher/source/undefined_names.py", "checker"),
    ("researcher/source/proposal.py", "lanes"),
    ("researcher/journal/records.py", "recheck"),
    ("researcher/journal/migrations/001.sql", "recheck"),
    ("services/machine/state.py", "night"),
    ("trainer/data/plays.py", "night"),
    ("researcher/journal/migrations/002.sql", "night"),
}
# What a model is told is worded for the model, and the subject is the user's.
LEFT_OUT = ("researcher/prompting/prompts/", "trainer/subject/")
PLACES = ("researcher", "trainer", "services", "scripts", "compose.yaml", "gpu.env", "README.md")


def texts() -> Iterator[tuple[str, str]]:
    listing = subprocess.run(["git", "ls-files", *PLACES], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listing.splitlines():
        path = ROOT / name
        if path.is_file() and path.suffix not in (".png", ".svg") and not name.startswith(LEFT_OUT):
            yield name, path.read_text()


@pytest.mark.parametrize(("word", "instead"), RETIRED.items())
def test_a_retired_word_stands_nowhere(word: str, instead: str) -> None:
    pattern = re.compile(rf"(?<![A-Za-z]){word}(?![A-Za-z])", re.IGNORECASE)

    found = {name for name, text in texts() if pattern.search(text)}

    assert found == {name for name, kept in KEPT if kept == word}, f"the word is {instead}"


def test_the_texts_are_there() -> None:
    names = {name for name, _ in texts()}

    assert {"README.md", "compose.yaml", "scripts/up", "researcher/loop/loop.py"} <= names
