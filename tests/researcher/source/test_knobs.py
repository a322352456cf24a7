"""Knobs are read from the syntax tree and set by bytes: nothing but the literal may change."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainer
from researcher.errors import EditError
from researcher.source.knobs import Range, range_faults, read_knobs, read_literal, set_knobs
from researcher.source.proposal import KnobLiteral
from trainer.jobs import PROFILES

SUBJECT = Path(trainer.__file__).parent / "subject"

SOURCE = '''"""A subject – with a dash."""
import math

DEPTH = 8  # layers; range 2..16
TOTAL_BATCH_SIZE = 2**12  # tokens per optimiser step; range 2**10..2**15 pow2
EMBEDDING_LR: float = 0.6  # “AdamW”; range 0.05..2.0 log
WEIGHT_DECAY = (0.2)  # range 0..1
WINDOW_PATTERN = "SSSL"  # S = half the context, L = all; one of SSSL SSLL L
BETAS = (0.8, 0.95)
SOFTCAP = -15
ÄRGER = "ö"; SEED = 42  # no range; just a note
NAME = 'plain'
DERIVED = DEPTH * 64
lower = 3

if DEPTH > 4:
    INNER = 5
'''


def test_knobs_are_read_in_the_order_of_the_source_with_their_ranges() -> None:
    knobs = read_knobs(SOURCE)

    assert [(knob.name, knob.value) for knob in knobs.values()] == [
        ("DEPTH", 8),
        ("TOTAL_BATCH_SIZE", 4096),
        ("EMBEDDING_LR", 0.6),
        ("WEIGHT_DECAY", 0.2),
        ("WINDOW_PATTERN", "SSSL"),
        ("BETAS", (0.8, 0.95)),
        ("SOFTCAP", -15),
        ("SEED", 42),
        ("NAME", "plain"),
    ]
    assert knobs["DEPTH"].range == Range("int", 2, 16)
    assert knobs["TOTAL_BATCH_SIZE"].range == Range("pow2", 1024, 32768)
    assert knobs["EMBEDDING_LR"].range == Range("float", 0.05, 2.0, log=True)
    assert knobs["WEIGHT_DECAY"].range == Range("float", 0, 1)
    assert knobs["WINDOW_PATTERN"].range == Range("choice", choices=("SSSL", "SSLL", "L"))
    assert knobs["BETAS"].range is knobs["SEED"].range is knobs["NAME"].range is None
    assert range_faults(SOURCE) == {}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("X = 8  # range 16..2", "lower end"),
        ("X = 8  # range 2-16", "is not 'range A..B'"),
        ("X = 8  # range 2..16 logarithmic", "is not 'range A..B'"),
        ("X = 8  # range 10..20", "outside"),
        ("X = 8  # range 3..16 pow2", "powers of two"),
        ("X = 6  # range 2..16 pow2", "powers of two"),
        ("X = 0.5  # range 0..1 log", "above 0"),
        ("X = 'a'  # range 1..2", "one of"),
        ("X = 'a'  # one of b c", "outside"),
        ("X = 'a'  # one of a", "two or more"),
        ("X = 1  # one of 1 1", "two or more"),
        ("X = 1  # one of 1 2.5", "whole-numbered"),
        ("X = 1  # one of 1 b", "two or more"),
        ("X = (1, 2)  # range 1..2", "tuple"),
        ("X = True  # one of True False", "bool"),
    ],
)
def test_broken_range_counts_as_none_and_is_reported(line: str, says: str) -> None:
    assert read_knobs(line)["X"].range is None
    assert says in range_faults(line)["X"]


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("X = 0.1  # range 0.01 to 1", "range 0.01..1"),
        ("X = 0.1  # range: 0.01..1", "range 0.01..1"),
        ("X = 0.1  # range 0.01 .. 1", "range 0.01..1"),
        ("X = 0.1  # Range 0.01..1", "range 0.01..1"),
        ("X = 0.1  # the rate, range 0.01..1", "range 0.01..1"),
        ("X = 0.1  # range 0.01..1; the rate", "range 0.01..1"),
        ("X = 0.1  # range 0.01...1", "range 0.01..1"),
        ("X = 0.1  # range 1..0.01", "range 0.01..1"),
        ("X = 0.1  # 0.01…1 on a log scale", "range 0.01..1 log"),
        ("X = 0.1  # range(1e-2, 1)", "range 1e-2..1"),
        ("X = 0.1  # range [0.01, 1] logarithmic", "range 0.01..1 log"),
        ("X = 0.1  # between 0.01 and 1", "range 0.01..1"),
        ("X = 0.1  # in (0.01, 1)", "range 0.01..1"),
        ("X = 0.1  # min 0.01, max: 1", "range 0.01..1"),
        ("X = 0.1  # loguniform(0.01, 1)", "range 0.01..1 log"),
        ("X = 0.1  # sweep 0.01 to 1", "range 0.01..1"),
        ("X = 0.1  # Range: [0.01; 1]", "range 0.01..1"),
        ("X = -2  # range -4 - 4", "range -4..4"),
        ("X = 8  # range 2^2..2^4 pow2", "range 2**2..2**4 pow2"),
        ("X = 8  # range 2-16", "range 2..16"),
        ("X = 8  # from 4 to 16, powers of two", "range 4..16 pow2"),
        ("# range 2..16\nX = 8", "range 2..16"),
        ("X = 'a'  # one of a, b", "one of a b"),
        ("X = 'a'  # One of: a | b", "one of a b"),
        ("X = 'a'  # choices [a, b] or c", "one of a b c"),
        ("X = 2  # options: 1, 2", "one of 1 2"),
        ("X = 'a'  # one-of a b", "one of a b"),
        ("X = 'a'  # choose from a, b", "one of a b"),
    ],
)
def test_range_that_is_nearly_right_is_none_and_reported_with_the_fix(line: str, fix: str) -> None:
    assert read_knobs(line)["X"].range is None
    assert f"{fix}'" in range_faults(line)["X"]
    assert range_faults(f"{line.splitlines()[-1].partition('#')[0]}  # {fix}") == {}


@pytest.mark.parametrize("comment", ["range 0,01..1", "range 1%..50%", "range low..high", "range 0x10..0xff"])
def test_a_range_whose_meaning_is_unclear_is_reported_without_a_guess(comment: str) -> None:
    assert "is not 'range A..B'" in range_faults(f"X = 0.1  # {comment}")["X"]
    assert "write" not in range_faults(f"X = 0.1  # {comment}")["X"]


@pytest.mark.parametrize(
    "line",
    [
        "X = 0.1  # tuned from 0.1 up",
        "X = 0.1  # searched in 1.2 and later",
        "X = 0.1  # see 1.2.3 and 10.0.0.1",
        "X = 3  # usually in the range of 5",
        "X = 3  # of (1, 2, 3)",
        "X = 0.5  # 0.4, 0.5 or 0.6 were best",
        "X = 'a'  # a choice of the user",
        "X = 15  # squashed into -X..X",
        "X = (0.8, 0.95)  # the betas, 0.8..0.95",
        "x = range(10)  # range 0..9",
    ],
)
def test_words_that_only_look_like_a_range_are_no_fault(line: str) -> None:
    assert range_faults(line) == {}


@pytest.mark.parametrize(
    ("source", "name", "says"),
    [
        ("rate = 0.1  # range 0.01..1", "rate", "in capitals"),
        ("RATE = 1 / 3  # range 0.01..1", "RATE", "one plain literal"),
        ("RATE: float = 1 / 3  # the rate; range 0.01..1 log", "RATE", "one plain literal"),
        ("RATE = 0.1\nRATE = 0.2  # range 0.01..1", "RATE", "assign it once"),
    ],
)
def test_range_beside_a_name_that_is_no_knob_is_reported(source: str, name: str, says: str) -> None:
    assert says in range_faults(source)[name]


@pytest.mark.parametrize(
    "line",
    [
        "X = 1\nX = 2",
        "X = 1\nX += 1",
        "X = 1 + 1",
        "X = Y = 1",
        "X = None",
        "X = [1]",
        "X = 10**400",
        "X = 1e999",
        "X = 0x" + "f" * 5000,
        "X: int",
    ],
)
def test_what_is_not_one_plain_literal_is_no_knob(line: str) -> None:
    assert read_knobs(line) == {}


def test_setting_knobs_keeps_comments_layout_and_the_form_of_powers() -> None:
    values: dict[str, int | float | str] = {
        "DEPTH": 4,
        "TOTAL_BATCH_SIZE": 2**14,
        "EMBEDDING_LR": 1,
        "WEIGHT_DECAY": 0.05,
        "WINDOW_PATTERN": "L",
    }

    changed = set_knobs(SOURCE, values)

    assert changed == (
        SOURCE.replace("DEPTH = 8 ", "DEPTH = 4 ")
        .replace("2**12", "2**14")
        .replace("float = 0.6", "float = 1.0")
        .replace("(0.2)", "(0.05)")
        .replace('"SSSL"', '"L"')
    )


def test_tuple_is_set_item_by_item_in_the_types_it_has() -> None:
    assert "BETAS = (1.0, 0.98)\n" in set_knobs(SOURCE, {"BETAS": (1, 0.98)})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (" 4 ", 4),
        ("2**14  # tokens", 2**14),
        ("-0.5", -0.5),
        ("True", True),
        ("(0.9, 'x')", (0.9, "x")),
        ("DEPTH * 2", None),
        ("4; 5", None),
        ("[1]", None),
        ("SSSL", None),
        ("(4", None),
        ("", None),
        ("\0\ud800", None),
    ],
)
def test_only_what_can_stand_on_a_knobs_line_is_read_as_its_value(text: str, value: KnobLiteral | None) -> None:
    read = read_literal(text)

    assert (read, type(read)) == (value, type(value))


def test_knobs_after_non_ascii_text_on_the_same_line_are_found_by_bytes() -> None:
    assert 'ÄRGER = "ö"; SEED = 7  # no range' in set_knobs(SOURCE, {"SEED": 7})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"DEPHT": 4}, "DEPHT is not a knob of this file; its knobs are: DEPTH, "),
        ({"DEPTH": 17}, "DEPTH = 17 is outside of its range 2..16"),
        ({"DEPTH": 4.0}, "DEPTH = 4.0 is outside"),
        ({"DEPTH": True}, "DEPTH = True is outside"),
        ({"DEPTH": "4"}, "DEPTH = '4' is outside"),
        ({"TOTAL_BATCH_SIZE": 5000}, "outside of its range 2**10..2**15 pow2"),
        ({"EMBEDDING_LR": float("nan")}, "outside of its range 0.05..2.0 log"),
        ({"WINDOW_PATTERN": "S"}, "outside of its range one of SSSL SSLL L"),
        ({"SEED": 1.5}, "of type int"),
        ({"SEED": 10**400}, "bits"),
        ({"BETAS": 0.9}, "of type tuple"),
        ({"BETAS": (0.9,)}, "of type tuple of 2 items"),
        ({"BETAS": (0.9, "x")}, "of type float"),
        ({"SEED": (1, 2)}, "of type int"),
        ({"NAME": 3}, "of type str"),
        ({"DEPTH": 4, "SEED": "x"}, "of type int"),
    ],
)
def test_value_that_does_not_fit_is_refused_by_name(values: dict[str, KnobLiteral], says: str) -> None:
    with pytest.raises(EditError) as refusal:
        set_knobs(SOURCE, values)

    assert says in str(refusal.value)


def test_source_that_does_not_parse_is_refused_with_its_line() -> None:
    with pytest.raises(EditError, match=r"line 2: .*: Y = = 1"):
        read_knobs("X = 1\nY = = 1\n")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_survives(end: str) -> None:
    source = end.join(["# ä", "A = 1  # range 0..9", "", "B = 'x' # \x0c page", "C = 0.5", ""])

    assert set_knobs(source, {"A": 2, "C": 0.25}) == source.replace("A = 1", "A = 2").replace("0.5", "0.25")


@given(st.text(alphabet="ABX_09 =#.;*-+'\"()\n\r\x0cäß\U0001f600range oelg12", max_size=120))
def test_setting_every_knob_to_its_own_value_changes_no_byte(source: str) -> None:
    try:
        knobs = read_knobs(source)
    except EditError:
        return

    values = {name: knob.value for name, knob in knobs.items() if not isinstance(knob.value, tuple)}

    assert set_knobs(source, values) == source
    assert all(range_faults(source).values())


@given(
    before=st.text(
        st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"], blacklist_characters="'\\"), max_size=9
    ),
    after=st.text(st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"], blacklist_characters=";"), max_size=9),
    old=st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    new=st.integers(-99, 99) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
)
def test_only_the_literal_changes_and_the_new_value_is_read_back(
    before: str, after: str, old: int | float | str, new: int | float | str
) -> None:
    source = f"other = '{before}'; KNOB = {{}}  # {after}\nLAST = 1\n"
    if isinstance(old, float) and isinstance(new, int):
        new = float(new)
    if type(old) is not type(new):
        with pytest.raises(EditError):
            set_knobs(source.replace("{}", repr(old)), {"KNOB": new})
        return

    changed = set_knobs(source.replace("{}", repr(old)), {"KNOB": new})

    assert read_knobs(changed)["KNOB"].value == new
    head, tail = source.split("{}", 1) if "{}" not in before else (changed, "")
    assert changed.startswith(head)
    assert changed.endswith(tail)


def test_every_profile_can_set_its_start_values_in_the_default_subject() -> None:
    train, prepare = ((SUBJECT / name).read_text() for name in ("train.py", "prepare.py"))

    assert range_faults(train) == {}
    for profile in PROFILES.values():
        assert {
            name: read_knobs(set_knobs(train, profile.knobs))[name].value for name in profile.knobs
        } == profile.knobs
        assert read_knobs(set_knobs(prepare, profile.constants)).keys() >= profile.constants.keys()
