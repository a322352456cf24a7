"""A change of knobs as JSON: the schema names the source's own knobs; what comes back is read, or refused in words."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.errors import BadLlmResponse, EditError, Rejected
from researcher.prompting.knob_json import other_values, schema_of
from researcher.prompting.reply_parser import Reply, formats_in, read_reply
from researcher.source.edits import apply_edits
from researcher.source.proposal import EditFormat, KnobLiteral, Proposal, ProposerName, SetKnobs
from tests import TESTS

SOURCE = (TESTS / "fixtures" / "small_train.py").read_text()
RANGES = """A = 1  # range 1..8
B = 0.5  # range 0.1..1.0 log
C = 64  # range 2**4..2**7 pow2
D = "x"  # one of x y
E = 3
"""


def move(**knobs: Any) -> str:
    return json.dumps({"title": "Deeper", "hypothesis": "More layers learn more.", "set": knobs})


def test_schema_holds_each_knob_with_a_range_to_other_values_in_it() -> None:
    schema = schema_of(RANGES + "F = 100  # range 1..1000 log\n")

    assert schema is not None
    assert schema["required"] == ["set", "hypothesis"]
    assert schema["properties"]["set"] == {
        "type": "object",
        "properties": {
            "A": {"enum": [2, 3, 4, 5, 6, 7, 8]},
            "B": {"type": "number", "minimum": 0.1, "maximum": 1.0},
            "C": {"enum": [16, 32, 128]},
            "D": {"enum": ["y"]},
            "F": {"type": "integer", "minimum": 1, "maximum": 1000},
        },
        "required": [],
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 3,
    }


def listed_in(schema: dict[str, Any] | None) -> dict[str, Any]:
    assert schema is not None
    one_each = [one["properties"] for one in schema["properties"]["set"]["anyOf"]]
    return {name: part["enum"] for properties in one_each for name, part in properties.items()}


def test_schema_of_one_knob_lists_every_other_value() -> None:
    schema = schema_of(RANGES + "F = 100  # range 1..1000 log\nG = 0.0  # range 0.0..0.5\n", one_knob=True)

    listed = listed_in(schema)
    assert listed == {
        "A": [2, 3, 4, 5, 6, 7, 8],
        "B": [0.1, 0.123, 0.152, 0.187, 0.231, 0.285, 0.351, 0.433, 0.534, 0.658, 0.811, 1.0],
        "C": [16, 32, 128],
        "D": ["y"],
        "F": [1, 2, 4, 7, 12, 23, 43, 81, 152, 285, 534, 1000],
        "G": [0.0455, 0.0909, 0.136, 0.182, 0.227, 0.273, 0.318, 0.364, 0.409, 0.455, 0.5],
    }


def test_schema_of_one_knob_leaves_out_what_leaves_the_model_as_it_is() -> None:
    shape = "DEPTH = 2  # range 1..3\nHEAD_DIM = 64  # range 32..128\nASPECT_RATIO = 48  # range 33..64\n"
    same = shape + 'WINDOW_PATTERN = "L"  # one of L SL LS\n'

    listed = listed_in(schema_of(same, one_knob=True))

    assert "ASPECT_RATIO" not in listed, "two heads with any of these"
    assert listed["WINDOW_PATTERN"] == ["SL"], "the last layer has the whole context in any case"


def test_schema_of_one_knob_leaves_out_closed_moves_and_knobs_without_any_other() -> None:
    closed = {("A", 2), ("A", 8), ("C", 32), ("D", "y"), ("E", 4)}

    listed = listed_in(schema_of(RANGES, one_knob=True, closed=closed))

    assert (listed["A"], listed["C"]) == ([3, 4, 5, 6, 7], [16, 128])
    assert "D" not in listed
    every = {(name, value) for name, values in other_values(RANGES).items() for value in values}
    assert schema_of(RANGES, one_knob=True, closed=every) is None


@pytest.mark.parametrize("source", ["", "E = 3\n", "def f(:"])
def test_source_without_a_range_has_no_schema(source: str) -> None:
    assert schema_of(source) is None


@pytest.mark.parametrize(
    "text",
    [
        move(DEPTH=4),
        f"```json\n{move(DEPTH=4)}\n```",
        f"Here it is:\n{move(DEPTH=4)}\nGood luck {{}}!",
        f"<think>{move(DEPTH=64)}</think>{move(DEPTH=4)}",
        json.dumps(json.loads(move(DEPTH=4)), indent=2),
        move(DEPTH=4).replace('"set"', '"SET"').replace('"title"', '"Title"'),
        move(DEPTH=4).replace("}}", '}, "why": null}'),
        move(DEPTH=4).replace('"DEPTH": 4', '"DEPTH": 4, "DEPTH": 4'),
    ],
)
def test_a_move_is_read_with_whatever_stands_around_it(text: str) -> None:
    assert read_reply(text) == Reply("Deeper", "More layers learn more.", (SetKnobs({"DEPTH": 4}),))
    assert formats_in(text) == (EditFormat.SET,)


@pytest.mark.parametrize("value", [2, -0.5, True, "L", (0.9, 0.95)])
def test_every_kind_of_value_is_a_knobs(value: KnobLiteral) -> None:
    assert read_reply(move(KNOB=value)).edits == (SetKnobs({"KNOB": value}),)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (move(DEPTH=4)[:-1], "was the answer cut off?"),
        (move(DEPTH=4)[:30], "was the answer cut off?"),
        (move(DEPTH=4).replace('"set"', "set"), "does not parse"),
        (move(), '"set" holds no knob'),
        ('{"title": "x", "hypothesis": "y", "set": [1]}', '"set" holds no knob'),
        ('{"title": "x", "hypothesis": "y"}', '"set" holds no knob'),
        (move(DEPTH=None), "DEPTH is not set to a number, a text or a list of them"),
        (move(DEPTH={"to": 4}), "DEPTH is not set to a number"),
        (move(DEPTH=[[1]]), "DEPTH is not set to a number"),
        (move(DEPTH="\ud800"), "DEPTH is not set to a number"),
        (move(DEPTH=4).replace("4", "NaN"), "NaN is no value"),
        (move(DEPTH=4).replace("4", "1e999"), "DEPTH is not set to a number"),
        (move(DEPTH=4).replace("4", "9" * 5000), "does not parse"),
        (move(**{"the depth": 4}), "'the depth' is not the name of a knob"),
        (move(DEPTH=4).replace("}}", ', "DEPTH": 5}}'), "DEPTH stands twice"),
        (move(DEPTH=4).replace('"Deeper"', "7"), '"title" is not a text'),
    ],
)
def test_a_move_that_is_none_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(Rejected) as rejection:
        read_reply(text)

    assert reason in str(rejection.value)


def test_edits_that_say_what_they_are_come_before_json_that_stands_beside_them() -> None:
    text = f"TITLE: a\nHYPOTHESIS: b\nSET DEPTH = 3\n{move(DEPTH=4)}"

    assert read_reply(text).edits == (SetKnobs({"DEPTH": 3}),)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from(["title", "hypothesis", "set"]), values),
    st.dictionaries(st.sampled_from(["DEPTH", "MATRIX_LR", "x y"]) | st.text(max_size=3), values, max_size=3),
    st.integers(0, 400),
)
def test_no_json_raises_anything_but_a_refusal(fields: dict[str, Any], knobs: dict[str, Any], length: int) -> None:
    with suppress(Rejected, BadLlmResponse):
        reply = read_reply(json.dumps({"title": "t", "hypothesis": "h", "set": knobs} | fields)[:length])
        proposal = Proposal(ProposerName.LLM, reply.title, reply.hypothesis, reply.edits)

        json.dumps(Proposal.from_json(proposal.to_json()).to_json(), allow_nan=False).encode()
        with suppress(EditError):
            apply_edits(SOURCE, reply.edits)
