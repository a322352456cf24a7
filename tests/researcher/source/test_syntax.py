"""Numbers worked out of a text: like Python, never large, never an error."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from researcher.source.syntax import worked_out

OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(0, 70))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 ** 16", 65536),
        ("1 << 16", 65536),
        ("7 // 2", 3),
        ("1 / 4", 0.25),
        ("1 / 0", None),
        ("2 ** 64", None),
        ("10 ** 400 / 3", None),
        ("1e300 * 1e300", None),
        ("7 % 2", None),
    ],
)
def test_numbers_are_worked_out_as_python_does_unless_they_are_large(text: str, expected: float | None) -> None:
    assert value(ast.parse(text, mode="eval").body) == expected


@given(NUMBERS, st.sampled_from(sorted(OPERATIONS, key=lambda kind: kind.__name__)), NUMBERS)
def test_what_is_worked_out_is_what_python_makes_of_it(left: float, kind: type[ast.operator], right: float) -> None:
    found = worked_out(left, kind(), right)

    assert found is None or (found == OPERATIONS[kind](left, right) and abs(found) < 2**64)


def value(node: ast.expr) -> float | None:
    """Of constants and one operation in another."""
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            first, second = value(left), value(right)
            return None if first is None or second is None else worked_out(first, op, second)
        case ast.Constant(value=int() | float() as number):
            return number
    return None
