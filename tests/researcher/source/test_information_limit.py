"""Known text finds no room in train.py: not in one proposal, not in many, however it is written down."""

from __future__ import annotations

import base64
import lzma
import random
from collections.abc import Callable
from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from types import SimpleNamespace

import pytest

import trainer
from researcher.errors import Rejected
from researcher.proposers.novelty import objection
from researcher.source.information_limit import EDIT, MOST_GROWTH, RUN, USER_CAP, added_bytes, added_literal_bytes
from researcher.source.proposal import Candidate, Proposal, ProposerName, WholeFile
from researcher.source.validation import validate
from tests import ROOT
from trainer.jobs import BITS_PER_BYTE

SUBJECT = (Path(trainer.__file__).parent / "subject" / "train.py").read_text()
WORDS = [
    word
    for word in dir(base64) + dir(lzma) + dir(random) + SUBJECT.split()
    if word.isidentifier() and not iskeyword(word)
]


def play(size: int, seed: int = 1) -> str:
    """Text of about three bits a letter, as a play is for a compressor."""
    draw = random.Random(seed)
    return " ".join(draw.choice(WORDS) for _ in range(size // 4))[:size]


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


FORMS: dict[str, Callable[[int], str]] = {
    "a text": lambda size: f"x = {play(4 * size)!r}\n",
    "packed": lambda size: f"x = {base64.b85encode(lzma.compress(play(4 * size).encode())).decode()!r}\n",
    "bytes": lambda size: f"x = {noise(size)!r}\n",
    "whole numbers": lambda size: f"x = 0x{noise(size).hex()}\n",
    "a list": lambda size: f"x = {[*noise(size)]}\n",
    "a dict": lambda size: f"x = {dict(enumerate(noise(size)))}\n",
    "fractions": lambda size: f"x = ({', '.join(f'0.{byte:03}' for byte in noise(size))})\n",
    "a docstring": lambda size: f'def f():\n    """{play(4 * size)}"""\n    return f.__doc__\n',
    "a comment": lambda size: f"x = open(__file__)  # {play(4 * size)}\n",
    "names": lambda size: "class A:\n" + "".join(f"    {word} = 1\n" for word in play(4 * size).split()),
    "signs": lambda size: "x = " + "".join(f"+{'-' * (byte % 8)}{byte // 8}" for byte in noise(size)) + "\n",
    "blanks": lambda size: "".join(f"x = 1{' ' * (byte % 32)}\n" for byte in noise(2 * size)),
    "the order of lines": lambda size: "".join(
        f"x {'+-*/'[part]}= 1\n" for byte in noise(size) for part in (byte & 3, byte >> 2 & 3, byte >> 4 & 3, byte >> 6)
    ),
}


def proposed(source: str, before: str, by: ProposerName = ProposerName.LLM) -> Candidate:
    return validate(Proposal(by, "t", "h", (WholeFile(source),)), before, lambda _: None)


@pytest.mark.parametrize("form", FORMS)
def test_text_is_too_much_in_whatever_form_it_is_written(form: str) -> None:
    with pytest.raises(
        Rejected, match=r"bytes(?: of numbers and texts)?, compressed, that|would grow by|cannot be compared"
    ):
        proposed(SUBJECT + FORMS[form](4000), SUBJECT)


@pytest.mark.parametrize("form", ["packed", "bytes", "whole numbers", "a list", "fractions", "a docstring"])
def test_values_have_a_cap_of_their_own(form: str) -> None:
    with pytest.raises(Rejected, match="numbers and texts, compressed, that the script it is made from has not"):
        proposed(SUBJECT + FORMS[form](1200), SUBJECT)


def test_what_compresses_to_nothing_is_too_long_too() -> None:
    with pytest.raises(Rejected, match=f"at most {MOST_GROWTH} are tried at once"):
        proposed(SUBJECT + "x = 1\n" * 3000, SUBJECT)


@pytest.mark.parametrize("path", ["tests/subjects/own/train.py", "tests/fixtures/small_train.py"])
def test_a_whole_other_script_is_no_more_than_its_difference(path: str) -> None:
    other = (ROOT / path).read_text()

    assert added_bytes(other, SUBJECT) < EDIT.added / 3
    assert added_literal_bytes(other, SUBJECT) < EDIT.literal / 3
    assert added_bytes(SUBJECT, "") < USER_CAP.added / 2, "a person may bring one of their own"


def test_a_user_may_bring_another_script_and_no_library() -> None:
    theirs = f"{SUBJECT}x = 1  # {noise(5000).hex()}\n"

    with pytest.raises(Rejected, match=f"at most {EDIT.added} are tried"):
        proposed(theirs, SUBJECT)
    proposed(theirs, SUBJECT, ProposerName.HUMAN)
    with pytest.raises(Rejected, match=f"at most {USER_CAP.added} are tried"):
        proposed(f"{SUBJECT}x = 1  # {noise(20_000).hex()}\n", SUBJECT, ProposerName.HUMAN)
    with pytest.raises(Rejected, match=f"at most {USER_CAP.literal} are tried"):
        proposed(f"{SUBJECT}x = {noise(5000)!r}\n", SUBJECT, ProposerName.HUMAN)


@dataclass
class KeepsEverything:
    """A run that keeps whatever it is given: of the journal, what is asked about a candidate."""

    sources: list[str]
    proposers: list[ProposerName | None]

    def keep(self, source: str, by: ProposerName) -> None:
        self.sources.append(source)
        self.proposers.append(by)

    def run(self) -> SimpleNamespace:
        return SimpleNamespace(incumbent=len(self.sources) - 1, metric=BITS_PER_BYTE)

    def experiment(self, number: int) -> SimpleNamespace:
        return SimpleNamespace(id=number, parent=number - 1 if number else None, proposer=self.proposers[number])

    def source(self, number: int) -> str:
        return self.sources[number]

    def ran_out_of_memory(self) -> list[tuple[int, str]]:
        return []

    def tried(self, fingerprint: str) -> list[SimpleNamespace]:
        return []

    def not_kept(self, change: str) -> list[SimpleNamespace]:
        return []


def creep(scripted_run: KeepsEverything, by: ProposerName, size: int, steps: int = 60) -> str:
    """Keep edits of so many bytes each until one is refused; the reason."""
    for step in range(steps):
        incumbent = scripted_run.sources[-1]
        source = f"{incumbent}x{step} = {noise(size, 1000 * size + step)!r}\n"
        try:
            validate(Proposal(by, "t", "h", (WholeFile(source),)), incumbent, objection(scripted_run, by))  # type: ignore[arg-type]
        except Rejected as rejection:
            return str(rejection)
        scripted_run.keep(source, by)
    return "nothing was refused"


def test_many_small_keeps_carry_no_more_than_a_run_may() -> None:
    scripted_run = KeepsEverything([SUBJECT], [None])

    reason = creep(scripted_run, ProposerName.LLM, 300)

    assert "that the script the run grew from has not" in reason
    assert added_literal_bytes(scripted_run.sources[-1], SUBJECT) <= RUN.literal
    assert 4 < len(scripted_run.sources) < 10


def test_where_a_run_is_at_its_cap_knobs_still_move_and_nothing_else_does() -> None:
    scripted_run = KeepsEverything([SUBJECT], [None])
    creep(scripted_run, ProposerName.LLM, 400)
    creep(scripted_run, ProposerName.LLM, 100)
    full = scripted_run.sources[-1]
    check = objection(scripted_run, ProposerName.OPTIMIZER)  # type: ignore[arg-type]

    moved = full.replace("MATRIX_LR = 0.04", "MATRIX_LR = 0.0317")
    assert moved != full
    validate(Proposal(ProposerName.OPTIMIZER, "t", "h", (WholeFile(moved),)), full, check)
    proposal = Proposal(ProposerName.LLM, "t", "h", (WholeFile(f"{full}y = {noise(300)!r}\n"),))
    with pytest.raises(Rejected, match="the run grew from"):
        validate(proposal, full, check)


def test_files_by_users_carry_no_more_together_and_begin_the_count_of_models_anew() -> None:
    scripted_run = KeepsEverything([SUBJECT], [None])
    theirs = f"{SUBJECT}mine = {noise(1500)!r}\n"
    scripted_run.keep(theirs, ProposerName.HUMAN)

    creep(scripted_run, ProposerName.LLM, 400)
    assert RUN.literal - 500 < added_literal_bytes(scripted_run.sources[-1], theirs) <= RUN.literal
    creep(scripted_run, ProposerName.HUMAN, 900)
    assert added_literal_bytes(scripted_run.sources[-1], SUBJECT) <= USER_CAP.literal
