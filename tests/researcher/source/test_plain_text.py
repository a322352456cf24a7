"""What is validated, shown, committed and run is one text, and everybody reads it alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.errors import Rejected
from researcher.source.plain_text import refuse_ambiguous
from researcher.source.proposal import Proposal, ProposerName, WholeFile
from researcher.source.validation import validate
from tests import TESTS

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()
ADDED = SOURCE + "x = 1\n"


def refusal(source: str, before: str = SOURCE) -> str:
    with pytest.raises(Rejected) as rejection:
        refuse_ambiguous(source, before)
    return str(rejection.value)


@pytest.mark.parametrize("by", [ProposerName.LLM, ProposerName.HUMAN])
def test_a_declared_encoding_is_refused_whoever_proposes(by: ProposerName) -> None:
    hidden = "# -*- coding: utf-7 -*-\n# higher+AAo-print(+ACI-this ran+ACI-)\n" + ADDED

    with pytest.raises(Rejected, match=r"line 1 of train\.py declares the encoding utf-7"):
        validate(Proposal(by, "t", "h", (WholeFile(hidden),)), SOURCE, lambda _: None)


@pytest.mark.parametrize(
    "cookie",
    [
        "# coding: utf-7",
        "#coding=latin-1",
        "# vim: set fileencoding=cp037 :",
        "\x0c # -*- encoding:\tutf_16 -*-",
        "#!/usr/bin/python\n# coding: rot13",
        "# coding: utf-8-sig",
        "# coding: raw_unicode_escape",
    ],
)
def test_an_encoding_is_found_however_it_is_declared(cookie: str) -> None:
    assert "declares the encoding" in refusal(f"{cookie}\n{ADDED}")


@pytest.mark.parametrize(
    "first", ["# coding: utf-8", "# -*- coding: UTF-8 -*-", "# the coding of words: BPE", "# a\n# b\n# coding: utf-7"]
)
def test_what_declares_no_other_encoding_passes(first: str) -> None:
    refuse_ambiguous(f"{first}\n{ADDED}", SOURCE)


def test_a_declaration_that_moves_to_where_it_counts_is_new_and_one_that_stays_is_not() -> None:
    far = "# one\n# two\n# coding: utf-7\n" + SOURCE
    near = "# one\n# coding: utf-7\n" + SOURCE

    assert "line 2 of train.py declares" in refusal(near, far)
    refuse_ambiguous(near + "x = 1\n", near)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("x = 1  # more\rx = 2", "carriage return"),
        ("x = 'a\rb'", "carriage return"),
        ("    \x0cx = 1", "U+000C"),
        ("x = 1  # \x1b[2K\x1b[1A", "U+001B"),
        ("x = 1  # \x08\x08\x08", "U+0008"),
        ("x = 1  # \x85y = 2", "U+0085"),
        ("x = 1  # \u2028y = 2", "U+2028"),
        ("x = 1  # \u202e2 = x \u2066", "U+202E"),
        ("x = 'user\u200b'", "U+200B"),
        ("x = 1  # \U000e0041\U000e0042", "U+E0041"),
        ("x = '\ufe01\ufe02'", "U+FE01"),
        ("x = 'a\ufe0f'", "U+FE0F"),
        ("x = '\u3164'", "U+3164"),
        ("x = 1" + " " * 300 + "; y = 2", "hides code behind a hundred blanks"),
        ("x = 1\t" + "\t" * 120 + "; y = 2", "hides code behind a hundred blanks"),
        ("\uff4dain = 1", "reads the name"),
        ("\ufb01le = 1", "reads the name"),
        ("prоgress = 1", "U+043E"),
        ("сору = 1", "U+0441"),
        ("mοdel = 1", "U+03BF"),
        ("def f(ᏞR): pass", "U+13DE"),
        ("y = f'{prоgress()}'", "U+043E"),
        ("class A:\n    ߊ = 1", "U+07CA"),
    ],
)
def test_what_some_read_otherwise_is_refused_on_a_new_line_and_left_on_an_old_one(line: str, words: str) -> None:
    changed = f"{SOURCE}{line}\n"

    assert words in refusal(changed)
    refuse_ambiguous(changed + "z = 1\n", changed)


@pytest.mark.parametrize(
    "line",
    [
        "x = 1  # gradient ∇f, σ², β₁ → 0.9, ⚠️ careful, 50 µs, 你好，世界",
        "note = 'naïve — “quoted” … 日本語\u3000テスト 😀'",
        "σ_max = β = 1.0",
        "Δ = ψ = 1",
        "größe = 1",
        "\tx = 1\t# two tabs",
        "x = 1" + " " * 60 + "# far to the right",
        "#" + " " * 60 + "-" * 300,
        "x = '\\u202e \\x1b'",
        "x = 1\r",
    ],
)
def test_honest_lines_pass(line: str) -> None:
    refuse_ambiguous(f"{SOURCE}if True:\n{line}\n" if line.startswith("\t") else f"{SOURCE}{line}\n", SOURCE)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=30))
def test_a_comment_that_passes_is_one_line_for_everybody(comment: str) -> None:
    source = f"{SOURCE}x = 1  # {comment}\n"
    try:
        refuse_ambiguous(source, SOURCE)
    except Rejected:
        return
    assert source.splitlines() == source.replace("\r\n", "\n").split("\n")[:-1]


def test_a_name_in_other_letters_is_what_the_static_checks_see() -> None:
    """Python itself reads the full-width name as `eval`, and so does the denylist, which says so first or second."""
    for name in ("ｅval", "𝐞𝐱𝐞𝐜", "ｏpen"):
        proposal = Proposal(ProposerName.LLM, "t", "h", (WholeFile(f"{SOURCE}{name}('1')\n"),))
        with pytest.raises(Rejected):
            validate(proposal, SOURCE, lambda _: None)
