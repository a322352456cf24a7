"""What models were asked and answered is kept small and whole, and an old run's is read as well."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import researcher
from researcher.prompting.transcripts import (
    EXCHANGES_FILE,
    LONGEST_CHARACTERS,
    Exchange,
    UnreadableTranscript,
    store_exchanges,
    stored_exchanges,
)

EXCHANGES = [Exchange("what now?", "TITLE: \udc00\n", "it breaks off", cut=True), Exchange("again", "", None)]


def test_what_is_kept_is_read_again(tmp_path: Path) -> None:
    store_exchanges(tmp_path / "1", EXCHANGES)

    assert stored_exchanges(tmp_path / "1") == EXCHANGES


def test_no_exchange_leaves_no_folder(tmp_path: Path) -> None:
    store_exchanges(tmp_path / "1", [])

    assert not (tmp_path / "1").exists()


def test_endless_texts_keep_head_and_tail_and_say_what_is_missing(tmp_path: Path) -> None:
    endless = "begin" + "x" * LONGEST_CHARACTERS + "end"

    store_exchanges(tmp_path, [Exchange(endless, endless, endless), Exchange(endless, "SET A = 2", None)])

    first, second = stored_exchanges(tmp_path)
    for text in (first.prompt, first.reply, first.fault or "", second.prompt):
        assert re.fullmatch(r"beginx+\n\[\.\.\. 8 characters are left out here \.\.\.\]\nx+end", text)
    assert (first.abridged, second.abridged) == (True, False), "an answer without its middle is no answer"


def test_five_thousand_questions_of_sixty_kilobytes_stay_below_150_megabytes(tmp_path: Path) -> None:
    sources = sorted(Path(researcher.__file__).parent.rglob("*.py"))
    prompt = "".join(source.read_text() for source in sources)[:60_000]

    store_exchanges(tmp_path, [Exchange(prompt, "SET A = 2", None)])

    assert 5_000 * (tmp_path / EXCHANGES_FILE).stat().st_size < 150e6


@pytest.mark.parametrize("content", [b"", b"\x1f\x8b\x08", b"no gzip"])
def test_damaged_ones_are_said_to_be(tmp_path: Path, content: bytes) -> None:
    (tmp_path / EXCHANGES_FILE).write_bytes(content)

    with pytest.raises(UnreadableTranscript):
        stored_exchanges(tmp_path)


def test_a_kill_while_they_are_written_costs_those_alone(tmp_path: Path) -> None:
    store_exchanges(tmp_path, EXCHANGES[:1])
    (tmp_path / f".{EXCHANGES_FILE}.partial").write_bytes(b"\x1f\x8b\x08")  # as a killed writer leaves it

    assert stored_exchanges(tmp_path) == EXCHANGES[:1]
    store_exchanges(tmp_path, EXCHANGES)
    assert stored_exchanges(tmp_path) == EXCHANGES
